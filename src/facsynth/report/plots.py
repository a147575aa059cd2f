"""Data to SVG strings. Lengths along the bar are percentages, so a figure fits any width and its text keeps its size.

Colours are classes that the page's style sheet fills, so a figure follows light, dark and print.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

NONE = "–"
ROW_HEIGHT, ROW_WITHOUT_CAPTIONS = 78, 56
BAR_TOP, BAR_HEIGHT = 24, 18
TICKS = ((0, "start"), (25, "middle"), (50, "middle"), (75, "middle"), (100, "end"))
METER_END = 3.0
"""Where a meter ends, in thresholds."""


@dataclass(frozen=True)
class Bar:
    """One line of a bar chart: words and number above the bar, two captions below it."""

    label: str
    share: float
    """Its length, 0 to 1."""
    text: str
    """The number as printed."""
    left: str = ""
    right: str = ""
    base: float = 0.0
    """The part of `share` that was there before."""
    tone: Literal["gain", "base"] = "gain"
    """How the part beyond `base` is filled."""
    interval: tuple[float, float] | None = None
    ceiling: float | None = None


def percent(share: object) -> str:
    """One decimal and the sign, two digits below 0.1 %; a dash for what is no number."""
    value = number(share)
    if value is None:
        return NONE
    return f"{100 * value:.1f}\u00a0%" if value == 0 or abs(value) >= 0.001 else f"{100 * value:.2g}\u00a0%"


def points(share: object) -> str:
    """A difference of two shares, in percentage points, with its sign; a dash for what is no number."""
    value = number(share)
    return NONE if value is None else f"{100 * value:+.1f}".replace("-", "\u2212")


def count(value: object) -> str:
    """A whole number with separators; a dash for what is none."""
    found = number(value)
    return NONE if found is None else f"{found:,.0f}"


def number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def bars(title: str, rows: Sequence[Bar], *, axis: bool = True) -> str:
    """Horizontal bars from 0 to 1, one below the other; "" for no rows.

    Args:
        title: what a screen reader says.
        rows: top to bottom.
        axis: whether 0 to 100 % is drawn below.
    """
    if not rows:
        return ""
    row_height = ROW_HEIGHT if any(row.left or row.right for row in rows) else ROW_WITHOUT_CAPTIONS
    height = len(rows) * row_height + (16 if axis else -12)
    parts = [_bar(row, i * row_height) for i, row in enumerate(rows)]
    if axis:
        parts.append(_axis(len(rows) * row_height - 4))
    said = "; ".join(f"{row.label} {row.text}" for row in rows)
    return (
        f'<svg class="plot" width="100%" height="{height}" role="img" aria-label="{escape(f"{title}: {said}")}">'
        + "".join(parts)
        + "</svg>"
    )


def coverage_figure(before: Mapping[str, object], after: Mapping[str, object]) -> str:
    """Coverage of the seed set and, where it was measured, of the seed set with the accepted samples."""
    first, second = number(before.get("value")), number(after.get("value"))
    rows = []
    if first is not None:
        rows.append(_coverage_bar("Seed set", before, first, base=first))
    if second is not None:
        rows.append(_coverage_bar("Seed + accepted", after, second, base=min(first or 0.0, second)))
    ceiling, at_equal = number(before.get("ceiling")), number(before.get("at_equal_samples"))
    if ceiling is not None and at_equal is not None:
        of_half = f"of the {count(before.get('n_target_of_half'))} features that half of the anchor has"
        rows.append(
            Bar("Seed set at equal samples", at_equal, percent(at_equal), of_half, base=at_equal, ceiling=ceiling)
        )
    return bars("Coverage of the target features", rows)


def recovered_figure(summary: Mapping[str, object]) -> str:
    """Recovered of attempted above what plain prompts recover."""
    value = number(summary.get("recovered_of_attempted"))
    if value is None:
        return ""
    left = f"{count(summary.get('n_recovered'))} of {count(summary.get('n_attempted'))} attempted features"
    rows = [Bar("Recovered", value, percent(value), left)]
    for key, said in (
        ("recovered_chance", "plain prompts, as many accepted samples"),
        ("recovered_chance_tokens", "plain prompts, as many written tokens"),
    ):
        chance = number(summary.get(key))
        if chance is not None:
            rows.append(Bar("Chance level", chance, percent(chance), said, tone="base"))
    return bars("Recovered of attempted", rows)


def count_figure(title: str, counts: Mapping[str, object]) -> str:
    """How often each reason occurred, the most frequent first, bars relative to the sum."""
    known = {str(name): max(number(n) or 0.0, 0.0) for name, n in counts.items()}
    total = sum(known.values())
    ordered = sorted(known.items(), key=lambda item: (-item[1], item[0]))
    rows = [Bar(name, n / total, f"{count(n)} · {percent(n / total)}", tone="base") for name, n in ordered if n > 0]
    return bars(title, rows, axis=False)


def meter(activation: object, threshold: object) -> str:
    """A small bar: the activation in units of its threshold, which is the tick; "" where that has no meaning."""
    ratio = relative(activation, threshold)
    if ratio is None:
        return ""
    tone = "gain" if ratio > 1 else "bad"
    return (
        f'<svg class="meter" width="72" height="10" role="img" aria-label="{times(activation, threshold)}">'
        '<rect class="track" width="100%" height="6" y="2" rx="1"/>'
        f'<rect class="{tone}" width="{_at(ratio / METER_END)}" height="6" y="2" rx="1"/>'
        f'<line class="ink" x1="{_at(1 / METER_END)}" x2="{_at(1 / METER_END)}" y1="0" y2="10"/></svg>'
    )


def times(activation: object, threshold: object) -> str:
    """The activation in words, relative to its threshold where that is above 0."""
    ratio, value = relative(activation, threshold), number(activation)
    if ratio is None:
        return NONE if value is None else f"activation {value:.3g}"
    return f"{ratio:.2f}\u00a0× threshold"


def duration(seconds: object) -> str:
    """In hours, minutes and seconds, the two largest of them."""
    value = number(seconds)
    if value is None:
        return NONE
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def relative(activation: object, threshold: object) -> float | None:
    """The activation in thresholds; None where the threshold is 0 or either is unknown."""
    value, limit = number(activation), number(threshold)
    return None if value is None or not limit or limit < 0 else value / limit


def _coverage_bar(label: str, measured: Mapping[str, object], value: float, base: float) -> Bar:
    interval = measured.get("ci95")
    low, high = (number(end) for end in interval) if isinstance(interval, list) and len(interval) == 2 else (None, None)
    known = None if low is None or high is None else (low, high)
    return Bar(
        label,
        value,
        percent(value),
        left=f"{count(measured.get('n_covered'))} of {count(measured.get('n_target'))}",
        right=f"95\u00a0% interval {100 * known[0]:.1f} to {100 * known[1]:.1f}\u00a0%" if known else "no interval",
        base=base,
        interval=known,
    )


def _bar(row: Bar, top: int) -> str:
    y, bottom = top + BAR_TOP, top + BAR_TOP + BAR_HEIGHT
    middle = y + BAR_HEIGHT / 2
    parts = [
        f'<text x="0" y="{top + 16}">{escape(row.label)}<tspan class="figure" dx="8">{escape(row.text)}</tspan></text>',
        f'<rect class="track" width="100%" height="{BAR_HEIGHT}" y="{y}" rx="2"/>',
        f'<rect class="{row.tone}" width="{_at(row.share)}" height="{BAR_HEIGHT}" y="{y}" rx="2"/>',
    ]
    if row.base > 0:
        parts.append(f'<rect class="base" width="{_at(row.base)}" height="{BAR_HEIGHT}" y="{y}" rx="2"/>')
    if row.interval:
        low, high = _at(row.interval[0]), _at(row.interval[1])
        whisker = f'<line x1="{low}" x2="{high}" y1="{middle}" y2="{middle}"/>' + "".join(
            f'<line x1="{end}" x2="{end}" y1="{middle - 4}" y2="{middle + 4}"/>' for end in (low, high)
        )
        parts.append(f'<g class="halo">{whisker}</g><g class="ink">{whisker}</g>')
    if row.ceiling is not None:
        x = _at(row.ceiling)
        parts.append(f'<line class="ceiling" x1="{x}" x2="{x}" y1="{y - 4}" y2="{bottom + 4}"/>')
        parts.append(
            f'<text class="note" x="100%" y="{top + 16}" text-anchor="end">ceiling {percent(row.ceiling)}</text>'
        )
    for x, anchor, words in (("0", "start", row.left), ("100%", "end", row.right)):
        if words:
            parts.append(f'<text class="note" x="{x}" y="{bottom + 16}" text-anchor="{anchor}">{escape(words)}</text>')
    return "".join(parts)


def _axis(top: int) -> str:
    return f'<line class="rule" x1="0" x2="100%" y1="{top}" y2="{top}"/>' + "".join(
        f'<line class="rule" x1="{x}%" x2="{x}%" y1="{top - 4}" y2="{top}"/>'
        f'<text class="tick" x="{x}%" y="{top + 14}" text-anchor="{anchor}">{percent(x / 100)}</text>'.replace(".0", "")
        for x, anchor in TICKS
    )


def _at(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"
