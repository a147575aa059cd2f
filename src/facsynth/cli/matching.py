"""Advanced: match."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from facsynth.cli import options as o
from facsynth.cli.console import Panel, note, percent, print_json, print_table, shown_progress

Side = Annotated[Path, typer.Argument(help="A folder of `facsynth encode`, or a run folder: its anchor.")]


def match(
    a: Side,
    b: Side,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the result.")],
    accepted: Annotated[
        Path | None, typer.Option("--accepted", help="The samples.jsonl of run A, encoded in the space of B.")
    ] = None,
    min_support: Annotated[
        int, typer.Option("--min-support", min=1, help="Samples that must fire a feature, or it is not paired.")
    ] = 5,
    json: o.Json = False,
) -> None:
    """Which features of one model have a counterpart in another? Both have encoded the same corpus.

    Example:  facsynth match runs/llama runs/qwen -o runs/llama-to-qwen
    """
    with shown_progress() as progress:
        from facsynth.matching import CARRIED, match_spaces

        record = match_spaces(a, b, out, accepted=accepted, min_support=min_support, progress=progress)
    if json:
        print_json(record)
    else:
        print_table(f"{a} in {b}, on {record['n_samples']:,} samples", ("", "", ""), _rows(record))
    if (out / CARRIED).is_dir():
        carried = shlex.quote(str(out / CARRIED))
        note(f"to go on in the space of {b}: cp -r {carried} NEW && facsynth run SETTINGS -o NEW")


def _rows(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    found = record["counterparts"]
    too_rare = f", {found['n_too_rare']:,} too rare to tell" if found["n_too_rare"] else ""
    told = f"{found['n_with_counterpart']:,} of {found['n']:,} {record['of']}{too_rare}"
    rows = [("with a counterpart", percent(found["share"]), told)]
    if record["correlation"] is not None:
        rows += [
            ("correlation", f"{record['correlation']:.2f}", f"median of {record['n_counterparts']:,} counterparts"),
            ("by chance", f"{record['null']:.2f}", "what pairs as rare as they reach with the samples shuffled, 95 %"),
        ]
    if missing := record["missing"]:
        told = f"{missing['n_with_counterpart']:,} of {missing['n']:,} that the seed set of A lacks"
        rows.append(("missing, with one", percent(missing["share"]), told))
        if missing["missing_in_b"] is not None:
            n, n_lacked = missing["n_with_counterpart"], len(missing["missing_in_b"])
            rows.append(("missing in B too", percent(n_lacked / n if n else None), f"{n_lacked:,} of these {n:,}"))
    if fired := record["accepted"]:
        share = fired["n_fired"] / fired["n"] if fired["n"] else None
        told = f"{fired['n_fired']:,} of {fired['n']:,} counterparts, by {fired['n_samples']:,} samples made for A"
        rows.append(("fired in B", percent(share), told))
        rows.append(("as many of the corpus", percent(fired["chance"]), "would fire so many"))
        if recovered := fired["recovered"]:
            share = recovered["n_fired"] / recovered["n"] if recovered["n"] else None
            told = f"{recovered['n_fired']:,} of {recovered['n']:,} that A recovered"
            rows.append(("recovered, fired in B", percent(share), told))
    return rows


COMMANDS: Panel = {"match": match}
