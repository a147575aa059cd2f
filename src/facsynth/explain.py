"""What features mean, how far that can be trusted, and whether the task needs them: the sheet of a run folder.

Before: `measure`'s parts, an encoded anchor and its thresholds. After: the plan, which shows it, and `measure` where
verdicts decide. Each answer is in the ledger once; what a person wrote into the sheet is never asked about.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from facsynth.bins import Floats
from facsynth.coverage.groups import CLOSE
from facsynth.errors import IncompleteError, InputError
from facsynth.features.draw import Drawn, draw
from facsynth.features.encode import FeatureSpace
from facsynth.features.encoded import Encoded
from facsynth.features.spans import best_spans
from facsynth.llm.budget import NOT_SENT
from facsynth.llm.endpoint_writer import is_passing
from facsynth.meaning.asking import AskingSettings
from facsynth.meaning.figures import figures_of
from facsynth.meaning.interpret import interpret
from facsynth.meaning.judge import judge
from facsynth.meaning.score import TOO_FEW, Trial, controls_of, is_enough, n_calls, score, trials_of
from facsynth.meaning.sheet import (
    HUMAN,
    MODEL,
    SCREEN,
    SHEET,
    UNJUDGED,
    UNSCORED,
    Note,
    spans_of,
    write_notes,
)
from facsynth.model.promoted import promoted_tokens
from facsynth.protocols import Writer
from facsynth.records import Failure, Span, Task
from facsynth.report.shapes import Shape, is_text, read_rows
from facsynth.screening import screen
from facsynth.store import write_json, write_jsonl

FAILED: Shape = dict.fromkeys(("asked", "where", "reason"), is_text)
EXPLAINED_SHARE = 2 / 3
"""Of a feature's spans, at most, that its explanation is made from; the rest is there to test it."""


@dataclass
class Material:
    """What is shown of some features, and what is known of all so far."""

    notes: dict[int, Note]
    """Filled in as answers come."""
    spans: Mapping[int, Sequence[Span]]
    """To explain each feature from."""
    best: Mapping[int, Sequence[Span]]
    drawn: Mapping[int, Drawn]
    directions: Mapping[int, npt.NDArray[np.float32]]
    """Decoder rows, each [d_model], of length 1."""
    asking: AskingSettings

    def unexplained(self, *, anew: bool) -> list[int]:
        """The features that a model is asked to explain: not screened out, and nobody did, or with `anew` no person."""
        notes = {i: self.notes[i] for i in self.drawn}
        return [
            i for i, note in notes.items() if not note.screened and note.explained_by in {"", MODEL if anew else ""}
        ]

    def unjudged(self) -> list[int]:
        """The features that no person has judged, but for those that are screened out and that nobody explained."""
        notes = {i: self.notes[i] for i in self.drawn if self.notes[i].judged_by != HUMAN}
        return [i for i, note in notes.items() if not note.screened or note.explained_by == HUMAN]

    def trials(self, feature: int) -> list[Trial]:
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

    Raises:
        InputError: a note of a feature that the anchor never fires.
    """
    _check_ids(notes, anchor)
    half, tokenizer = asking.n_texts // 2, space.backbone.tokenizer
    drawn = draw(
        anchor, tokenizer, feature_ids, thresholds,
        n_firing=asking.n_spans + half, n_silent=asking.n_texts - half, rng_seed=asking.rng_seed,
    )  # fmt: skip
    best = best_spans(anchor, tokenizer, feature_ids)
    known = screen(anchor, tokenizer, feature_ids, thresholds, asking.rng_seed)
    promoted = promoted_tokens(space.backbone, space.sae, feature_ids)
    filled = dict(notes)
    for i in drawn:
        cells: dict[str, Any] = {"screened": known[i].why_not, "fires_on": known[i].fires_on} | spans_of(best[i])
        filled[i] = replace(notes.get(i, Note(i)), promotes=", ".join(promoted.get(i, ())), **cells)
    n_shown = {i: min(asking.n_spans, round(len(rows.firing) * EXPLAINED_SHARE)) for i, rows in drawn.items()}
    spans = {i: rows.firing[: n_shown[i]] or tuple(best[i]) for i, rows in drawn.items()}
    decoder = space.sae.W_dec[list(feature_ids)].float().cpu().numpy()
    directions = decoder / np.maximum(np.linalg.norm(decoder, axis=1, keepdims=True), 1e-12)
    return Material(filled, spans, best, drawn, dict(zip(feature_ids, directions, strict=True)), asking)


def _check_ids(notes: Mapping[int, Note], anchor: Encoded) -> None:
    fires = anchor.profile.firing_tokens() > 0
    wrong = [i for i in notes if i >= len(fires) or not fires[i]]
    if wrong:
        raise InputError(
            f"{SHEET}, feature_id: no feature {wrong[0]} fires in the anchor\nMend the cell, or delete the row."
        )


def explain(material: Material, writer: Writer, *, anew: bool) -> tuple[Failure, ...]:
    """Explain what is not explained yet and not screened out; `anew` too what another model may have explained.

    Where there is no usable answer, what was known stays.
    """
    spans = {i: material.spans[i] for i in material.unexplained(anew=anew)}
    answers = interpret(spans, writer, material.asking)
    for i, text in answers.found.items():
        note = material.notes[i]
        if text != note.explanation:  # score and verdict are of an explanation
            note = replace(note, **UNSCORED | ({} if note.judged_by == HUMAN else UNJUDGED))
        material.notes[i] = replace(note, explanation=text, explained_by=MODEL)
    return answers.failures


def score_explanations(material: Material, writer: Writer) -> tuple[Failure, ...]:
    """Test every explanation that there is, a person's too. Where there is no usable answer, what was known stays."""
    texts = {i: material.notes[i].explanation for i in material.drawn if material.notes[i].explanation}

    def is_close(a: int, b: int) -> bool:
        return float(material.directions[a] @ material.directions[b]) >= CLOSE

    controls = controls_of(texts, is_close, material.asking.rng_seed)
    answers = score(texts, controls, {i: material.trials(i) for i in texts}, writer, material.asking)
    for i, found in answers.found.items():
        interval, control = found.explained.interval, found.control
        cells = {
            "score": found.explained.balanced_accuracy, "score_low": interval.low, "score_high": interval.high,
            "control": control.balanced_accuracy if control else None,
        }  # fmt: skip
        rounded: dict[str, Any] = {name: None if value is None else round(value, 4) for name, value in cells.items()}
        material.notes[i] = replace(material.notes[i], **rounded)
    return answers.failures


