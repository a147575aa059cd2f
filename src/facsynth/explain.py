"""What features mean, how far that can be trusted, and whether the task needs them: the sheet of a run folder.

Before: `measure`'s parts, an encoded anchor and its thresholds. After: the plan, which shows it, and `measure` where
verdicts decide. Each answer is in the ledger once; what a person wrote into the sheet is never asked about.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from facsynth.bins import Floats
from facsynth.errors import IncompleteError
from facsynth.features.draw import Drawn, draw
from facsynth.features.encode import FeatureSpace
from facsynth.features.encoded import Encoded
from facsynth.features.spans import best_spans
from facsynth.llm import Ledger
from facsynth.llm.budget import NOT_SENT
from facsynth.meaning.asking import AskingSettings
from facsynth.meaning.free import firing_tokens, screened
from facsynth.meaning.interpret import interpret
from facsynth.meaning.judge import judge
from facsynth.meaning.score import FEWEST, n_calls, score, trials_of
from facsynth.meaning.sheet import HUMAN, MODEL, SHEET, Note, read_notes, spans_of, write_notes
from facsynth.measure import Judged, candidates
from facsynth.model.promoted import promoted_tokens
from facsynth.model.writer import LocalWriter
from facsynth.profile import Profile
from facsynth.protocols import Writer
from facsynth.records import Failure, Progress, Span, Task, no_progress
from facsynth.settings import RunSettings
from facsynth.store import write_json, write_jsonl
from facsynth.tasks import load_task
from facsynth.writers import opened_model

EXPLAINED_SHARE = 2 / 3
"""Of a feature's spans, at most, that its explanation is made from; the rest is there to test it."""


@dataclass(frozen=True)
class Material:
    """What is shown of features, and all that is known of them so far."""

    notes: dict[int, Note]
    spans: Mapping[int, Sequence[Span]]
    """To explain each feature from."""
    best: Mapping[int, Sequence[Span]]
    drawn: Mapping[int, Drawn]
    asking: AskingSettings

    def trials(self, feature: int) -> list[Any]:
        """Texts that had no part in its explanation."""
        found = self.drawn[feature]
        firing = found.firing[len(self.spans[feature]) :]
        return trials_of(firing, found.hard, found.easy, feature, self.asking)


def gather(
    anchor: Encoded, space: FeatureSpace, feature_ids: Sequence[int], thresholds: Floats, *, notes: Mapping[int, Note],
    asking: AskingSettings,
) -> Material:  # fmt: skip
    """Draw the texts of some features; nobody is asked.

    Args:
        anchor: whose texts are shown.
        space: of its model and SAE.
        feature_ids: all of which fire in the anchor.
        thresholds: [d_sae].
        notes: what is known of these and other features.
        asking: how many texts are drawn.
    """
    half, tokenizer = asking.n_texts // 2, space.backbone.tokenizer
    drawn = draw(
        anchor, tokenizer, feature_ids, thresholds,
        n_firing=asking.n_spans + half, n_silent=asking.n_texts - half, rng_seed=asking.rng_seed,
    )  # fmt: skip
    best = best_spans(anchor, tokenizer, feature_ids)
    promoted = promoted_tokens(space.backbone, space.sae, feature_ids)
    filled = dict(notes)
    for i in feature_ids:
        cells: dict[str, Any] = {"fires_on": firing_tokens(drawn[i].firing), "promotes": ", ".join(promoted.get(i, ()))}
        filled[i] = replace(notes.get(i, Note(i)), **cells | spans_of(best[i]))
    n_shown = {i: min(asking.n_spans, round(len(rows.firing) * EXPLAINED_SHARE)) for i, rows in drawn.items()}
    spans = {i: rows.firing[: n_shown[i]] or tuple(best[i]) for i, rows in drawn.items()}
    return Material(filled, spans, best, drawn, asking)


def explain(material: Material, writer: Writer) -> tuple[Failure, ...]:
    """Explain what no person has explained."""
    spans = {i: rows for i, rows in material.spans.items() if _is_open(material.notes[i])}
    answers = interpret(spans, writer, material.asking)
    for i in spans:
        note, text = material.notes[i], answers.found.get(i)
        if text != note.explanation:  # score and verdict are of an explanation
            note = replace(note, score=None, control=None)
            note = note if note.judged_by == HUMAN else replace(note, verdict="", reason="", judged_by="")
        material.notes[i] = replace(note, explanation=text or "", explained_by="" if text is None else MODEL)
    return answers.failures


def score_explanations(material: Material, writer: Writer) -> tuple[Failure, ...]:
    """Test every explanation that there is, a person's too."""
    texts = {i: material.notes[i].explanation for i in material.drawn if material.notes[i].explanation}
    answers = score(texts, {i: material.trials(i) for i in texts}, writer, material.asking)
    for i, found in answers.found.items():
        control = None if found.control is None else found.control.balanced_accuracy
        material.notes[i] = replace(material.notes[i], score=found.explained.balanced_accuracy, control=control)
    return answers.failures


