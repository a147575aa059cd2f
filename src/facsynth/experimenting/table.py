"""The table of an experiment as Markdown, and its plot.

Before: `experimenting.experiment`. After: a person, or docs/RESULTS.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from statistics import fmean
from typing import Any

from facsynth.experimenting.settings import BY_FEATURES
from facsynth.names import n_of, p_of
from facsynth.report.whiskers import Dot, whiskers

HEADINGS = ("method", "samples", "mean", "95 %", "change", "95 %", "p")
WHY = dict.fromkeys((*BY_FEATURES, "pool"), "is anything missing? See cells/{}-*/report.html")
WHY |= dict.fromkeys(("real", "anchor"), "all its rows are in the seed set or tested with")
WHY_NOT_WRITTEN = "stop_reason and n_rejected in the manifests under cells/{}-* say why"


def groups(table: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Rows at the same budget, with its heading."""
    found = groupby(table.get("rows", []), key=lambda row: (row["axis"], row["budget"]))
    return [(_heading(*key), list(rows)) for key, rows in found]


def _heading(axis: str, budget: int) -> str:
    return f"{budget:,} samples" if axis == "samples" else f"as many written tokens as {budget:,} samples took"


def headings(table: Mapping[str, Any]) -> tuple[str, ...]:
    """Of its columns; samples with the label that is to be learnt are counted where a task has labels."""
    counts = any("n_positive" in row for row in table.get("rows", []))
    return (*HEADINGS[:2], "positive", *HEADINGS[2:]) if counts else HEADINGS


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A row as it is printed."""
    told = ("", "", "")
    if "difference" in row:
        low, high = row["difference_ci95"]
        told = (f"{row['difference']:+.3f}", f"{low:+.3f} to {high:+.3f}", p_of(row["p_holm"]))
    low, high = row["ci95"]
    n = (f"{fmean(row[key]):,.0f}" for key in ("n_samples", "n_positive") if key in row)
    return (row["method"], *n, f"{row['value']:.3f}", f"{low:.2f} to {high:.2f}", *told)


def markdown(table: Mapping[str, Any]) -> str:
    """All of it; where nothing can be compared, why."""
    if not table.get("is_measurable", True):
        found = table["measurable"]
        return (
            f"Not measured: the control rate of all {found['n_train']:,} training pairs, {found['value']:.3f} (95 %: "
            f"{found['ci95'][0]:.3f} to {found['ci95'][1]:.3f}), is not above its null, {found['null_limit']:.3f}. "
            "No method is compared.\n"
        )
    n_seeds = n_of(len(table["seeds"]), "seed")
    parts = [f"{table['metric']}, {n_seeds}; changes are to the method without one, p after Holm.\n"]
    names = headings(table)
    for heading, rows in groups(table):
        parts += [f"\n**{heading}**\n", _line(names), _line(["---"] * len(names))]
        parts += [_line(cells(row)) for row in rows]
    return "\n".join([*parts, *(f"\n{text}." for text in notes(table))]) + "\n"


def notes(table: Mapping[str, Any]) -> list[str]:
    """What is to be known of the whole table, in sentences without their full stop."""
    rows = [row for row in table.get("rows", []) if row["axis"] == "samples" and "difference" in row]
    empty = {row["method"]: row["kind"] for row in rows if not any(row["n_samples"]) and row["kind"] != "none"}
    told = [f"{name} has no samples: {WHY.get(kind, WHY_NOT_WRITTEN).format(name)}" for name, kind in empty.items()]
    told += [
        f"{n_of(n, 'row')} of {name} left out: they cannot be read" for name, n in table.get("n_skipped", {}).items()
    ]
    told += [
        f"{row['method']} at {row['budget']:,} is compared on the {row['n_items']:,} of {row['n_test']:,} test items "
        "that have a score in both"
        for row in rows
        if row["n_items"] < row["n_test"]
    ]
    found = table.get("ceiling")
    if found is None:
        return told
    low, high = found["ci95"]
    gain = f"{found['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
    return [
        *told,
        f"{found['n_samples']:,} of the anchor's own samples give {gain} over none"
        + (
            ""
            if found["is_above"]
            else ": no gain is shown for them; what is written for this anchor may show none either"
        ),
    ]


def _line(words: Sequence[str]) -> str:
    return f"| {' | '.join(word.replace('|', '/') for word in words)} |"


def _dot(row: Mapping[str, Any]) -> Dot:
    """The change, with an interval over pairs, and the figure beside it, whose own interval is far wider."""
    low, high = row.get("difference_ci95", (0.0, 0.0))
    return Dot(row["method"], row.get("difference", 0.0), low, high, f"{row['value']:.3f}", "difference" not in row)


def plot(table: Mapping[str, Any]) -> str:
    """Every change with its interval; "" where nothing was compared."""
    found = [(heading, [_dot(row) for row in rows]) for heading, rows in groups(table)]
    n_seeds = n_of(len(table.get("seeds", [])), "seed")
    first = next((row["method"] for row in table.get("rows", []) if "difference" not in row), "")
    title = (
        f"{table.get('metric')}, {n_seeds}: change to {first} with its 95 % interval; on the right the figure itself"
    )
    return whiskers(title, found) if found else ""
