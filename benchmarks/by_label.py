"""Which label's samples teach something? Each method's positive and other samples, trained on apart.

    python benchmarks/by_label.py CONFIG RUN [-n 50] [--against METHOD]

RUN: a folder in which `facsynth experiment CONFIG` is finished, of the task toxicity. Of each method's largest budget
the first n samples of either label are added to the seed set alone, and compared with no samples, or with as many of
the same label of one method (Holm over all rows).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from facsynth.bins import Doubles
from facsynth.cli.console import cache_folder
from facsynth.errors import FacsynthError, InputError
from facsynth.evaluating.results import difference_of, measured, read_result
from facsynth.evaluating.toxicity import evaluate_toxicity
from facsynth.experimenting.settings import ExperimentSettings, load_experiment
from facsynth.names import p_of
from facsynth.store import read_jsonl, write_jsonl
from facsynth.tasks.resample import holm
from facsynth.text.labels import is_wanted


def scores_of(
    settings: ExperimentSettings, run: Path, method: str, positive: bool, n: int
) -> tuple[Doubles, list[int]]:
    """[n_seeds, n_test] of the samples of one label, and how many there were."""
    found, n_samples = list[Doubles](), list[int]()
    asked = settings.evaluate
    for seed in settings.seeds:
        name = f"{method}-samples-{settings.budgets[-1]}-{seed}.jsonl"
        if not (path := run / "trained" / name).exists():
            raise InputError(f"there is no file {path}\nRun the experiment to its end first.")
        rows = list(read_jsonl(path))
        rows = [row for row in rows if is_wanted(row.get("label"), asked.label) is positive][:n]
        n_samples.append(len(rows))
        folder = run / "by-label" / f"{method}-{'positive' if positive else 'other'}-{n}-{seed}"
        write_jsonl(folder.with_suffix(".jsonl"), rows)
        train = [str(run / "seeds" / f"{seed}.jsonl"), *([str(folder.with_suffix(".jsonl"))] if rows else [])]
        evaluate_toxicity(
            train, asked.test, asked.model, label=asked.label, adapt=asked.adapt, seeds=[seed], out=folder,
            cache=cache_folder(),
        )  # fmt: skip
        found.append(read_result(folder).scores)
    return np.concatenate(found), n_samples


def compared(settings: ExperimentSettings, run: Path, n: int, against: str = "none") -> list[dict[str, Any]]:
    """A row for each method and label, with its change to another method's samples of that label."""
    if settings.evaluate.task != "toxicity":
        raise InputError(f"the task is {settings.evaluate.task}\nOnly samples of toxicity have labels.")
    none = [read_result(run / "results" / f"none-{seed}") for seed in settings.seeds]
    nothing, items = np.concatenate([result.scores for result in none]), none[0].items
    methods = [name for name in settings.methods if settings.kind(name) != "none"]
    if against not in {*methods, "none"}:
        raise InputError(f"there is no method {against}\nThere are none, {', '.join(methods)}.")
    found = {(name, label): scores_of(settings, run, name, label, n) for name in methods for label in (True, False)}
    rows = []
    for (method, positive), (scores, n_samples) in found.items():
        if any(n_samples) and method != against:
            base = nothing if against == "none" else found[against, positive][0]
            told = difference_of("toxicity", items, base, scores)
            value = measured("toxicity", items, scores)["value"]
            rows.append({"method": method, "positive": positive, "n": n_samples, "value": value, "told": told})
    adjusted = holm([row["told"].p for row in rows])
    return [row | {"p": p} for row, p in zip(rows, adjusted, strict=True)]


def main() -> None:
    """Train, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("-n", type=int, default=50, help="samples of a label")
    parser.add_argument("--against", default="none", help="a method of the file")
    asked = parser.parse_args()
    try:
        rows = compared(load_experiment(asked.config), asked.run, asked.n, asked.against)
    except FacsynthError as err:
        raise SystemExit(f"error: {err}") from err
    print("| method | label | samples | mean | change | 95 % | p (Holm) |\n|---|---|---|---|---|---|---|")
    for row in rows:
        d, label = row["told"], "positive" if row["positive"] else "other"
        n = f"{min(row['n'])} to {max(row['n'])}" if len(set(row["n"])) > 1 else row["n"][0]
        change = f"{d.value:+.3f} | {d.low:+.2f} to {d.high:+.2f} | {p_of(row['p'])}"
        print(f"| {row['method']} | {label} | {n} | {row['value']:.3f} | {change} |")


if __name__ == "__main__":
    main()