def judge_features(material: Material, task: Task, writer: Writer) -> tuple[Failure, ...]:
    """Judge what is explained and no person has judged; what is screened out is not asked about, and says why."""
    texts = {}
    for i, rows in material.drawn.items():
        note, why = material.notes[i], screened(rows.firing, rows.distinct_share)
        if note.judged_by == HUMAN:
            continue
        note = material.notes[i] = replace(note, verdict="", reason="", judged_by="")  # it may be of another task
        if why:
            material.notes[i] = replace(note, verdict="No", reason=why, judged_by="screen")
        elif note.explanation:
            texts[i] = note.explanation
    answers = judge(texts, material.best, task, writer, material.asking)
    for i, verdict in answers.found.items():
        note = material.notes[i]
        material.notes[i] = replace(note, verdict=verdict.label, reason=verdict.reason, judged_by=MODEL)
    return answers.failures


def keep(material: Material, failures: Mapping[str, Sequence[Failure]], out: Path) -> dict[str, Any]:
    """Write the sheet, what failed, and the figures.

    Args:
        material: with all notes.
        failures: by what was asked.
        out: the run folder.

    Raises:
        IncompleteError: a cap kept questions from being asked.
    """
    folder = out / SHEET.parent
    folder.mkdir(parents=True, exist_ok=True)
    write_notes(out / SHEET, material.notes.values())
    rows = [{"asked": asked, **asdict(failure)} for asked, found in failures.items() for failure in found]
    write_jsonl(folder / "failures.jsonl", rows)
    figures = figures_of([material.notes[i] for i in material.drawn]) | {"n_failures": len(rows)}
    write_json(folder / "summary.json", figures)
    unasked = [row for row in rows if row["reason"].startswith(f"{NOT_SENT}:")]
    if unasked:
        raise IncompleteError(
            f"{len(unasked)} questions were not asked: {unasked[0]['reason'].removeprefix(f'{NOT_SENT}: ')}\n"
            "What was answered is kept. For a higher cap, begin in a new folder, with a copy of ledger.sqlite in it."
        )
    return figures


def figures_of(notes: Sequence[Note]) -> dict[str, Any]:
    """How many features are explained, and how far their explanations can be trusted."""
    scored = [note for note in notes if note.score is not None]
    beside = [(note.score, note.control) for note in scored if note.score is not None and note.control is not None]
    labels = [note.verdict for note in notes if note.verdict]
    return {
        "n_features": len(notes),
        "n_explained": sum(bool(note.explanation) for note in notes),
        "n_cannot_tell": sum(note.explained_by == MODEL and not note.explanation for note in notes),
        "n_human": sum(HUMAN in {note.explained_by, note.judged_by} for note in notes),
        "n_scored": len(scored),
        "score": mean(note.score for note in scored if note.score is not None) if scored else None,
        "control": mean(control for _, control in beside) if beside else None,
        "beats_control": mean(a > b for a, b in beside) if beside else None,
        "ties_control": mean(a == b for a, b in beside) if beside else None,
        "verdicts": {label: labels.count(label) for label in ("Yes", "Probably", "Maybe", "No")},
    }


def calls_of(material: Material) -> dict[str, int]:
    """Calls that each question takes, where every answer is usable at once; the ledger's are among them."""
    n_open = sum(_is_open(material.notes[i]) for i in material.spans)
    trials = [material.trials(i) for i in material.drawn]
    tested = [len(rows) for rows in trials if sum(t.fires for t in rows) >= FEWEST]
    judged = [
        i for i, rows in material.drawn.items()
        if material.notes[i].judged_by != HUMAN and not screened(rows.firing, rows.distinct_share)
    ]  # fmt: skip
    return {
        "interpret": n_open,
        "score": 2 * sum(n_calls(n, material.asking) for n in tested),
        "judge": len(judged),
    }


def judged_features(
    settings: RunSettings,
    out: Path,
    space: FeatureSpace,
    anchor: Encoded,
    background: Profile | None,
    *,
    progress: Progress = no_progress,
) -> Judged:
    """Explain and judge whatever could be a target, and keep it in the sheet.

    Raises:
        IncompleteError: a cap kept features from being judged.
    """
    assert settings.task is not None, "the settings see to it"
    ids, thresholds = candidates(anchor.profile, background, settings)
    material = gather(anchor, space, ids, thresholds, notes=read_notes(out / SHEET), asking=settings.asking)
    with opened_judge(settings, out, space, progress) as writer:
        failures = {"interpret": explain(material, writer)}
        failures["judge"] = judge_features(material, load_task(settings.task), writer)
    keep(material, failures, out)
    counted = [i for i in ids if material.notes[i].verdict in settings.coverage.counts]
    return Judged(np.array(sorted(counted), np.int64), sum(not material.notes[i].verdict for i in ids))


@contextmanager
def opened_judge(
    settings: RunSettings, out: Path, space: FeatureSpace, progress: Progress = no_progress
) -> Iterator[Writer]:
    """Whoever explains and judges features in a run folder, through its ledger."""

    def local() -> Writer:
        return LocalWriter(space.backbone, space.template.prompt_ids, {}, batch_size=settings.judge.batch_size)

    with (
        Ledger.open(out / "ledger.sqlite") as ledger,
        opened_model(settings, "judge", ledger, local, progress=progress) as writer,
    ):
        yield writer


def _is_open(note: Note) -> bool:
    return note.explained_by != HUMAN
