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
    figures_of,
    gather,
    judge_features,
    keep,
    opened_judge,
    score_explanations,
)
from facsynth.features.encode import FeatureSpace
from facsynth.features.encoded import Encoded
from facsynth.lock import locked
from facsynth.meaning.sheet import MODEL, SHEET, Note, read_notes
from facsynth.measure import Measured, candidates
from facsynth.pipeline import measure_run
from facsynth.planning import refresh_plan
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
    figures: dict[str, Any]
    """As in `meaning/summary.json`; `calls` that the questions take, where nothing was asked yet."""


def understand(
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
        IncompleteError: a cap kept questions from being asked; what was answered is kept.
    """
    if "judge" in questions and settings.task is None:
        raise SettingsError(f"judged by which task?\nName one (--task): {', '.join(task_names())}, or a file of yours.")
    check_endpoints(settings)
    check_no_bill(settings, dry_run)
    with locked(out):
        corpora = read_unless_known(settings, out, progress)
        open_run(settings, out, corpora)
        before, space, anchor, seed_set = measure_run(settings, out, cache, corpora, progress)
        ids = _chosen(features, before, anchor, space, settings)
        notes = read_notes(out / SHEET)
        material = gather(anchor, space, ids, before.thresholds, notes=notes, asking=settings.asking)
        if dry_run:
            return Understood([], _forecast(material, questions))
        with opened_judge(settings, out, space, progress) as judge:
            failures = _ask(material, questions, settings, judge)
        try:
            figures = keep(material, failures, out)
        finally:
            refresh_plan(before, anchor, seed_set, space, out, rng_seed=settings.rng_seed)
        asked = [material.notes[i] for i in ids]
        if "judge" in questions and features == "active" and open_background(settings, space) is not None:
            told = set(_chosen("contrast", before, anchor, space, settings))
            figures |= {"agreement": agreement(asked, told, settings.coverage.counts)}
    return Understood(asked, figures)


def agreement(notes: Sequence[Note], told: Collection[int], counts: Collection[str]) -> dict[str, Any]:
    """How far judge and contrast hold the same features relevant, over those that were judged.

    Returns:
        The four counts; the share on which both agree; and Cohen's kappa, 0 where that is no more than chance.
    """
    pairs = [(note.verdict in counts, note.feature_id in told) for note in notes if note.judged_by == MODEL]
    n, both = len(pairs), sum(a and b for a, b in pairs)
    by_judge, by_contrast = sum(a for a, _ in pairs), sum(b for _, b in pairs)
    share = (n - by_judge - by_contrast + 2 * both) / n if n else None
    chance = (by_judge * by_contrast + (n - by_judge) * (n - by_contrast)) / n**2 if n else 1.0
    kappa = None if share is None or chance == 1 else (share - chance) / (1 - chance)
    return {
        "both": both, "judge_alone": by_judge - both, "contrast_alone": by_contrast - both,
        "neither": n - by_judge - by_contrast + both, "share": share, "kappa": kappa,
    }  # fmt: skip


def _chosen(
    features: Features, before: Measured, anchor: Encoded, space: FeatureSpace, settings: RunSettings
) -> list[int]:
    """None of them never fires in the anchor."""
    if features == "planned":
        return [*before.coverage.missing.tolist(), *before.under.feature_ids.tolist()]
    if features == "targets":
        return [int(i) for i in before.targets.feature_ids]
    method: Any = "contrast+judge" if features == "contrast" else "judge"
    coverage = settings.coverage.model_copy(update={"relevance": method})
    background = open_background(settings, space)
    ids, _ = candidates(anchor.profile, background, settings.model_copy(update={"coverage": coverage}))
    return ids


def _forecast(material: Material, questions: Collection[Question]) -> dict[str, Any]:
    calls = {name: n for name, n in calls_of(material).items() if name in {"interpret", *questions}}
    return figures_of([material.notes[i] for i in material.drawn]) | {"calls": calls}


def _ask(
    material: Material, questions: Collection[Question], settings: RunSettings, judge: Writer
) -> dict[str, tuple[Failure, ...]]:
    failures = {"interpret": explain(material, judge)}
    if "score" in questions:
        failures["score"] = score_explanations(material, judge)
    if "judge" in questions and settings.task is not None:
        failures["judge"] = judge_features(material, load_task(settings.task), judge)
    return failures
