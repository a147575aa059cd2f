"""What is known of features, as a spreadsheet: `meaning/features.csv`. What a person changes in it stays.

Before: `interpret`, `score`, `judge`. After: `coverage.plan`, and `measure` where verdicts decide. Each row carries a
mark of the cells it was written with, so that a changed cell is known for one without another file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from facsynth.errors import InputError
from facsynth.records import Span
from facsynth.store import fingerprint
from facsynth.text.sheets import Line, read_sheet, write_sheet

SHEET = Path("meaning", "features.csv")
"""In a run folder."""
MODEL, HUMAN = "model", "human"
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
    control: float | None = None
    """That of another feature's explanation."""
    verdict: str = ""
    reason: str = ""
    judged_by: str = ""
    fires_on: str = ""
    """The tokens that fire it most."""
    promotes: str = ""
    """The tokens that its direction makes likelier."""
    span_1: str = ""
    span_2: str = ""
    span_3: str = ""


COLUMNS = tuple(field.name for field in fields(Note))
_TEXTS = tuple(name for name in COLUMNS if name not in {"feature_id", "score", "control"})


def write_notes(path: Path, notes: Iterable[Note]) -> None:
    """Write the sheet, by feature id."""
    rows = []
    for note in sorted(notes, key=lambda note: note.feature_id):
        cells = {name: _cell(getattr(note, name)) for name in COLUMNS}
        rows.append({**cells, MARK: _mark(note)})
    write_sheet(path, (*COLUMNS, MARK), rows, _TEXTS)


def read_notes(path: Path) -> dict[int, Note]:
    """Read the sheet back; a changed explanation or verdict is a person's. Nothing where there is no file.

    Raises:
        InputError: a table that is none, or a cell that is not what its column holds, with row and column.
    """
    if not path.exists():
        return {}
    notes: dict[int, Note] = {}
    for line in read_sheet(path, ("feature_id", "explanation", "verdict"), "sheet of features"):
        note = _read_row(line)
        if note.feature_id in notes:
            raise InputError(f"{line.where}, feature_id: {note.feature_id} is there twice\nDelete one row.")
        notes[note.feature_id] = note
    return notes


def spans_of(spans: Sequence[Span]) -> dict[str, str]:
    """The cells of the best spans."""
    texts = [" ".join(span.context.split()) for span in spans[:N_SPANS]]
    return {f"span_{n}": text for n, text in enumerate(texts, start=1)}


def _read_row(line: Line) -> Note:
    share = r"(\d+(\.\d*)?(e-?\d+)?)?"
    values: dict[str, Any] = {name: " ".join(line.text(name).split()) for name in _TEXTS}
    for name in ("score", "control"):
        number = line.match(name, share, "a share such as 0.8, or nothing")
        values[name] = float(number) if number else None
    verdict = line.match("verdict", "yes|probably|maybe|no|", "Yes, Probably, Maybe, No or nothing")
    values["verdict"] = verdict.capitalize()
    note = Note(int(line.match("feature_id", r"\d{1,18}", "a whole number")), **values)
    explained, _, judged = line.cells.get(MARK, "").partition("-")
    if explained != _mark(note).split("-")[0] and (note.explanation or explained):
        note = replace(note, explained_by=HUMAN, score=None, control=None)
    if judged != _mark(note).split("-")[1] and (note.verdict or judged):
        note = replace(note, judged_by=HUMAN if note.verdict else "")
    return note


def _mark(note: Note) -> str:
    """Letters in front, or a spreadsheet could take it for a number."""
    return f"e{fingerprint(note.explanation)[:8]}-v{fingerprint([note.verdict, note.reason])[:8]}"


def _cell(value: str | int | float | None) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())
