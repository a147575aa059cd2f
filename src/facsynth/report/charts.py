"""Line charts as SVG strings: curves over samples, tokens and thresholds.

Lines lie in a box that is stretched to any width; what is written beside it keeps its size. Colours are classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from facsynth.report.plots import count, percent

HEIGHT = 220
N_TONES = 6
"""Of lines, in the style sheet; each with dashes of its own, so that they can be told apart without colour."""


class Line(NamedTuple):
    """A curve."""

    label: str
    points: Sequence[tuple[float, float]]
    """(x, share), x ascending."""
    tone: int = 0
    """Which colour and dashes."""
    value: float | None = None
    """The share that the legend gives; None: where the curve ends."""

    @property
    def said(self) -> str:
        """The share in the legend."""
        return percent(self.points[-1][1] if self.value is None else self.value)


def chart(
    title: str,
    lines: Sequence[Line],
    x_label: str,
    ticks: Sequence[tuple[float, str]],
    *,
    log: bool,
    mark: float | None = None,
) -> str:
    """Curves from 0 to 100 % over one axis, with a legend; "" where none has two points.

    Args:
        title: what a screen reader says.
        lines: the curves.
        x_label: under the axis.
        ticks: (x, text) on it.
        log: whether the axis is logarithmic; x is then above 0.
        mark: where on it a line stands upright, at which the legend's shares are read.
    """
    lines = [line for line in lines if len(line.points) > 1]
    if not lines:
        return ""
    scale = math.log if log else float
    xs = [scale(x) for line in lines for x, _ in line.points]
    low, span = min(xs), max(max(xs) - min(xs), 1e-9)

    def at(x: float) -> float:
        return 100 * (scale(x) - low) / span

    paths = "".join(
        f'<polyline class="line tone-{line.tone % N_TONES}" points="'
        + " ".join(f"{at(x):.2f},{100 * (1 - y):.2f}" for x, y in line.points)
        + '"/>'
        for line in lines
    )
    said = "; ".join(f"{line.label} {line.said}" for line in lines)
    upright = "" if mark is None else _upright(at(mark))
    return (
        f'<div class="chart"><svg class="plot" width="100%" height="{HEIGHT + 40}" role="img" '
        f'aria-label="{escape(f"{title}: {said}")}">{_grid()}{upright}'
        f'<svg width="100%" height="{HEIGHT}" viewBox="0 0 100 100" preserveAspectRatio="none">{paths}</svg>'
        f"{_ticks([(at(x), text) for x, text in ticks if low <= scale(x) <= low + span])}"
        f'<text class="note" x="50%" y="{HEIGHT + 34}" text-anchor="middle">{escape(x_label)}</text></svg></div>'
        f'<ul class="legend">{"".join(map(_named, lines))}</ul>'
    )


def powers(most: float) -> list[tuple[float, str]]:
    """Ticks of a logarithmic axis of counts that ends at `most`."""
    return [(10**k, count(10**k)) for k in range(int(math.log10(max(most, 1))) + 1)]


def _named(line: Line) -> str:
    return (
        f'<li><svg width="26" height="8"><line class="line tone-{line.tone % N_TONES}" x2="26" y1="4" y2="4"/></svg>'
        f"<bdi>{escape(line.label)}</bdi> <strong>{line.said}</strong></li>"
    )


def _grid() -> str:
    return "".join(
        f'<line class="rule" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
        f'<text class="tick" x="-8" y="{y + 4}" text-anchor="end">{100 - 100 * y // HEIGHT}\u00a0%</text>'
        for y in range(0, HEIGHT + 1, HEIGHT // 4)
    )


def _upright(x: float) -> str:
    return f'<line class="upright" x1="{x:.2f}%" x2="{x:.2f}%" y1="0" y2="{HEIGHT}"/>'


def _ticks(ticks: Sequence[tuple[float, str]]) -> str:
    return "".join(
        f'<line class="rule" x1="{x:.2f}%" x2="{x:.2f}%" y1="{HEIGHT}" y2="{HEIGHT + 5}"/>'
        f'<text class="tick" x="{x:.2f}%" y="{HEIGHT + 18}" text-anchor="middle">{escape(text)}</text>'
        for x, text in ticks
    )
