"""Tables to rows: csv and tsv, a line at a time. Before: `readers` opens the file.

A quote that is never closed takes in all lines that follow it: one row that cannot be read, told with their number.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from typing import BinaryIO, TextIO

from facsynth.errors import InputError
from facsynth.text.layouts import RawRow

MAX_CELL_CHARS = 10_000_000
"""Longest cell: an unclosed quote ends there instead of taking the rest of the file into memory."""
START_LINES = 8
"""So many lines of a row are remembered, to show what could not be read."""


def table(delimiter: str) -> Callable[[BinaryIO, str], Iterator[RawRow]]:
    """A reader of tables with this sign between cells."""

    def rows(handle: BinaryIO, name: str) -> Iterator[RawRow]:
        # Bytes that are not UTF-8 become lone surrogates here, which UTF-8 itself cannot hold.
        with io.TextIOWrapper(handle, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
            yield from _rows(text, delimiter, name)

    return rows


def _rows(text: TextIO, delimiter: str, name: str) -> Iterator[RawRow]:
    start: list[str] = []

    def lines() -> Iterator[str]:
        for line in text:
            if len(start) < START_LINES:
                start.append(line)
            yield line

    csv.field_size_limit(MAX_CELL_CHARS)
    found = csv.reader(lines(), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        start.clear()
        first = found.line_num + 1
        where = f"{name}, line {first}"
        try:
            cells = next(found)
        except StopIteration:
            return
        except csv.Error as err:
            reason = _reason(str(err), first, found.line_num)
            if header is None:
                raise InputError(f"{where} is not the header of a table: {reason}\nName the columns there.") from err
            yield RawRow(where, "".join(start), f"not a row of the table: {reason}")
            continue
        if not cells:
            continue
        if header is None:
            header = _header(cells, name)
        else:
            yield _row(where, header, cells)


def _reason(found: str, first: int, last: int) -> str:
    """What the row from line `first` to line `last` could not be read for, and what it took in."""
    took_in = f" and took in {last - first:,} {'line' if last - first == 1 else 'lines'}" if last > first else ""
    if found == "unexpected end of data":
        return f"the quote opened on line {first} is never closed{took_in}"
    if found.startswith("field larger") and not took_in:
        return f"a cell is longer than {MAX_CELL_CHARS:,} characters"
    if found.startswith("field larger"):
        return f"the quote opened on line {first} is not closed within {MAX_CELL_CHARS:,} characters{took_in}"
    return f"{found}; the quote before it was opened on line {first}{took_in}" if took_in else found


def _header(cells: list[str], name: str) -> list[str]:
    if not _is_utf8(cells):
        raise InputError(f"the header of {name} is not UTF-8\nSave the table as UTF-8.")
    if len(set(cells)) < len(cells):
        twice = sorted({cell for cell in cells if cells.count(cell) > 1})
        raise InputError(f"{name} has two columns of the name {twice[0]!r}\nName the columns of its first line apart.")
    return cells


def _is_utf8(cells: list[str]) -> bool:
    try:
        "".join(cells).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _row(where: str, header: list[str], cells: list[str]) -> RawRow:
    if not _is_utf8(cells):
        return RawRow(where, " ".join(cells), "not UTF-8")
    if len(cells) != len(header):
        return RawRow(where, " ".join(cells), f"{len(cells)} cells, the header has {len(header)}")
    return RawRow(where, dict(zip(header, cells, strict=True)))
