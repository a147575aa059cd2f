"""A row of the table, and how its figures are taken: several times, in turn, as median and range."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPEATS = 3
ENOUGH_S = 150
"""No further repeat after so many seconds of one part: a busy or slow machine gets fewer, never a run without end."""


class CheckError(Exception):
    """Two ways that are to be compared do not give the same."""


class SkippedError(Exception):
    """A part cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Row:
    """One figure. `ratio` is of the medians; a goal is for the ratio where there is one, else for the median."""

    figure: str
    unit: str = ""
    values: tuple[float, ...] = ()
    """Empty: not measured, see the note."""
    against: str = ""
    """What the ratio is to."""
    base: tuple[float, ...] = ()
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def median(self) -> float | None:
        """Of the values."""
        return statistics.median(self.values) if self.values else None

    @property
    def ratio(self) -> float | None:
        """Median to median."""
        return self.median / statistics.median(self.base) if self.median is not None and self.base else None

    @property
    def goal(self) -> str:
        """DESIGN 8, as a word."""
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return f"≤ {self.at_most:g}" if self.at_most is not None else ""

    @property
    def holds(self) -> bool | None:
        """Whether the goal is reached; None without a goal or a figure."""
        found = self.median if self.ratio is None else self.ratio
        if found is None or not self.goal:
            return None
        return found >= self.at_least if self.at_least is not None else found <= (self.at_most or 0)

    def as_json(self) -> dict[str, object]:
        """Everything, values one by one."""
        return {
            "figure": self.figure, "unit": self.unit, "median": self.median, "values": list(self.values),
            "against": self.against, "base": list(self.base), "ratio": self.ratio,
            "goal": self.goal, "holds": self.holds, "note": self.note,
        }  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = ["| figure | median | range | against | ratio | goal | holds |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        against = f"{row.against} ({number(statistics.median(row.base))})" if row.base else row.against
        cells = (
            row.figure,
            f"{number(row.median)} {row.unit}".strip() if row.values else "skipped",
            f"{number(min(row.values))} to {number(max(row.values))}" if len(row.values) > 1 else "",
            against,
            "" if row.ratio is None else number(row.ratio),
            row.goal,
            {None: "", True: "yes", False: "no"}[row.holds],
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Three digits that mean something."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def interleaved(ways: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each way, one after the other, again and again: A B A B."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    begun = time.perf_counter()
    for repeat in range(repeats):
        if repeat and time.perf_counter() - begun > ENOUGH_S:
            break
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def rates(amount: float, seconds: Sequence[float]) -> tuple[float, ...]:
    """Amount a second, for each repeat."""
    return tuple(amount / s for s in seconds)


def peak_mb() -> float:
    """Most memory this process has held. `ru_maxrss` of a child starts at its parent's, so it is the second choice."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
