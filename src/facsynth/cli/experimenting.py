"""Advanced: experiment, methods side by side at equal budgets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facsynth.cli import options as o
from facsynth.cli.console import Panel, cache_folder, note, print_json, print_table, shown_progress


def experiment(
    config: Annotated[Path, typer.Argument(help="The YAML file of an experiment; examples/experiments has some.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder; the same command goes on in it.")],
    json: o.Json = False,
) -> None:
    """Which way to get samples teaches a model most? Methods, seeds and budgets, in one table and one plot.

    Example:  facsynth experiment examples/experiments/toxicity.yaml -o runs/toxicity
    """
    with shown_progress() as progress:
        from facsynth.experimenting import table as t
        from facsynth.experimenting.experiment import run_experiment
        from facsynth.experimenting.settings import load_experiment
        from facsynth.store import write_text

        table = run_experiment(load_experiment(config), out, cache_folder(), progress)
        write_text(out / "table.md", t.markdown(table))
        if drawn := t.plot(table):
            write_text(out / "plot.svg", drawn)
    if json:
        print_json(table)
    elif not table.get("is_measurable", True):
        note(t.markdown(table).strip())
    else:
        for heading, rows in t.groups(table):
            print_table(heading, t.headings(table), [t.cells(row) for row in rows])
        for text in t.notes(table):
            note(f"note: {text}")
    note(f"table: {out / 'table.md'}" + (f"; plot: {out / 'plot.svg'}" if drawn else ""))


COMMANDS: Panel = {"experiment": experiment}
