"""The scores of an experiment's test items, kept without any text: what tables of docs/RESULTS.md are computed from.

    python benchmarks/scores.py CONFIG FILE [RUN …] [--against METHOD] [--plot SVG]

RUN: folders of `facsynth experiment CONFIG`; they may hold other seeds or methods each, and what of them is finished is
added to FILE. Then the table of all that FILE holds is printed, as the experiment prints it, or with changes to another
method than the first.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import kept
import numpy as np

from facsynth.errors import FacsynthError, InputError
from facsynth.evaluating.results import Result, read_result
from facsynth.experimenting.experiment import Point, Trained, ceiling_of, points, rows_of
from facsynth.experimenting.settings import ExperimentSettings, load_experiment
from facsynth.experimenting.table import markdown, plot
from facsynth.store import read_json, write_jsonl, write_text

DIGITS = 9
"""Significant ones: scores near 0 stay apart, and with them the ranks that AUPRC hangs on."""
KEY = ("method", "axis", "budget", "rng_seed")


def scored(settings: ExperimentSettings, run: Path) -> list[kept.Fit]:
    """What each method, budget and seed of a folder gave, which is refused where it is of another experiment."""
    if not (run / "table.json").exists():
        raise InputError(
            f"{run} holds no table.json: no seed of it is finished\nRun its experiment on, or leave it out."
        )
    experiment = kept.experiment_in(settings, run)
    table, found = read_json(run / "table.json", "rows", "seeds"), []
    for row in table["rows"]:
        point = {key: row[key] for key in ("method", "axis", "budget")}
        n_positive = row.get("n_positive", [None] * len(table["seeds"]))
        by_seed = zip(table["seeds"], row["n_samples"], row["tokens"], n_positive, strict=True)
        for rng_seed, n_samples, tokens, positive in by_seed:
            name = "-".join(map(str, [*(point.values() if n_samples else [point["method"]]), rng_seed]))
            result = read_result(run / "results" / name)
            found.append(
                {
                    **point, "rng_seed": rng_seed, "n_samples": n_samples, "tokens": tokens, "n_positive": positive,
                    "scores": kept.rounded(result.scores[0].tolist(), DIGITS),
                    "items": kept.told(result.items), "metric": result.record["metric"], "experiment": experiment,
                }
            )  # fmt: skip
    return found


def merged(settings: ExperimentSettings, file: Path, runs: list[Path]) -> list[kept.Fit]:
    """What was kept, with what these folders hold besides."""
    return kept.merged(file, [fit for run in runs for fit in scored(settings, run)], KEY, [*kept.SHARED])


def table_of(settings: ExperimentSettings, fits: list[kept.Fit]) -> dict[str, Any]:
    """Of methods that have every seed that the first one has."""
    task, by_point = settings.evaluate.task, dict[Point, dict[int, dict[str, Any]]]()
    head, *ones = fits
    for one in ones:
        by_point.setdefault(Point(one["method"], one["axis"], one["budget"]), {})[one["rng_seed"]] = one
    first = points(settings)[0]
    if first not in by_point:
        raise InputError(f"there are no scores of {first.method}, which the others are compared with")
    seeds = sorted(by_point[first])
    found = {
        point: [
            Trained(
                Result(task, head["items"], np.array([by_point[point][rng_seed]["scores"]], np.float64), {}),
                *(by_point[point][rng_seed].get(key) for key in ("n_samples", "tokens", "n_positive")),
            )
            for rng_seed in seeds
        ]
        for point in points(settings)
        if by_point.get(point, {}).keys() >= set(seeds)
    }  # fmt: skip
    table = {"task": task, "metric": head["metric"], "seeds": seeds, "rows": rows_of(settings, found)}
    unfinished = {p.method: len(by_point[p]) for p in points(settings) if p in by_point and p not in found}
    return table | {"ceiling": ceiling_of(settings, found), "unfinished": unfinished}


def main() -> None:
    """Add, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--against", help="the method that others are compared with; the first where nothing is said")
    parser.add_argument("--plot", type=Path, help="where the figures are drawn too")
    asked = parser.parse_args()
    try:
        table = compared(asked.config, asked.file, asked.runs, asked.against)
        print(markdown(table))
        for method, n_seeds in table["unfinished"].items():
            print(f"{method} is left out: it has {n_seeds} of {len(table['seeds'])} seeds")
        if asked.plot:
            write_text(asked.plot, plot(table))
    except FacsynthError as err:
        raise SystemExit(f"error: {err}") from err


def compared(config: Path, file: Path, runs: list[Path], against: str | None) -> dict[str, Any]:
    """The table of what was kept and is added."""
    settings = load_experiment(config)
    if against:
        if against not in settings.methods:
            raise InputError(f"{config} has no method {against}: it has {', '.join(settings.methods)}")
        settings = settings.model_copy(update={"methods": {against: settings.methods[against]} | settings.methods})
    fits = merged(settings, file, runs)
    if runs:
        write_jsonl(file, fits)
    return table_of(settings, fits)


if __name__ == "__main__":
    main()
