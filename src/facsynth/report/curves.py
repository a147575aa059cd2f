"""The line charts of a run: coverage over tokens, samples and thresholds, and what writing closed over its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

from facsynth.report.charts import Line, chart, powers
from facsynth.report.read import RunFiles

SEED, FILLED, CEILING, ACCEPTED = 0, 1, 3, 4
"""Tones."""
MOST_STEPS = 4
"""Of an axis of tokens, so that its numbers stay apart where it is narrow."""


def figures(files: RunFiles) -> dict[str, str]:
    """SVG by name; "" for what was not measured."""
    return {
        "tokens": _over(files, "tokens", "content tokens"),
        "samples": _over(files, "samples", "samples"),
        "thresholds": _over_thresholds(files),
        "progress": _progress(files.summary),
    }


def _over(files: RunFiles, axis: str, label: str) -> str:
    sets = (
        ("seed set", files.curves.get("seed"), SEED),
        ("seed + accepted", files.curves_after.get("filled"), FILLED),
        ("half of the anchor, on the features of the other", files.curves.get("ceiling"), CEILING),
    )
    lines = [Line(name, curve[axis], tone) for name, curve, tone in sets if curve]
    most = max((line.points[-1][0] for line in lines if line.points), default=1)
    return chart(f"Coverage over {label}", lines, label, powers(most), log=True)


def _over_thresholds(files: RunFiles) -> str:
    rows, asked = files.curves.get("thresholds", []), files.before.get("threshold")
    names = [row["threshold"] for row in rows]
    mark = names.index(asked) if asked in names else None
    after = files.curves_after.get("thresholds", [])
    lines = [
        Line(name, [(n, row["value"]) for n, row in enumerate(found)], tone, measured.get("value"))
        for name, found, tone, measured in (
            ("seed set", rows, SEED, files.before), ("seed + accepted", after, FILLED, files.after),
        )
    ]  # fmt: skip
    return chart("Coverage over thresholds", lines, "threshold", [*enumerate(names)], log=False, mark=mark)


def _progress(summary: Mapping[str, Any]) -> str:
    """Attempted features that have all they want, and the share of candidates that were accepted, as they came."""
    points = summary.get("progress") or []
    n = summary.get("n_attempted")
    if not n or not points or not points[-1][0]:
        return ""
    most = points[-1][0]
    step = next(part * 10**k for k in count() for part in (1, 2, 5) if part * 10**k * MOST_STEPS >= most)
    ticks = [(x, f"{x:,}") for x in range(0, int(most) + 1, step)]
    lines = [
        Line("features that have all they want", [(tokens, done / n) for tokens, done, *_ in points], FILLED),
        Line("candidates accepted so far", [(tokens, k / asked) for tokens, _, asked, k in points if asked], ACCEPTED),
    ]
    return chart("Written tokens: features closed, candidates accepted", lines, "written tokens", ticks, log=False)
