"""Measure: coverage, missing."""

from __future__ import annotations

import shlex
import shutil
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facsynth.cli import options as o
from facsynth.cli.console import (
    Panel,
    cache_folder,
    note,
    percent,
    print_json,
    print_table,
    printable,
    shown_progress,
    tail,
)
from facsynth.errors import LimitError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from facsynth.coverage.plan import PlanRow
    from facsynth.settings import RunSettings

N_KEPT = 20
"""Run folders that no -o named, in the user's cache: the same question is answered from there at once."""
N_SHOWN = 70
"""Characters of a span."""
LARGER = "--model meta-llama/Llama-3.1-8B-Instruct --sae SAE_FOLDER --relevance all"


@o.takes(o.MEASURING, o.SPACE, o.ROWS, o.WAIT)
def coverage(
    seed: o.Seed,
    config: o.Config = None,
    out: o.Kept = None,
    fail_under: Annotated[
        float | None, typer.Option("--fail-under", min=0, max=1, help="Exit with 3 below this share.")
    ] = None,
    json: o.Json = False,
    **options: Any,
) -> None:
    """How much of the anchor's features a data set covers.

    Example:  facsynth coverage my.jsonl --anchor broad.jsonl
    """
    settings = o.resolve(config, seed, **options)
    record = record_of(_measure(settings, out))
    if json:
        note(sets_of(settings))
        print_json(record)
    else:
        print_coverage(record, settings)
    print_notes(record)
    _note_first_look(settings)
    if fail_under is not None and record["value"] < fail_under:
        raise LimitError(f"coverage is {record['value']:.3f}, below the limit of {fail_under} that was asked for")


@o.takes(o.MEASURING, o.SPACE, o.ROWS, o.WAIT)
def missing(
    seed: o.Seed,
    config: o.Config = None,
    out: o.Kept = None,
    n: Annotated[int, typer.Option("--top", min=1, help="Rows to print; plan.csv holds all.")] = 25,
    per_feature: o.PerFeature = None,
    json: o.Json = False,
    **options: Any,
) -> None:
    """What a data set misses: features with their best spans, and a plan to edit.

    Example:  facsynth missing my.jsonl --anchor broad.jsonl -o runs/mine
    """
    settings = o.resolve(config, seed, per_feature=per_feature, **options)
    folder = _measure(settings, out)
    record, rows = record_of(folder), plan_of(folder)
    if json:
        note(sets_of(settings))
        print_json([vars(row) for row in rows])
    else:
        print(printable(sets_of(settings)))
        print_plan(rows, n)
    print_notes(record)
    if (folder / "targets.json").exists():
        note(f"this plan is being followed, or was: {folder}")
    else:
        then = f"facsynth synthesize {shlex.quote(str(folder))}"
        note(f"all of them, to edit (keep, n_wanted): {folder / 'plan.csv'}   then: {then}")


def print_notes(record: dict[str, Any]) -> None:
    """What a reader should know before trusting the figures of `coverage/before.json`."""
    for text in record["notes"]:
        note(f"note: {text}")


def _measure(settings: RunSettings, out: Path | None) -> Path:
    """Measure into the run folder; without one, into one of its own for these settings and these data."""
    cache = cache_folder()
    with shown_progress() as progress:
        from facsynth.assemble import read_data
        from facsynth.lock import locked
        from facsynth.pipeline import measure_run
        from facsynth.run_folder import effective, open_run
        from facsynth.store import fingerprint

        corpora = read_data(settings.data, "anchor", progress), read_data(settings.data, "seed", progress)
        sets = [[corpus.fingerprint, corpus.name, corpus.n_failures] for corpus in corpora]  # what notes speak of, too
        key = fingerprint([effective(settings), *sets])[:16]
        folder = out or cache / "runs" / key
        with locked(folder):
            open_run(settings, folder, corpora)
            measure_run(settings, folder, cache, corpora, progress)
    if out is None:
        note(f"note: kept in {folder}, with the texts, until {N_KEPT} later ones are; -o names another place")
        keep_latest(folder)
    return folder


def keep_latest(folder: Path) -> None:
    """Remove the oldest unnamed run folders beside `folder`, but for those that another process works in."""
    from facsynth.errors import StorageError
    from facsynth.lock import locked

    folder.touch()
    for old in sorted(folder.parent.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)[N_KEPT:]:
        with suppress(StorageError, OSError), locked(old):
            shutil.rmtree(old)


