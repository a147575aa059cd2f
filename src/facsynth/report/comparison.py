"""The report of a comparison, from `comparison.json` alone: which set covers more, and by what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from facsynth.report.charts import Line, chart, powers
from facsynth.report.page import write_page
from facsynth.report.shapes import COMPARISON, read_object

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
        "headlines": [headline(pair) for pair in pairs],
        "by_tokens": Markup(_curves(sets, "tokens", "content tokens")),
        "by_samples": Markup(_curves(sets, "samples", "samples")),
        "by_threshold": Markup(_over_thresholds(record)),
    }  # fmt: skip
    return write_page(folder / "report.html", "comparison.html", context, table_of(pairs))


def headline(pair: Mapping[str, Any]) -> str:
    """What the figures at equal tokens say, in a sentence."""
    found, first, other = pair["at_equal_tokens"], pair["first"], pair["other"]
    if found["ci95"] is None:
        return f"{other} and {first}: too few samples to say which covers more."
    low, high = found["ci95"]
    if low <= 0 <= high:
        longer = pair["at_equal_samples"]["ci95"]
        rest = " It is just longer." if longer and longer[0] > 0 else ""
        return f"At equal tokens {other} cannot be told from {first}.{rest}"
    return f"At equal tokens {other} covers {'more' if low > 0 else 'less'} than {first}."


def table_of(pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The features that one set fires more often, for the script."""
    rows = [
        {
            "id": found["feature"], "rates": found["rates"], "odds": abs(found["log_odds"]),
            "state": f"more in {pair['first'] if found['log_odds'] > 0 else pair['other']}",
            "tone": "open" if found["log_odds"] > 0 else "good",
            "text": _parts(found["span"]) + ([f"   {pair['other']} against {pair['first']}"] if len(pairs) > 1 else []),
        }
        for pair in pairs
        for found in pair["differences"]
    ]  # fmt: skip
    names = [pairs[0]["first"], pairs[0]["other"]] if len(pairs) == 1 else ["The first", "The other"]
    return {"rows": rows, "rates": names, "sort": "odds"}


def _parts(span: Mapping[str, str] | None) -> list[str]:
    """Before the token that fires, and it."""
    if span is None:
        return ["", ""]
    end = len(span["text"]) - len(span["token"])
    return [span["text"][:end], span["text"][end:]]


def _curves(sets: Sequence[Mapping[str, Any]], axis: str, label: str) -> str:
    lines = [Line(one["name"], one["curve"][axis], tone) for tone, one in enumerate(sets)]
    most = max(one[f"n_{axis}"] for one in sets)
    return chart(f"Coverage over {label}", lines, label, powers(most), log=True)


def _over_thresholds(record: Mapping[str, Any]) -> str:
    names = [name for name, _ in record["thresholds"]]
    lines = [Line(one["name"], [*enumerate(one["thresholds"])], tone) for tone, one in enumerate(record["sets"])]
    return chart("Coverage over thresholds", lines, "threshold", [*enumerate(names)], log=False)
