"""What a person sees: results on stdout; progress, notes and errors on stderr; secrets and caches from outside."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import typer

from facsynth.errors import StorageError
from facsynth.records import Progress

Panel = Mapping[str, Callable[..., None] | typer.Typer]
"""Commands by name; a Typer is a group of them."""
FIGURE = re.compile(r"[-+≈]?\s?[\d.,]+( %| points)?|–|not measured")
WHOLE = re.compile(rf"({FIGURE.pattern})?|[-+\d.]+(-| to )[-+\d.]+")
"""Figures and intervals: never broken."""
SHORT = 18
"""Characters of a cell that stay on a line."""
LEAST = 8
"""Characters of any column, where it has as many."""
MARGIN = 3
"""Columns around a cell."""
LINE_EVERY_S, REPEAT_S = 5.0, 60.0
"""Without a terminal: a plain line at most so often, and one when a step begins or ends."""


def cache_folder() -> Path:
    """`FACSYNTH_CACHE`, else `facsynth` in the user's cache folder.

    Raises:
        StorageError: it cannot be made or written.
    """
    own = os.environ.get("FACSYNTH_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(own) if own else Path(base) / "facsynth"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as err:
        raise StorageError(
            f"the cache folder {folder} cannot be written: {err.strerror}\n"
            "Name another one, for converted models, hashes and unnamed runs: export FACSYNTH_CACHE=FOLDER"
        ) from err


@dataclass(frozen=True)
class Shown:
    """Progress that a person sees; a `Progress`."""

    show: Progress
    aside: Callable[[], AbstractContextManager[None]] = nullcontext
    """While it lasts no bar is drawn: results can be printed."""

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """Show a step."""
        self.show(what, done, total)


@contextmanager
def shown_progress() -> Iterator[Shown]:
    """A bar on a terminal, plain lines elsewhere. What takes seconds to import belongs inside."""
    with _bar() if sys.stderr.isatty() else nullcontext(Shown(_lines())) as progress:
        progress("starting", 0, None)
        yield progress


@contextmanager
def _bar() -> Iterator[Shown]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int | None) -> None:
            what = printable(what)
            key = what.partition(":")[0]
            if key not in tasks:
                for task in bar.tasks:
                    bar.update(task.id, visible=task.total is not None)  # of unknown length: ends as the next begins
                tasks[key] = bar.add_task(what, total=total)
            bar.update(tasks[key], description=what, completed=done, total=total)

        @contextmanager
        def aside() -> Iterator[None]:
            bar.stop()
            yield
            bar.start()

        yield Shown(show, aside)


def _lines() -> Progress:
    last: dict[str, tuple[float, int]] = {}

    def show(what: str, done: int, total: int | None) -> None:
        key, now = what.partition(":")[0], time.monotonic()
        again = REPEAT_S if done == 0 else float("inf")  # what waits says so from time to time
        if key in last and now - last[key][0] < (again if done == last[key][1] else LINE_EVERY_S * (done != total)):
            return
        last[key] = now, done
        count = f" {done}/{total}" if total else f" {done}" if done else ""
        print(f"{printable(what)}{count}", file=sys.stderr, flush=True)

    return show


def note(text: str) -> None:
    """For people, on stderr. What it quotes may come from a corpus: only its line breaks are obeyed."""
    print("\n".join(printable(line) for line in text.split("\n")), file=sys.stderr)


def print_json(value: Any) -> None:
    """The result, for programs. Letters of any script stay readable; signs that steer a terminal are escaped."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    print("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The result, for people, in the width of the terminal, or in 80 columns; texts of corpora are never markup.

    Figures stand right in their column, and what is short is neither broken nor cropped: where it needs more than 80
    columns it gets them, but for a terminal, in which words are broken instead. No column is narrower than `LEAST`:
    of a terminal that is too narrow for that, lines go on below.
    """
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns = [*zip(header, zip(*rows, strict=True) if rows else repeat(()), strict=False)]
    needed = 1 + sum(min(max(map(len, (name, *cells))), SHORT) + MARGIN for name, cells in columns)
    console = Console(soft_wrap=False, width=None if sys.stdout.isatty() else max(80, needed))
    table, least = Table(box=SIMPLE, show_header=any(header)), 1
    for name, cells in columns:
        is_whole = all(map(WHOLE.fullmatch, cells) if needed > console.width else (len(c) <= SHORT for c in cells))
        is_figure, longest = all(map(FIGURE.fullmatch, cells)), max(map(len, (name, *cells)))
        least += MARGIN + (longest if is_whole else min(longest, LEAST))
        table.add_column(
            Text(printable(name)),
            overflow="fold",
            no_wrap=is_whole,
            justify="right" if is_figure else "left",
            min_width=min(longest, LEAST),
        )
    console.width = max(console.width, least)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    with console.capture() as captured:  # printed by Python: of a pipe that nobody reads on, rich makes an exit with 1
        console.print(Text(printable(title)), soft_wrap=True)  # as the table's title it would be broken
        console.print(table)
    print(captured.get(), end="")


def printable(text: str) -> str:
    """Control characters would move the cursor: they are shown as signs."""
    return "".join(c if c.isprintable() else "⏎" if c == "\n" else "\ufffd" for c in text)


def tail(text: str, n: int) -> str:
    """At most the last `n` characters, from where a word begins."""
    if len(text) <= n:
        return text
    _, _, words = text[-n:].partition(" ")
    return f"…{words or text[-n:]}"


def percent(share: float | None) -> str:
    """A share for people; nothing measured is said as such."""
    return "not measured" if share is None else f"{100 * share:.1f} %"
