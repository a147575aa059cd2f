"""Fill, the last step: export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from facsynth.cli import options as o
from facsynth.cli.console import Panel, note, print_json, print_table, shown_progress


def export(
    folder: Annotated[Path, typer.Argument(help="A finished run folder.")],
    to: Annotated[Path, typer.Option("--out", "-o", help="Folder to write: rows, side table, card.")],
    layout: Annotated[
        Literal["trl", "trl-completion", "llama-factory", "plain"],
        typer.Option("--layout", help="Of rows; trl-completion: prompt and completion."),
    ] = "trl",
    parquet: Annotated[bool, typer.Option("--parquet", help="Rows as Parquet instead of jsonl.")] = False,
    mix: Annotated[bool, typer.Option("--mix", help="The whole training set: the seed set too, shuffled.")] = False,
    synthetic_share: Annotated[
        float | None, typer.Option("--synthetic-share", min=0, max=1, help="Share of a mix that is written. [all]")
    ] = None,
    rng_seed: Annotated[int, typer.Option("--rng-seed", min=0, help="Of the order of a mix.")] = 0,
    push: Annotated[
        str | None, typer.Option("--push", help="Upload to this data set on the Hub, private: OWNER/NAME.")
    ] = None,
    json: o.Json = False,
) -> None:
    """The samples of a run as a data set for TRL or LLaMA-Factory, with a card.

    Example:  facsynth export runs/mine -o data/mine --mix
    """
    o.check_run_folder(folder)
    with shown_progress() as progress:
        from facsynth.exporting import ExportSettings, export_run, push_export

        settings = ExportSettings(layout, parquet, mix, synthetic_share, rng_seed)
        record = export_run(folder, to, settings, progress)
        address = push_export(to, push) if push else ""
    if json:
        print_json(record)
    else:
        _print(record, to)
    for text in record["notes"]:
        note(f"note: {text}")
    if address:
        note(f"uploaded, private: {address}")


def _print(record: dict[str, Any], to: Path) -> None:
    rows = [("rows", f"{record['n_rows']:,}"), *((source, f"{n:,}") for source, n in record["sources"].items())]
    if record["n_duplicates"]:
        rows.append(("left out", f"{record['n_duplicates']:,} that are there twice"))
    print_table(f"{to}: {', '.join(sorted(path.name for path in to.iterdir()))}", ("", ""), rows)


COMMANDS: Panel = {"export": export}
