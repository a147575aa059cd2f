"""Which label's samples teach something? Each method's positive and other samples, trained on apart.

    python benchmarks/by_label.py CONFIG FILE [RUN] [-n 50] [--against METHOD]

RUN: a folder in which `facsynth experiment CONFIG` is finished, of the task toxicity. Of each method's largest budget
the first n samples of either label, or all where there are fewer, are added to the seed set alone; the scores of test
items are added to FILE, without any text. Then what FILE holds for n is compared with no samples, or with one method's
samples of the same label (Holm over all rows).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import kept
import numpy as np

from facsynth.cli.console import cache_folder
from facsynth.errors import FacsynthError, InputError
from facsynth.evaluating.results import Result, difference_of, measured, read_result
from facsynth.evaluating.toxicity import evaluate_toxicity
from facsynth.experimenting.settings import ExperimentSettings, load_experiment
from facsynth.names import p_of
from facsynth.store import read_jsonl, write_jsonl
from facsynth.tasks.resample import holm
from facsynth.text.labels import is_wanted

DIGITS = 6
NONE = "none"
"""Without samples, whatever the experiment calls it."""
LABELS = {True: "positive", False: "other"}
SHARED = ("items", "experiment")
KEY = ("method", "label", "n", "rng_seed")


def samples_of(settings: ExperimentSettings, run: Path, method: str, rng_seed: int) -> list[dict[str, Any]]:
    """Of the largest budget; none where the experiment found none."""
    name = f"{method}-samples-{settings.budgets[-1]}-{rng_seed}"
    if (run / "results" / name / "manifest.json").exists():
        return list(read_jsonl(run / "trained" / f"{name}.jsonl"))
    if (run / "results" / f"{method}-{rng_seed}" / "manifest.json").exists():
        return []
    raise InputError(f"{run} holds no result of {method} with seed {rng_seed}\nRun the experiment to its end first.")


def trained(settings: ExperimentSettings, run: Path, rows: list[dict[str, Any]], rng_seed: int, name: str) -> Result:
    """A head of the seed set and these samples."""
    asked, folder, path = settings.evaluate, run / "by-label" / name, run / "by-label" / f"{name}.jsonl"
    train = [str(run / "seeds" / f"{rng_seed}.jsonl")]
    if rows:
        write_jsonl(path, rows)
        train.append(str(path))
    evaluate_toxicity(
        train, asked.test, asked.model, label=asked.label, adapt=asked.adapt, seeds=[rng_seed], out=folder,
        cache=cache_folder(),
    )  # fmt: skip
    return read_result(folder)


def scored(settings: ExperimentSettings, run: Path, n: int) -> list[kept.Fit]:
    """What the first n samples of either label gave, of every method that has any, and what none gave."""
    if settings.evaluate.task != "toxicity":
        raise InputError(f"the task is {settings.evaluate.task}\nOnly samples of toxicity have labels.")
    experiment, found = kept.experiment_in(settings, run), []
    for rng_seed in settings.seeds:
        parts = {(NONE, ""): list[dict[str, Any]]()}
        for method in (name for name in settings.methods if settings.kind(name) != "none"):
            rows = samples_of(settings, run, method, rng_seed)
            for is_positive, label in LABELS.items():
                of_label = [row for row in rows if is_wanted(row.get("label"), settings.evaluate.label) is is_positive]
                if of_label:
                    parts[method, label] = of_label[:n]
        for (method, label), rows in parts.items():
            name = f"{method}-{label}-{n}-{rng_seed}" if rows else f"{NONE}-{rng_seed}"
            result = trained(settings, run, rows, rng_seed, name)
            found.append(
                {
                    "method": method, "label": label, "n": n, "rng_seed": rng_seed, "n_samples": len(rows),
                    "scores": kept.rounded(result.scores[0].tolist(), DIGITS), "items": kept.told(result.items),
                    "experiment": experiment,
                }
            )  # fmt: skip
    return found


def compared(fits: list[kept.Fit], n: int, against: str = NONE) -> list[dict[str, Any]]:
    """A row for each method and label that every seed has samples of, with its change to no samples, or to another
    method's samples of that label.
    """
    head, *points = fits
    of_n = [point for point in points if point["n"] == n]
    seeds = sorted({point["rng_seed"] for point in of_n})
    by_part = dict[tuple[str, str], dict[int, dict[str, Any]]]()
    for point in of_n:
        by_part.setdefault((point["method"], point["label"]), {})[point["rng_seed"]] = point
    if not of_n:
        known = ", ".join(map(str, sorted({point["n"] for point in points})))
        raise InputError(f"no scores of {n} samples of a label are kept\nName a number that is, {known}, with -n.")
    if not any(method == against for method, _ in by_part):
        known = ", ".join(dict.fromkeys(method for method, _ in by_part))
        raise InputError(f"no scores of {against} are kept\nThere are those of {known}.")
    rows = []
    for (method, label), by_seed in by_part.items():
        base = by_part.get((NONE, "") if against == NONE else (against, label), {})
        if method in {against, NONE}:
            continue
        if not seeds == sorted(by_seed) == sorted(base):
            print(f"{method}, {label}, is left out: not every seed has such samples", file=sys.stderr)
            continue
        scores, of_base = (np.array([part[rng_seed]["scores"] for rng_seed in seeds]) for part in (by_seed, base))
        told = difference_of("toxicity", head["items"], of_base, scores)
        value = measured("toxicity", head["items"], scores)["value"]
        n_samples = [by_seed[rng_seed]["n_samples"] for rng_seed in seeds]
        rows.append({"method": method, "label": label, "n_samples": n_samples, "value": value, "told": told})
    adjusted = holm([row["told"].p for row in rows])
    return [row | {"p": p} for row, p in zip(rows, adjusted, strict=True)]


def main() -> None:
    """Train, keep, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("-n", type=int, default=50, help="samples of a label, 1 or more")
    parser.add_argument("--against", default=NONE, help="a method of the file")
    asked = parser.parse_args()
    if asked.n < 1:
        parser.error(f"-n is {asked.n}; it counts samples of a label, 1 or more")
    try:
        more = scored(load_experiment(asked.config), asked.run, asked.n) if asked.run else []
        fits = kept.merged(asked.file, more, KEY, SHARED)
        if more:
            write_jsonl(asked.file, fits)
        rows = compared(fits, asked.n, asked.against)
    except FacsynthError as err:
        raise SystemExit(f"error: {err}") from err
    print("| method | label | samples | mean | change | 95 % | p (Holm) |\n|---|---|---|---|---|---|---|")
    for row in rows:
        d, counts = row["told"], row["n_samples"]
        n = f"{min(counts)} to {max(counts)}" if len(set(counts)) > 1 else counts[0]
        change = f"{d.value:+.3f} | {d.low:+.2f} to {d.high:+.2f} | {p_of(row['p'])}"
        print(f"| {row['method']} | {row['label']} | {n} | {row['value']:.3f} | {change} |")


if __name__ == "__main__":
    main()