def record_of(folder: Path) -> dict[str, Any]:
    """`coverage/before.json` of a run folder."""
    from facsynth.report.shapes import BEFORE, read_object

    return read_object(folder / "coverage" / "before.json", BEFORE)


def plan_of(folder: Path) -> list[PlanRow]:
    """`plan.csv` of a run folder."""
    from facsynth.coverage.plan import read_plan

    record = record_of(folder)
    return read_plan(folder / "plan.csv", known=[*record["missing"], *record["under"]])


def print_plan(rows: Sequence[PlanRow], n: int) -> None:
    """The first `n` concepts to fill, each by the feature that stands for it: explained, or with its best span."""
    kept = {row.feature_id: row for row in rows if row.keep}
    kinds, through = Counter(row.kind for row in kept.values()), Counter(row.group for row in kept.values())
    first = [row for row in kept.values() if row.group not in kept]
    print_table(
        f"{len(kept)} features to fill: {kinds['missing']} missing, {kinds['under']} under-represented",
        ("feature", "kind", "anchor", "seed", "explanation, or a span whose last token fires it"),
        [
            (
                f"{r.feature_id}" + (f" +{through[r.feature_id]}" if through[r.feature_id] else ""), r.kind,
                percent(r.anchor_rate), percent(r.seed_rate), r.explanation or tail(r.span, N_SHOWN),
            )
            for r in first[:n]
        ],
    )  # fmt: skip
    if len(first) > n:
        note(f"… and {len(first) - n} more in plan.csv")
    if len(rows) > len(kept):
        note(f"{len(rows) - len(kept)} features are left out; plan.csv says why")


def print_coverage(record: dict[str, Any], settings: RunSettings) -> None:
    """The figures of `coverage/before.json`, each with its scale."""
    n_target, n_reachable, n_of_half = record["n_target"], record["source"]["n_reachable"], record["n_target_of_half"]
    of_half = "" if n_of_half is None else f", of the {n_of_half:,} a half has"
    ceilings = (f"ceiling {percent(record[key])}{of_half}" for key in ("ceiling", "ceiling_at_equal_tokens"))
    rows = [
        ("coverage", percent(record["value"]), f"of {n_target:,} target features; {interval_of(record)}"),
        ("at equal samples", percent(record["at_equal_samples"]), next(ceilings)),
        ("at equal tokens", percent(record["at_equal_tokens"]), next(ceilings)),
        ("more of the same", f"≈ {percent(n_reachable / n_target)}", "what its source has at least (Chao2)"),
        ("missing", f"{record['n_missing']:,}", ""),
        ("under-represented", f"{record['n_under']:,}", "fired far less often than by the anchor"),
        ("samples", f"{record['n_samples']:,}", f"{record['n_tokens']:,} content tokens"),
        ("too rare", f"{record['n_thin']:,}", "thin: too few samples of the anchor fire them"),
    ]
    print_table(f"{sets_of(settings)}   ({record['relevance']}, {record['threshold']})", ("", "", ""), rows)


def sets_of(settings: RunSettings) -> str:
    """What was measured against what, file by file."""
    seed, anchor = (", ".join(Path(s).name for s in part) for part in (settings.data.seed, settings.data.anchor))
    anchor = "the example that ships" if o.uses_example_anchor(settings) else anchor
    return f"seed set: {seed}   anchor: {anchor}"


def interval_of(record: dict[str, Any]) -> str:
    """The interval of a coverage in words."""
    if not record["ci95"]:
        return "too few samples for an interval" if record["n_samples"] < 4 else "no interval: nothing is covered"
    return f"95 %: {100 * record['ci95'][0]:.1f} to {percent(record['ci95'][1])}"


def _note_first_look(settings: RunSettings) -> None:
    """Say what the first look stands on, and how to take the second one."""
    shipped = []
    if settings.model.path == "embedded":
        shipped.append("a model of 135M parameters")
    if o.uses_example_anchor(settings):
        shipped.append("the example anchor, everyday messages")
    if shipped:
        own = "" if not o.uses_example_anchor(settings) else "--anchor broad.jsonl "
        note(
            f"This is a first look, on {' and '.join(shipped)}. On an 8B model and an anchor of your own:\n"
            f"  facsynth coverage {shlex.join(o.said(settings))} {own}{LARGER}"
        )


COMMANDS: Panel = {"coverage": coverage, "missing": missing}
