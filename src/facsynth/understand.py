"""Explain, test and judge the features of a run folder: what the main path does not ask for by itself.

Before: a run folder in which coverage was measured. After: its sheet of features and its plan, which shows them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from facsynth.assemble import open_background
from facsynth.errors import SettingsError
from facsynth.explain import (
    Material,
    calls_of,
    explain,
    gather,
    judge_features,
    keep,
    opened_judge,
    score_explanations,
)
from facsynth.features.encode import FeatureSpace
from facsynth.features.encoded import Encoded
from facsynth.lock import locked
from facsynth.meaning.figures import agreement
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
    if "judge" in questions and settings.task is None:
        raise SettingsError(f"judged by which task?\nName one (--task): {', '.join(task_names())}, or a file of yours.")
    check_endpoints(settings)
    check_no_bill(settings, dry_run)
    with locked(out):
        corpora = read_unless_known(settings, out, progress)
        open_run(settings, out, corpora)
        before, space, anchor, seed_set = measure_run(settings, out, cache, corpora, progress)
        known = _Known(settings, out, before, space, anchor)
        ids = known.chosen(features)
        if dry_run:
            return Understood([], _forecast(known, questions, ids))
        material = known.material(sorted(ids))
        with opened_judge(settings, out, space, progress=progress) as judge:
            failures = _ask(material, questions, settings, judge)
        try:
            figures = keep(material, failures, out)
        finally:
            refresh_plan(before, anchor, seed_set, space, out, rng_seed=settings.rng_seed)
        asked = [material.notes[i] for i in ids]
        if "judge" in questions and features == "active" and known.has_background():
            figures |= {"agreement": agreement(asked, set(known.chosen("contrast")), settings.coverage.counts)}
    return Understood(asked, figures)


@dataclass(frozen=True)
class _Known:
    """A measured run folder."""

    settings: RunSettings
    out: Path
    before: Measured
    space: FeatureSpace
    anchor: Encoded

    def has_background(self) -> bool:
        return open_background(self.settings, self.space) is not None

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


def _forecast(known: _Known, questions: Collection[Question], ids: Sequence[int]) -> dict[str, Any]:
    """Calls that the questions take; where features are to be judged, those of every way to relevance too."""
    if "judge" not in questions:
        calls = calls_of(known.material(ids), ids)
        return {
            "n_features": len(ids),
            "calls": {n: calls[n] for n in ("interpret", "score") if n in {"interpret", *questions}},
        }
    active = known.chosen("active")
    material = known.material(active)
    told = known.chosen("contrast") if known.has_background() else None

    def of(feature_ids: Sequence[int]) -> dict[str, int]:
        calls = calls_of(material, feature_ids)
        return {name: calls[name] for name in ("interpret", "judge")}

    methods = {"all": 0, "judge": sum(of(active).values())}
    if told is not None:
        methods |= {"contrast": 0, "contrast+judge": sum(of(told).values())}
    return {"n_features": len(ids), "calls": of(ids), "calls_by_method": methods}


def _ask(
    material: Material, questions: Collection[Question], settings: RunSettings, judge: Writer
) -> dict[str, tuple[Failure, ...]]:
    failures = {"interpret": explain(material, judge)}
    if "score" in questions:
        failures["score"] = score_explanations(material, judge)
    if "judge" in questions and settings.task is not None:
        failures["judge"] = judge_features(material, load_task(settings.task), judge)
    return failures
