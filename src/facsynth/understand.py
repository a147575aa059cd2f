"""Explain, test and judge the features of a run folder: what the main path does not ask for by itself.

Before: a run folder in which coverage was measured. After: its sheet of features and its plan, which shows them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from facsynth.assemble import open_background
from facsynth.errors import InputError, MismatchError, SettingsError
from facsynth.explain import (
    Material,
    calls_of,
    explain,
    gather,
    judge_features,
    keep,
    score_explanations,
)
from facsynth.features.encode import FeatureSpace
from facsynth.features.encoded import Encoded
from facsynth.judging import check_task, forget_other_rubric, is_fixed, opened_judge, remember_rubric
from facsynth.lock import locked
from facsynth.meaning.figures import agreement
from facsynth.meaning.score import TOO_FEW
from facsynth.meaning.sheet import SHEET, Note, read_notes
from facsynth.measure import Measured, candidates
from facsynth.pipeline import measure_run
from facsynth.planning import features_to_fill, refresh_plan
from facsynth.protocols import Writer
from facsynth.records import Failure, Progress, no_progress
from facsynth.run_folder import open_run, read_unless_known
from facsynth.settings import RunSettings
from facsynth.tasks import load_task, task_names
from facsynth.writers import check_endpoints, check_no_bill

Question = Literal["interpret", "score", "judge"]
Features = Literal["planned", "targets", "contrast", "active"]
"""Which features are asked about: those of the plan, all targets, all that contrast tells, or all that are active."""


@dataclass(frozen=True)
class Understood:
    """What is known of some features."""

    notes: list[Note]
    """Those of the plan in its order."""
    figures: dict[str, Any]
    """As in `meaning/summary.json`, of the whole sheet; in a dry run the calls that the questions take."""
    n_unusable: int = 0
    """Answers of this call that could not be used."""


def understand_run(
    settings: RunSettings,
    out: Path,
    cache: Path,
    questions: Collection[Question],
    features: Features = "planned",
    *,
    dry_run: bool = False,
    progress: Progress = no_progress,
) -> Understood:
    """Ask about features, keep the answers in the sheet, and show them in a plan that nobody changed.

    Args:
        settings: of the run.
        out: its folder.
        cache: for converted models and hashes.
        questions: what is asked; whoever is scored or judged is explained first.
        features: about which.
        dry_run: count calls, and ask nothing.
        progress: told of every stage.

    Raises:
        SettingsError: features are to be judged, and the task is not known.
        IncompleteError: questions have no answer yet; what was answered is kept.
    """
    _check_asked(settings, questions)
    check_no_bill(settings, dry_run, is_judged=is_fixed(out))
    with locked(out):
        corpora = read_unless_known(settings, out, progress)
        open_run(settings, out, corpora)
        before, space, anchor, seed_set = measure_run(settings, out, cache, corpora, progress)
        known = _MeasuredRun(settings, out, before, space, anchor)
        known.check(features)
        ids, told = known.chosen(features), known.told() if "judge" in questions else None
        if dry_run:
            return Understood([], _forecast(known, questions, ids, told))
        material = known.material(sorted(ids))
        with opened_judge(settings, out, space, progress=progress) as judge:
            failures = _ask(material, questions, settings, judge, out)
        try:
            figures = keep(material, failures, out)
            if "judge" in questions:
                remember_rubric(settings, out)
        finally:
            refresh_plan(before, anchor, seed_set, space, out, settings=settings)
    asked, unusable = [material.notes[i] for i in ids], [row for found in failures.values() for row in found]
    if features == "active" and told is not None:
        figures |= {"agreement": agreement(asked, set(told), settings.coverage.counts)}
    return Understood(asked, figures, sum(not row.reason.startswith(TOO_FEW) for row in unusable))


def _check_asked(settings: RunSettings, questions: Collection[Question]) -> None:
    if "judge" in questions and settings.task is None:
        raise SettingsError(f"judged by which task?\nName one (--task): {', '.join(task_names())}, or a file of yours.")
    check_endpoints(settings)


@dataclass(frozen=True)
class _MeasuredRun:
    """A measured run folder."""

    settings: RunSettings
    out: Path
    before: Measured
    space: FeatureSpace
    anchor: Encoded

    def check(self, features: Features) -> None:
        """Refuse what needs a background without one."""
        if features == "contrast" and open_background(self.settings, self.space) is None:
            raise SettingsError(
                "what contrast tells needs a background, and this run has none\n"
                "Judge whatever is active: --method judge. Or measure in a new folder with coverage.background."
            )

    def told(self) -> list[int] | None:
        """What contrast tells; None where there is no background that it could be told from."""
        if open_background(self.settings, self.space) is None:
            return None
        try:
            return self.chosen("contrast")
        except (InputError, MismatchError):  # texts of other lengths, or of another space
            return None

    def chosen(self, features: Features) -> list[int]:
        """None of them never fires in the anchor."""
        if features == "planned":
            return features_to_fill(self.before, self.out)
        if features == "targets":
            return [int(i) for i in self.before.targets.feature_ids]
        method: Any = "contrast+judge" if features == "contrast" else "judge"
        coverage = self.settings.coverage.model_copy(update={"relevance": method})
        settings = self.settings.model_copy(update={"coverage": coverage})
        ids, _ = candidates(self.anchor.profile, open_background(self.settings, self.space), settings)
        return ids

    def material(self, feature_ids: Sequence[int]) -> Material:
        """What is shown of these."""
        return gather(
            self.anchor, self.space, feature_ids, self.before.thresholds,
            notes=read_notes(self.out / SHEET), asking=self.settings.asking,
        )  # fmt: skip


def _forecast(
    known: _MeasuredRun, questions: Collection[Question], ids: Sequence[int], told: Sequence[int] | None
) -> dict[str, Any]:
    """Calls that the questions take; where features are to be judged, those of every way to relevance too."""
    if "judge" not in questions:
        calls = calls_of(known.material(ids), ids, anew="interpret" in questions)
        return {
            "n_features": len(ids),
            "calls": {n: calls[n] for n in ("interpret", "score") if n in {"interpret", *questions}},
        }
    active = known.chosen("active")
    material = known.material(active)

    def of(feature_ids: Sequence[int]) -> dict[str, int]:
        calls = calls_of(material, feature_ids, anew=False)
        return {name: calls[name] for name in ("interpret", "judge")}

    methods = {"all": 0, "judge": sum(of(active).values())}
    if told is not None:
        methods |= {"contrast": 0, "contrast+judge": sum(of(told).values())}
    return {"n_features": len(ids), "calls": of(ids), "calls_by_method": methods}


def _ask(
    material: Material, questions: Collection[Question], settings: RunSettings, judge: Writer, out: Path
) -> dict[str, tuple[Failure, ...]]:
    if "judge" in questions and settings.task is not None:
        check_task(material.notes, load_task(settings.task))
    failures = {"interpret": explain(material, judge, anew="interpret" in questions)}
    if "score" in questions:
        failures["score"] = score_explanations(material, judge)
    if "judge" in questions and settings.task is not None:
        forget_other_rubric(material, load_task(settings.task), out)
        failures["judge"] = judge_features(material, load_task(settings.task), judge)
    return failures
