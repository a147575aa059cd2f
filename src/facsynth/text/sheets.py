"""Tables that a person edits in a spreadsheet: written so that no cell runs, read back with every mistake named."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

from facsynth.errors import InputError

FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
"""Cells that begin so are given a ' in front, lest a spreadsheet runs them (OWASP, CSV injection)."""

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
"""What other programs stumble over; tokens of corpora may hold it."""


@dataclass(frozen=True)
class Line:
    """One row of a table, by the names of its columns."""

    where: str
    """The file and the number of the row, as a spreadsheet counts them."""
    cells: Mapping[str, str]
    """All columns of the table; one without a name is called by its number."""

    def text(self, name: str) -> str:
        """A cell of free text, without the mark against formulas; empty where it is not there."""
        return shown(self.cells.get(name, ""))

    def match(self, name: str, pattern: str, wanted: str) -> str:
        """A cell that must be of some form, in small letters.

        Raises:
            InputError: it is not, naming row and column.
        """
        found = self.cells.get(name, "").strip().lower()
        if not re.fullmatch(pattern, found):
            told = f'{self.where}, {name}: found "{self.cells.get(name, "")[:80]}", wanted {wanted}'
            raise InputError(f"{told}\nMend the cell, or delete the row.")
        return found

    @overload
    def share(self, name: str) -> float: ...
    @overload
    def share(self, name: str, *, or_none: Literal[True]) -> float | None: ...
    def share(self, name: str, *, or_none: bool = False) -> float | None:
        """A cell that holds a number from 0 to 1, with a point or a comma; None where it is empty and may be.

        Raises:
            InputError: as `match`.
        """
        pattern = r"0*([01]([.,]0*)?|0[.,]\d*|\d([.,]\d*)?e-\d+)"
        found = self.match(name, f"({pattern})?" if or_none else pattern, "a number from 0 to 1 such as 0.01")
        return float(found.replace(",", ".")) if found else None


def sheet_text(columns: Sequence[str], rows: Iterable[Mapping[str, str]], texts: Sequence[str]) -> str:
    """A table as CSV, safe to open in a spreadsheet; `texts` are the columns of free text.

    It begins with a byte order mark, by which Excel knows it for UTF-8.
    """
    written = io.StringIO("\ufeff", newline="")
    written.seek(0, io.SEEK_END)
    table = csv.DictWriter(written, columns)
    table.writeheader()
    for row in rows:
        cells = {name: _UNPRINTABLE.sub("\ufffd", cell) for name, cell in row.items()}
        marked = {name: f"'{cells[name]}" for name in texts if cells[name].startswith(FORMULA)}
        table.writerow({**cells, **marked})
    return written.getvalue()


def read_sheet(path: Path, columns: Sequence[str], what: str) -> list[Line]:
    """Read a table back, edited or not; `what` is the word for such a file.

    Raises:
        InputError: no such file or table, or one without one of `columns`.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig", "surrogatepass")
    except FileNotFoundError as err:
        raise InputError(f"no {what} {path}\nRun the same command again: it is written anew.") from err
    except IsADirectoryError as err:
        raise InputError(f"{path} is a folder, not a {what}\nMove it away, and run the same command again.") from err
    except UnicodeDecodeError as err:
        raise InputError(f"{path} is not a {what}: {err}\nSave it as CSV in UTF-8.") from err
    table = _table(text, path, columns)
    header = [name.strip() for name in table[0]] if table else []
    missing = [name for name in columns if name not in header]
    if missing:
        raise InputError(
            f"{path} has no column {missing[0]}; found: {', '.join(header) or 'an empty file'}\n"
            f"Give the first row its names back, or move the file away: a new {what} is written then."
        )
    longest = max(map(len, table))
    names = [name or f"column_{n}" for n, name in enumerate([*header, *[""] * (longest - len(header))], start=1)]
    return [
        Line(f"{path}, row {number}", dict(zip(names, [*cells, *[""] * (longest - len(cells))], strict=True)))
        for number, cells in enumerate(table[1:], start=2)
        if any(cells)
    ]


def shown(cell: str) -> str:
    """A cell of free text, without the mark against formulas."""
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith(FORMULA) else cell


def _table(text: str, path: Path, columns: Sequence[str]) -> list[list[str]]:
    """All cells, by whichever mark a spreadsheet has set between them: in much of Europe it is no comma."""
    start = re.match(r"(?:[ \t]*\r?\n|sep=.\r?\n)*", text, re.I)
    text = text[start.end() :] if start else text  # some spreadsheets say so which mark they use
    first = text.splitlines()[:1]
    headers = {mark: next(csv.reader(first, delimiter=mark), []) for mark in ",;\t"}
    found = [mark for mark, names in headers.items() if set(columns) <= {name.strip() for name in names}]
    return _cells(text, path, found[0] if found else ",")


def _cells(text: str, path: Path, delimiter: str) -> list[list[str]]:
    """All cells; a quote that is never closed would take in the rows that follow."""
    reader, table = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter), []
    try:
        for cells in reader:
            table.append(cells)
    except csv.Error as err:
        reason, way_out = str(err), "Save it as CSV."
        if "field limit" in reason:
            reason = f"a cell has more than {csv.field_size_limit():,} characters"
            way_out = "Shorten it: a span is there to be read only."
        elif "unexpected end" in reason:
            reason, way_out = "a quote is never closed", "Close it, or take it out."
        raise InputError(f"{path}, row {len(table) + 1}: {reason}\n{way_out}") from err
    return table
