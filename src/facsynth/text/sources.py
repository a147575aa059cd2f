"""Where rows come from: a file of a known kind, stdin, or a data set of the Hub. After: `text.corpus` cuts them."""

from __future__ import annotations

import os
import re
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from facsynth.errors import InputError
from facsynth.text.layouts import RawRow
from facsynth.text.readers import read_rows, sniff, spool

KNOWN_ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
_HUB = re.compile(r"(?P<id>[\w.-]+(/[\w.-]+)?)(:(?P<config>[^@]+))?(@(?P<split>.+))?")


class Source(NamedTuple):
    """Rows that can be read again."""

    name: str
    rows: Callable[[], Iterator[RawRow]]
    licence: str | None = None


def open_source(source: str | Path) -> Source:
    """What a source names, see `corpus.read_corpus`.

    Raises:
        InputError: it is not there, or of no known kind.
    """
    name = str(source)
    if name == "-":
        return _stdin()
    if name.startswith("hf:"):
        return _hub(name)
    if not name:
        raise InputError(
            "the name of a file is empty\nName a file, - for stdin, or a data set on the Hub: hf:owner/name."
        )
    path = Path(os.path.expanduser(name))  # noqa: PTH111  (Path.expanduser raises where there is no such user)
    kind = _kind_of(path)
    if path.is_dir():
        raise InputError(f"{name} is a folder\nName the file in it (known: {', '.join(KNOWN_ENDINGS)}, also .gz).")
    if not path.exists():
        raise InputError(f"there is no file {name}\nA data set on the Hub is named hf:owner/name.")
    if kind is None:
        raise InputError(
            f"{name} has no known ending\nKnown: {', '.join(KNOWN_ENDINGS)}, each also with .gz. "
            "Pipe anything else to stdin (-): a json array, jsonl, or one text a line."
        )
    return Source(name, lambda: read_rows(path, kind, name))


def _kind_of(path: Path) -> str | None:
    ending = Path(path.name.lower().removesuffix(".gz")).suffix
    return ending.removeprefix(".") if ending in KNOWN_ENDINGS else None


def _stdin() -> Source:
    spooled = spool(sys.stdin.buffer, "stdin")

    def rows() -> Iterator[RawRow]:
        return read_rows(spooled, kind, "stdin")

    weakref.finalize(rows, spooled.unlink, missing_ok=True)  # gone with the corpus that holds `rows`
    kind = sniff(spooled, "stdin")
    return Source("stdin", rows)


def _hub(name: str) -> Source:
    parts = _HUB.fullmatch(name.removeprefix("hf:"))
    if parts is None:
        raise InputError(f"{name} is no data set id\nWrite hf:owner/name, hf:owner/name:config or hf:owner/name@split.")
    import datasets  # noqa: PLC0415  (seconds to load, needed for the Hub only)

    try:
        found = datasets.load_dataset(parts["id"], parts["config"], split=parts["split"] or "train")
    except Exception as err:  # whatever `datasets` raises: no such set, no network, no such config or split
        raise InputError(
            f"the data set {parts['id']} cannot be read\n  {type(err).__name__}: {err}\n"
            "Check id, config and split (hf:owner/name:config@split) and the network, or download it as a file."
        ) from err

    def rows() -> Iterator[RawRow]:
        for number, row in enumerate(found, start=1):
            yield RawRow(f"{name}, row {number}", row)

    return Source(name, rows, found.info.license or None)
