"""The report of a comparison, from `comparison.json` alone: which set covers more, and by what."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from facsynth.report.charts import Line, chart, powers
from facsynth.report.features import MOST_ROWS
from facsynth.report.page import write_page
from facsynth.report.plots import points
from facsynth.report.shapes import COMPARISON, read_object
from facsynth.report.words import meanings

RECORD = "comparison.json"


def build_comparison(folder: Path) -> Path:
    """Write `report.html` into the folder of a comparison, and return its path.

    Raises:
        InputError: it holds none, or a damaged one.
    """
    record = read_object(folder / RECORD, COMPARISON)
    sets, pairs = record["sets"], record["pairs"]
    context = {
        "title": folder.resolve().name, "record": record, "sets": sets, "pairs": pairs,
        "meanings": meanings(record),
        "headlines": [headline(pair) for pair in pairs],
        "by_tokens": Markup(_curves(record, "tokens", "content tokens")),
        "by_samples": Markup(_curves(record, "samples", "samples")),
        "by_threshold": Markup(_over_thresholds(record)),
        "n_more": [sum(found["log_odds"] < 0 for found in pair["differences"]) for pair in pairs],
        "n_without": sum(found["span"] is None for pair in pairs for found in pair["differences"]),
        "n_left_out": sum(max(0, len(pair["differences"]) - MOST_ROWS // len(pairs)) for pair in pairs),
    }  # fmt: skip
    return write_page(folder / "report.html", "comparison.html", context, table_of(pairs))


def headline(pair: Mapping[str, Any]) -> Markup:
    """What the figures at equal tokens say, in a sentence; a name is apart, so that it turns no other word around."""
    found, names = pair["at_equal_tokens"], (pair["other"], pair["first"])
    if found["value"] is None:
        said = Markup(
            "<bdi>{}</bdi> and <bdi>{}</bdi> cannot be compared: the smallest set has fewer tokens than a sample."
        )
        return said.format(*names)
    if found["ci95"] is None:
        return Markup("<bdi>{}</bdi> and <bdi>{}</bdi>: too few samples to say which covers more.").format(*names)
    low, high = found["ci95"]
    if low <= 0 <= high:
        longer = pair["at_equal_samples"]["ci95"]
        rest = " What it gains at equal samples goes with its length." if longer and longer[0] > 0 else ""
        said = Markup("At equal tokens <bdi>{}</bdi> cannot be told from <bdi>{}</bdi>.{}")
        return said.format(*names, rest)
    by, what = points(abs(found["value"])).lstrip("+"), "more" if low > 0 else "less"
    said = Markup("At equal tokens <bdi>{}</bdi> covers {} points {} than <bdi>{}</bdi>.")
    return said.format(names[0], by, what, names[1])


def table_of(pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The features that one set fires more often, for the script; None where there are none."""
    rows = [_row(found, pair) for pair in pairs for found in pair["differences"][: MOST_ROWS // len(pairs)]]
    if not rows:
        return None
    other = pairs[0]["other"] if len(pairs) == 1 else "The other set"
    return {
        "rows": rows, "rates": [pairs[0]["first"], other], "odds": "Odds", "sort": "odds",
        "every": "in either set", "label": "The span that fires it most",
    }  # fmt: skip


def isolated(name: str) -> str:
    """A name that turns no word around it, however it is written."""
    return f"\u2068{name}\u2069"


def _row(found: Mapping[str, Any], pair: Mapping[str, Any]) -> dict[str, Any]:
    """A feature, opened to further spans of the set that fires it more."""
    is_less = found["log_odds"] > 0
    most, least = (pair[key] for key in (("first", "other") if is_less else ("other", "first")))
    row: dict[str, Any] = {
        "id": found["feature"], "rates": found["rates"], "odds": abs(found["log_odds"]),
        "state": f"more in {isolated(most)} than in {isolated(least)}", "tone": "open" if is_less else "good",
        "text": [] if found["span"] is None else _parts(found["span"]),
    }  # fmt: skip
    if more := found.get("more"):
        row["more"] = [{"title": f"Fires in {most} on", "texts": [_parts(span) for span in more]}]
        row["summary"] = f"{len(more)} more"
    return row


def _parts(span: Mapping[str, str]) -> list[str]:
    """Before the token that fires, and it."""
    end = len(span["text"]) - len(span["token"])
    return [span["text"][:end], span["text"][end:]]


def _curves(record: Mapping[str, Any], axis: str, label: str) -> str:
    sets = record["sets"]
    lines = [
        Line(one["name"], one["curve"][axis], tone, _known(one[f"at_equal_{axis}"])) for tone, one in enumerate(sets)
    ]
    most = max(one[f"n_{axis}"] for one in sets)
    return chart(f"Coverage over {label}", lines, label, powers(most), log=True, mark=record[f"n_{axis}"])


def _known(share: float | None) -> float:
    """Not a number where nothing was measured."""
    return math.nan if share is None else share


def _over_thresholds(record: Mapping[str, Any]) -> str:
    names, asked = [name for name, _ in record["thresholds"]], record["threshold"]
    mark = names.index(asked) if asked in names else None
    lines = [
        Line(one["name"], [*enumerate(one["thresholds"])], tone, one["value"])
        for tone, one in enumerate(record["sets"])
    ]
    return chart("Coverage over thresholds", lines, "threshold", [*enumerate(names)], log=False, mark=mark)
