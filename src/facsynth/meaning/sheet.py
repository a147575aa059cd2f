"""What is known of features, as a spreadsheet: `meaning/features.csv`. What a person changes in it stays.

Before: `interpret`, `score`, `judge`. After: `coverage.plan`, and `measure` where verdicts decide. Each row carries a
mark of the cells it was written with, so that a changed cell is known for one without another file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from facsynth.errors import InputError
from facsynth.records import Span
from facsynth.store import fingerprint, write_text
from facsynth.text.sheets import Line, read_sheet, sheet_text

SHEET = Path("meaning", "features.csv")
"""In a run folder."""
MODEL, HUMAN, SCREEN = "model", "human", "screen"
N_SPANS = 3
MARK = "mark"
"""Column of the mark; no cell for a person."""


@dataclass(frozen=True)
class Note:
    """One feature; strings are empty, and numbers None, as long as nothing is known."""

    feature_id: int
    explanation: str = ""
    explained_by: str = ""
    """model or human; model without an explanation: it could not tell."""
    score: float | None = None
    """Balanced accuracy of the explanation, 0.5 is chance."""
    score_low: float | None = None
    """95 % interval of the score, as is `score_high`."""
    score_high: float | None = None
    control: float | None = None
    """Balanced accuracy of another feature's explanation."""
    verdict: str = ""
    reason: str = ""
    judged_by: str = ""
    """model, human or screen."""
    task: str = ""
    """That the verdict is of."""
    screened: str = ""
    """Why nobody is asked about it."""
    fires_on: str = ""
    """The tokens that fire it most."""
    promotes: str = ""
    """The tokens that its direction makes likelier."""
    span_1: str = ""
    span_2: str = ""
    span_3: str = ""


COLUMNS = tuple(field.name for field in fields(Note))
_NUMBERS = ("score", "score_low", "score_high", "control")
_TEXTS = tuple(name for name in COLUMNS if name not in {"feature_id", *_NUMBERS})
UNSCORED: dict[str, Any] = dict.fromkeys(_NUMBERS)
UNJUDGED: dict[str, Any] = dict.fromkeys(("verdict", "reason", "judged_by", "task"), "")


def write_notes(path: Path, notes: Iterable[Note]) -> dict[int, Note]:
    """Write the sheet, by feature id. What a person changed in it since it was read wins, and their own columns stay.

    Returns:
        What the sheet holds now.

    Raises:
        InputError: as `read_notes`; nothing is written over what cannot be read.
    """
    edited, foreign = read_notes(path), _foreign(path)
    found = edited | {note.feature_id: _with_edits(note, edited.get(note.feature_id)) for note in notes}
    rows = []
    for note in sorted(found.values(), key=lambda note: note.feature_id):
        cells = {name: _cell(getattr(note, name)) for name in COLUMNS}
        rows.append({**dict.fromkeys(foreign.columns, ""), **foreign.cells.get(note.feature_id, {}), **cells})
        rows[-1][MARK] = _mark(note)
    write_text(path, sheet_text((*COLUMNS, *foreign.columns, MARK), rows, (*_TEXTS, *foreign.columns)))
    return found


def read_notes(path: Path) -> dict[int, Note]:
    """Read the sheet back; a changed explanation or verdict is a person's. Nothing where there is no file.

    Raises:
        InputError: a table that is none, or a cell that is not what its column holds, with row and column.
    """
    if not path.exists():
        return {}
    notes: dict[int, Note] = {}
    for line in _lines(path):
        note = _read_row(line)
        if note.feature_id in notes:
            raise InputError(f"{line.where}, feature_id: {note.feature_id} is there twice\nDelete one row.")
        notes[note.feature_id] = note
    return notes


class _Foreign(NamedTuple):
    """Columns that a person added."""

    columns: tuple[str, ...]
    cells: Mapping[int, Mapping[str, str]]
    """By feature id."""


def _foreign(path: Path) -> _Foreign:
    lines = _lines(path) if path.exists() else []
    columns = tuple(name for name in (lines[0].cells if lines else ()) if name not in {*COLUMNS, MARK})
    return _Foreign(columns, {_id_of(line): {name: line.text(name) for name in columns} for line in lines})


def _with_edits(note: Note, edited: Note | None) -> Note:
    """A note that was changed by this program, with what a person changed in the file."""
    if edited is None:
        return note
    if edited.explained_by == HUMAN and edited.explanation != note.explanation:
        note = replace(note, explanation=edited.explanation, explained_by=HUMAN, **UNSCORED, **UNJUDGED)
    if edited.judged_by == HUMAN:
        note = replace(note, verdict=edited.verdict, reason=edited.reason, judged_by=HUMAN)
    return note


def _lines(path: Path) -> list[Line]:
    return read_sheet(path, ("feature_id", "explanation", "verdict"), "sheet of features")


def _id_of(line: Line) -> int:
    return int(line.match("feature_id", r"\d{1,18}", "a whole number"))


def spans_of(spans: Sequence[Span]) -> dict[str, str]:
    """The cells of the best spans."""
    texts = [" ".join(span.context.split()) for span in spans[:N_SPANS]]
    return {f"span_{n}": text for n, text in enumerate(texts, start=1)}


def _read_row(line: Line) -> Note:
    values: dict[str, Any] = {name: " ".join(line.text(name).split()) for name in _TEXTS}
    values |= {name: line.share(name, or_none=True) for name in _NUMBERS if name in line.cells}
    verdict = line.match("verdict", "yes|probably|maybe|no|", "Yes, Probably, Maybe, No or nothing")
    values["verdict"] = verdict.capitalize()
    note = Note(_id_of(line), **values)
    if not line.cells.get(MARK) and (note.explained_by or note.judged_by):
        raise InputError(
            f"{line.where}, {MARK}: it is empty, and tells what a person changed\n"
            "Put it back as it was; or empty explained_by and judged_by too, and the row is yours."
        )
    written = line.cells.get(MARK, "")
    explanation, verdict_then, reason = [*written.split("-"), "", ""][:3] if written else ("", "", "")
    now = _mark(note).split("-")
    if [verdict_then, reason] != now[1:] and (note.verdict or written):
        untouched = reason == now[2]  # a machine's, of another verdict
        note = replace(note, judged_by=HUMAN if note.verdict else "", reason="" if untouched else note.reason)
    if explanation != now[0] and (note.explanation or written):
        by = HUMAN if note.explanation else ""
        note = replace(note, explained_by=by, **UNSCORED | ({} if note.judged_by == HUMAN else UNJUDGED))
    return note


def _mark(note: Note) -> str:
    """Letters in front, or a spreadsheet could take it for a number."""
    cells = {"e": note.explanation, "v": note.verdict, "r": note.reason}
    return "-".join(f"{letter}{fingerprint(cell)[:8]}" for letter, cell in cells.items())


def _cell(value: str | int | float | None) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())
