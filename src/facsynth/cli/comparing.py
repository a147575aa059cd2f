"""Measure, several sets: compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from facsynth.cli import options as o
from facsynth.cli.console import Panel, cache_folder, note, percent, print_json, print_table, shown_progress, tail
from facsynth.cli.measuring import keep_latest
from facsynth.errors import InputError, SettingsError
from facsynth.names import n_of, p_of

N_SHOWN = 10
"""Features of a pair that are printed."""


@o.takes(o.MEASURING, o.SPACE, o.ROWS)
def compare(
    sets: Annotated[
        list[str],
        typer.Argument(help="Data sets, two or more, or encoded ones; or results of eval. The first is compared with."),
    ],
    config: o.Config = None,
    out: o.Kept = None,
    json: o.Json = False,
    **options: Any,
) -> None:
    """Which of several data sets covers more, or is it just longer? Of results of eval: which is better?

    Example:  facsynth compare mine.jsonl yours.jsonl --anchor broad.jsonl
    """
    results = [folder for folder in sets if is_result(folder)]
    if results and len(results) < len(sets):
        other = next(folder for folder in sets if folder not in results)
        found = "is none" if Path(other).exists() else "is not there"
        raise InputError(
            f"{results[0]} is a result of eval, and {other} {found}\nCompare results with results, and data with data."
        )
    if results:
        _compare_results(sets, json=json, out=out, given=[config, *options.values()])
        return
    settings = o.resolve(config, sets, **options)
    cache = cache_folder()
    with shown_progress() as progress:
        from facsynth.comparing import compare_sets
        from facsynth.report.comparison import RECORD, build_comparison
        from facsynth.store import read_json

        folder = compare_sets(settings, out, cache, progress)
        record = read_json(folder / RECORD, "sets", "pairs")
        build_comparison(folder)
    if json:
        print_json(record)
    else:
        print_comparison(record)
    for text in record["notes"]:
        note(f"note: {text}")
    note(f"report: {folder / 'report.html'}")
    if out is None:
        keep_latest(folder)


def is_result(name: str) -> bool:
    """Whether it is the folder of a result of eval."""
    plan = Path(name) / "plan.json"
    if not plan.is_file():
        return False
    from facsynth.store import read_json

    return read_json(plan).get("stage") == "eval"


def _compare_results(sets: list[str], *, json: bool, out: Path | None, given: Sequence[Any]) -> None:
    """Paired by test item and seed; nothing is measured or kept, so nothing else can be asked for."""
    if len(sets) < 2 or out is not None or any(value is not None for value in given):
        raise SettingsError(
            "results of eval are compared as they are: two folders or more, and no option but --json\n"
            "Name them: facsynth compare RESULT-A RESULT-B"
        )
    from facsynth.evaluating.results import compare_results

    record = compare_results([Path(name) for name in sets])
    if json:
        print_json(record)
        return
    values = [(one["name"], f"{one['value']:.3f}", _span_of(one["ci95"])) for one in record["results"]]
    title = f"{record['metric']} of {n_of(record['n_test'], 'test item')}, {n_of(record['n_seeds'], 'seed')}"
    print_table(title, ("result", "mean", "95 %"), values)
    pairs = [
        (pair["other"], f"{pair['difference']:+.3f}", _span_of(pair["ci95"], "+"), p_of(pair["p_holm"]), _told(pair))
        for pair in record["pairs"]
    ]
    print_table(f"against {record['results'][0]['name']}", ("", "difference", "95 %", "p (Holm)", ""), pairs)
    for pair in record["pairs"]:
        if pair["n_items"] < record["n_test"]:
            n_both = f"{pair['n_items']:,} of {record['n_test']:,} test items"
            note(f"note: the difference to {pair['other']} is that of the {n_both} that have a score in both")
    for name, keys in record["measured_otherwise"].items():
        told = " and ".join(key.replace("_", " ") for key in keys)
        note(f"note: {name} has another {told}: the difference is that too, not of its data alone")
    for name in record["not_measurable"]:
        note(f"note: the control rate of {name} is not above its null: nothing can be compared by it")


def _span_of(ci95: list[float], sign: str = "") -> str:
    return f"{ci95[0]:{sign}.3f} to {ci95[1]:{sign}.3f}"


def _told(pair: dict[str, Any]) -> str:
    if pair["p_holm"] > 0.05:
        return "no difference told"
    return "better" if pair["difference"] > 0 else "worse"


def print_comparison(record: dict[str, Any]) -> None:
    """The sets side by side, then every pair."""
    rows = [
        (
            one["name"], percent(one["at_equal_tokens"]), percent(one["at_equal_samples"]),
            percent(one["value"]), _range(one["ci95"]), f"{one['n_samples']:,}", f"{one['n_tokens']:,}",
        )
        for one in record["sets"]
    ]  # fmt: skip
    anchor, n_tokens, n_samples = record["names"]["anchor"], record["n_tokens"], record["n_samples"]
    title = f"coverage of {record['n_target']} features of {anchor}, at {n_tokens:,} tokens and {n_samples:,} samples"
    print_table(title, ("set", "= tokens", "= samples", "all", "95 %", "samples", "tokens"), rows)
    for pair in record["pairs"]:
        print_table(f"{pair['other']} against {pair['first']}, with 95 % intervals", ("", "", ""), _pair(pair))
        if pair["differences"]:
            _print_different(pair)


def _pair(pair: dict[str, Any]) -> list[tuple[str, str, str]]:
    first, other = pair["first"], pair["other"]
    in_other = sum(row["log_odds"] < 0 for row in pair["differences"])
    return [
        ("at equal tokens", *_difference(pair["at_equal_tokens"])),
        ("at equal samples", *_difference(pair["at_equal_samples"])),
        (f"only in {other}", f"{len(pair['only_other']):,}", "features, of all samples"),
        (f"only in {first}", f"{len(pair['only_first']):,}", "features, of all samples"),
        (f"more often in {other}", f"{in_other:,}", f"of {pair['n_tested']:,}, 5 % false at most"),
        (f"more often in {first}", f"{len(pair['differences']) - in_other:,}", ""),
        ("lengths both have", percent(pair["compared"][0]), f"of {first}, {percent(pair['compared'][1])} of {other}"),
    ]


def _print_different(pair: dict[str, Any]) -> None:
    rows = [
        (
            str(row["feature"]), percent(row["rates"][0]), percent(row["rates"][1]),
            tail(row["span"]["text"], 60) if row["span"] else "",
        )
        for row in pair["differences"][:N_SHOWN]
    ]  # fmt: skip
    print_table(
        "the most different",
        ("feature", pair["first"], pair["other"], "a span whose last token fires it"),
        rows,
    )
    if len(pair["differences"]) > N_SHOWN:
        note(f"… and {len(pair['differences']) - N_SHOWN} more in comparison.json")


def _difference(found: dict[str, Any]) -> tuple[str, str]:
    """In points, with its interval, and whether it can be told from nothing."""
    if found["value"] is None:
        return "not measured", "fewer tokens than a sample"
    points = f"{100 * found['value']:+.1f} points"
    if found["ci95"] is None:
        return points, "too few samples for an interval"
    low, high = found["ci95"]
    told = "no difference told" if low <= 0 <= high else ("covers more" if low > 0 else "covers less")
    return points, f"{100 * low:+.1f} to {100 * high:+.1f}: {told}"


def _range(ci95: list[float] | None) -> str:
    return "" if ci95 is None else f"{100 * ci95[0]:.0f}-{100 * ci95[1]:.0f}"


COMMANDS: Panel = {"compare": compare}
