"""Figures with their intervals, group by group, as one SVG file that stands alone, in light and in dark.

Before: the table of an experiment. After: a browser, or a page of documents.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

WIDTH, RIGHT = 760, 70
LEFT, LETTER, LONGEST = 210, 8, 44
"""Room of labels at least, and by letter; of a longer label the end is left out."""
TITLE = 85
"""Letters of a line of the title."""
ROW, HEAD, TOP = 22, 34, 8
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1b1f24}.title{font-size:15px}.title,.group{font-weight:600}"
    ".note{fill:#59636e}.rule{stroke:#d1d9e0}"
    ".ink{stroke:#0b6bcb;stroke-width:2}.dot{fill:#0b6bcb}.base .ink{stroke:#59636e}.base .dot{fill:#59636e}"
    ".at{stroke:#59636e;stroke-dasharray:3 3}.back{fill:#fff}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.note{fill:#9198a1}.rule{stroke:#3d444d}"
    ".ink{stroke:#6cb6ff}.dot{fill:#6cb6ff}.base .ink{stroke:#9198a1}.base .dot{fill:#9198a1}.at{stroke:#9198a1}"
    ".back{fill:#0d1117}}"
)


class Dot(NamedTuple):
    """A figure."""

    label: str
    value: float
    low: float
    high: float
    told: str
    """What stands beside it."""
    is_base: bool = False
    """What the others of its group are compared with: a line stands at it."""


def whiskers(title: str, groups: Sequence[tuple[str, Sequence[Dot]]]) -> str:
    """A row a figure, under the heading of its group, all over one axis; "" for no figures.

    Args:
        title: above everything, and what a screen reader says.
        groups: heading and figures.
    """
    dots = [dot for _, found in groups for dot in found]
    if not dots:
        return ""
    ticks = _ticks(min(d.low for d in dots), max(d.high for d in dots))
    low, span = ticks[0], ticks[-1] - ticks[0]
    left = max(LEFT, 24 + LETTER * max(min(len(dot.label), LONGEST) for dot in dots))

    def at(value: float) -> float:
        return round(left + (WIDTH - left - RIGHT) * (value - low) / span, 1)

    lines = textwrap.wrap(title, TITLE)
    top = TOP + HEAD + 20 * (len(lines) - 1)
    y, parts = top, [_title_line(line, n) for n, line in enumerate(lines)]
    for heading, found in groups:
        parts.append(f'<text class="group" x="8" y="{y + 16}">{escape(heading)}</text>')
        y += HEAD - 6
        base = next((dot for dot in found if dot.is_base), None)
        if base is not None:
            x = at(base.value)
            parts.append(f'<line class="at" x1="{x}" x2="{x}" y1="{y - 4}" y2="{y + ROW * len(found)}"/>')
        for dot in found:
            parts.append(_dot(dot, y + ROW // 2, left, at))
            y += ROW
    axis = "".join(
        f'<line class="rule" x1="{at(t)}" x2="{at(t)}" y1="{top}" y2="{y + 4}"/>'
        f'<text class="note" x="{at(t)}" y="{y + 20}" text-anchor="middle">{t:g}</text>'
        for t in ticks
    )
    said = "; ".join(f"{dot.label} {dot.told}" for dot in dots)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 30}" width="{WIDTH}" height="{y + 30}" '
        f'role="img" aria-label="{escape(f"{title}: {said}")}"><style>{STYLE}</style>'
        f'<rect class="back" width="100%" height="100%"/>'
        f"{axis}{''.join(parts)}</svg>\n"
    )


def _title_line(line: str, n: int) -> str:
    return f'<text class="title" x="8" y="{TOP + 18 + 20 * n}">{escape(line)}</text>'


def _dot(dot: Dot, y: int, left: int, at: Callable[[float], float]) -> str:
    kind = ' class="base"' if dot.is_base else ""
    label = dot.label if len(dot.label) <= LONGEST else f"{dot.label[: LONGEST - 1]}…"
    return (
        f'<g{kind}><text x="{left - 12}" y="{y + 4}" text-anchor="end">{escape(label)}</text>'
        f'<line class="ink" x1="{at(dot.low)}" x2="{at(dot.high)}" y1="{y}" y2="{y}"/>'
        f'<circle class="dot" cx="{at(dot.value)}" cy="{y}" r="4"/>'
        f'<text class="note" x="{WIDTH - 8}" y="{y + 4}" text-anchor="end">{escape(dot.told)}</text></g>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers around a range, four to eight of them; of a single number a hundredth to both sides."""
    if high - low < 1e-6:
        low, high = low - 0.01, high + 0.01
    rough = (high - low) / 5
    step = next(s for s in (m * 10.0**e for e in range(-9, 9) for m in (1, 2, 5)) if s >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(n * step, 10) for n in range(first, max(last, first + 1) + 1)]