def judge_features(material: Material, task: Task, writer: Writer) -> tuple[Failure, ...]:
    """Judge what is explained and no person has judged; what is screened out is not asked about, and says why.

    Where there is no usable answer, what was known stays, but for verdicts of another task: a sheet is of one.
    """
    for i, note in material.notes.items():
        if note.judged_by != HUMAN and note.task != task.name:
            material.notes[i] = replace(note, **UNJUDGED)
    asked = material.unjudged()
    for i in material.drawn.keys() - set(asked):
        note = material.notes[i]
        if note.judged_by != HUMAN:
            material.notes[i] = replace(note, **_verdict("No", note.screened, SCREEN, task))
    texts = {i: material.notes[i].explanation for i in asked if material.notes[i].explanation}
    answers = judge(texts, material.best, task, writer, material.asking)
    for i, verdict in answers.found.items():
        material.notes[i] = replace(material.notes[i], **_verdict(verdict.label, verdict.reason, MODEL, task))
    return answers.failures


def keep(material: Material, failures: Mapping[str, Sequence[Failure]], out: Path) -> dict[str, Any]:
    """Write the sheet, what failed, and the figures; what the sheet holds besides stays.

    Args:
        material: with all notes.
        failures: by what was asked.
        out: the run folder.

    Returns:
        The figures, of all features of the sheet.

    Raises:
        IncompleteError: questions have no answer yet, and the same command could find one.
    """
    folder = out / SHEET.parent
    material.notes = write_notes(out / SHEET, material.notes.values())
    asked = {f"feature {i}" for i in material.drawn}
    rows = [
        row for row in read_rows(folder / "failures.jsonl", FAILED)
        if row["asked"] not in failures or row["where"] not in asked
    ]  # fmt: skip
    rows += [{"asked": what, **asdict(failure)} for what, found in failures.items() for failure in found]
    write_jsonl(folder / "failures.jsonl", rows)
    n_too_few = sum(row["reason"].startswith(TOO_FEW) for row in rows)
    figures = figures_of(list(material.notes.values()))
    figures |= {"n_failures": len(rows) - n_too_few, "n_too_few_texts": n_too_few}
    write_json(folder / "summary.json", figures)
    _check_all_asked([failure.reason for found in failures.values() for failure in found], out)
    return figures


def calls_of(material: Material, feature_ids: Collection[int], *, anew: bool) -> dict[str, int]:
    """Calls that each question about some features takes, where every answer is usable at once; those that the ledger
    answers are among them.
    """
    open_now = set(material.unexplained(anew=anew)) & set(feature_ids)
    explained = open_now | {i for i in feature_ids if material.notes[i].explanation}
    tested = [rows for rows in map(material.trials, explained) if is_enough(rows)]
    return {
        "interpret": len(open_now),
        "score": 2 * sum(n_calls(len(rows), material.asking) for rows in tested),
        "judge": len(explained & set(material.unjudged())),
    }


def _verdict(label: str, reason: str, judged_by: str, task: Task) -> dict[str, Any]:
    return {"verdict": label, "reason": reason, "judged_by": judged_by, "task": task.name}


def _check_all_asked(reasons: Sequence[str], out: Path) -> None:
    passing = [reason for reason in reasons if is_passing(reason)]
    if not passing:
        return
    unsent = [reason for reason in passing if reason.startswith(f"{NOT_SENT}:")]
    how_many = "1 question was" if len(unsent) == 1 else f"{len(unsent)} questions were"
    if unsent:
        raise IncompleteError(
            f"{how_many} not asked: {unsent[0].removeprefix(f'{NOT_SENT}: ')}\n"
            "What was answered is kept. For a higher cap, begin in a new folder, with copies of ledger.sqlite and of "
            "meaning, where it has corrections of yours."
        )
    raise IncompleteError(
        f"{len(passing)} questions have no answer yet: {passing[0]}\n"
        f"What was answered is kept, and the same command asks again. Or fill in by hand what is missing: {out / SHEET}"
    )
