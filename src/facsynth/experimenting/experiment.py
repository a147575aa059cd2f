"""An experiment: every method, seed and budget trained and tested, then set side by side.

Before: `experimenting.cells` makes samples. After: `table.json`, which `experimenting.table` and the terminal show.
Each part is an artifact of its own, so the same command goes on where it stopped, and more methods, seeds or smaller
budgets can be asked for later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facsynth.errors import MismatchError
from facsynth.evaluating.instruction import InstructionSettings, evaluate_instruction
from facsynth.evaluating.results import Result, difference_of, measured, n_in_both, read_result
from facsynth.evaluating.reward import evaluate_reward
from facsynth.evaluating.steering import evaluate_steering
from facsynth.evaluating.toxicity import evaluate_toxicity
from facsynth.experimenting.cells import Bench
from facsynth.experimenting.correlating import correlations, measures
from facsynth.experimenting.rivals import check_means
from facsynth.experimenting.settings import NOTHING_WRITTEN, EvaluateBlock, ExperimentSettings
from facsynth.lock import locked
from facsynth.model.tuning import SftRecipe
from facsynth.records import Progress, no_progress
from facsynth.store import Artifact, write_bytes, write_json, write_jsonl
from facsynth.tasks.resample import holm
from facsynth.text.labels import is_wanted

STAGE, TABLE, MEASURES = "experiment", "table.json", "measures.jsonl"
SAMPLES, TOKENS = "samples", "tokens"
"""What a budget counts."""


class Point(NamedTuple):
    """One row of the table, still without its figure."""

    method: str
    axis: str
    budget: int
    """Accepted samples; on the axis of tokens, those whose tokens of `tokens_of` are the budget."""


class Trained(NamedTuple):
    """What a point gave for one seed."""

    result: Result
    n_samples: int
    tokens: int
    """Written for them."""
    n_positive: int | None = None
    """Of the samples, those with the label that a detector is to learn; None of a task without labels."""


def run_experiment(
    settings: ExperimentSettings, out: Path, cache: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Do the whole experiment, or what is left of it, and give back `table.json`.

    Args:
        settings: of the experiment.
        out: folder; the same call goes on in it.
        cache: for converted models, hashes and encoded samples.
        progress: told of every stage.

    Raises:
        MismatchError: the folder holds parts that were made with other settings or data, or for a smaller budget.
        InputError: too few rows to draw from, or rows that the task cannot be trained on.
    """
    with locked(out):
        bench = Bench(settings, out, cache, progress)
        for name in settings.methods:
            if settings.kind(name) not in NOTHING_WRITTEN:
                check_means(settings.kind(name), settings.run_of(name, out, 0))
        Artifact(out, STAGE, bench.asked, bench.parents)
        table: dict[str, Any] = {"task": settings.evaluate.task, "against": next(iter(settings.methods))}
        table |= {"n_skipped": bench.n_skipped, **_check_measurable(bench)}
        found: dict[Point, list[Trained]] = {point: [] for point in points(settings)}
        for n, rng_seed in enumerate(settings.seeds, start=1):
            if not table.get("is_measurable", True):
                break
            for point, trained in found.items():
                first = next((one for ones in found.values() for one in ones), None)
                trained.append(_trained(bench, point, rng_seed, first))
            metric = next(iter(found.values()))[0].result.record["metric"]
            table |= {"seeds": list(settings.seeds[:n]), "metric": metric, "rows": rows_of(settings, found)}
            table["ceiling"] = ceiling_of(settings, found)
            write_json(out / TABLE, table)
        if "rows" in table:
            rows = measures(bench, _figures(settings, found))
            write_jsonl(out / MEASURES, rows)
            table["correlations"] = correlations(rows)
        write_json(out / TABLE, table)
    return table


def _figures(
    settings: ExperimentSettings, found: Mapping[Point, Sequence[Trained]]
) -> dict[tuple[str, int, int], float]:
    """By method, budget of samples and seed."""
    return {
        (point.method, point.budget, rng_seed): trained.result.record["value"]
        for point, by_seed in found.items()
        if point.axis == SAMPLES
        for rng_seed, trained in zip(settings.seeds, by_seed, strict=True)
    }


def points(settings: ExperimentSettings) -> list[Point]:
    """All rows of the table, by budget."""
    return [
        Point(method, axis, budget)
        for axis, budgets in {SAMPLES: settings.budgets, TOKENS: settings.held_in_tokens}.items()
        for budget in budgets
        for method in settings.methods
        if axis == SAMPLES or settings.kind(method) not in NOTHING_WRITTEN or settings.kind(method) == "none"
    ]


def _check_measurable(bench: Bench) -> dict[str, Any]:
    """Of steering: whether the direction of all training pairs is above its null; else nothing is compared."""
    evaluate = bench.settings.evaluate
    if evaluate.task != "steering":
        return {}
    method = next(iter(bench.settings.methods))
    everything = [*bench.run_of(method, bench.settings.seeds[0]).data.anchor, *(d.path for d in bench.settings.draw)]
    out = bench.out / "measurable"
    _evaluate(bench, list(dict.fromkeys(everything)), 0, out)
    record = read_result(out).record
    return {"is_measurable": record["is_measurable"], "measurable": {
        key: record[key] for key in ("value", "ci95", "null_limit", "robust_accuracy", "multipliers", "n_train")
    }}  # fmt: skip


def _trained(bench: Bench, point: Point, rng_seed: int, first: Trained | None) -> Trained:
    """Train on the seed set with the samples of a point, and test with the items of the first result."""
    rows, tokens = _samples(bench, point, rng_seed)
    name = f"{point.method}-{rng_seed}" if not rows else f"{point.method}-{point.axis}-{point.budget}-{rng_seed}"
    train, path = [str(bench.seed_set(rng_seed))], bench.out / "trained" / f"{name}.jsonl"
    before = path.read_bytes() if path.exists() else None
    if rows:
        write_jsonl(path, rows)
        train.append(str(path))
    out = bench.out / "results" / name
    try:
        _evaluate(bench, train, rng_seed, out)
    except MismatchError:
        if before is not None:
            write_bytes(path, before)  # what its result was trained on
        raise
    found = read_result(out)
    if len(found.scores) != 1 or (first and found.items != first.result.items):
        raise MismatchError(
            f"{out} is of other test items or seeds than the other results here\n"
            "Remove it and run the same command again: it is trained anew."
        )
    return Trained(found, len(rows), tokens, _n_positive(bench.settings.evaluate, rows))


def _n_positive(asked: EvaluateBlock, rows: Sequence[Mapping[str, Any]]) -> int | None:
    return sum(is_wanted(row.get("label"), asked.label) is True for row in rows) if asked.task == "toxicity" else None


def _samples(bench: Bench, point: Point, rng_seed: int) -> tuple[list[dict[str, Any]], int]:
    made = bench.make(point.method, rng_seed)
    if point.axis == SAMPLES:
        return made.first(point.budget), made.tokens_for(point.budget)
    most = bench.make(bench.settings.tokens_of, rng_seed).tokens_for(point.budget)
    made = bench.within_tokens(point.method, rng_seed, most)
    rows = made.within(most)
    return rows, made.tokens_for(len(rows))


def _evaluate(bench: Bench, train: Sequence[str], rng_seed: int, out: Path) -> None:
    """One fit of the task."""
    asked = bench.settings.evaluate
    given: dict[str, Any] = {"out": out, "cache": bench.cache, "progress": bench.progress}
    learnt: dict[str, Any] = {"adapt": asked.adapt, "seeds": [rng_seed]}
    if asked.task == "toxicity":
        evaluate_toxicity(train, asked.test, asked.model, label=asked.label, **learnt, **given)
    elif asked.task == "reward":
        evaluate_reward(train, asked.test, asked.model, **learnt, **given)
    elif asked.task == "instruction":
        settings = InstructionSettings((rng_seed,), SftRecipe(n_epochs=asked.epochs), asked.answer_tokens)
        given |= {"judge": asked.judge or asked.judge_pairs}
        evaluate_instruction(train, asked.test, str(asked.reference), asked.model, settings, **given)
    else:
        evaluate_steering(train, asked.test, asked.model, strength=asked.strength, flip=[], **given)


def ceiling_of(settings: ExperimentSettings, found: Mapping[Point, Sequence[Trained]]) -> dict[str, Any] | None:
    """What as many of the anchor's own samples as the largest budget has give over none; None where that is not asked.

    Where no gain is shown for them, what is written for the features of that anchor may show none either.
    """
    largest = [point for point in found if (point.axis, point.budget) == (SAMPLES, settings.budgets[-1])]
    of_kind = {settings.kind(point.method): point for point in reversed(largest)}
    if not {"none", "anchor"} <= of_kind.keys():
        return None
    none, anchor = (found[of_kind[kind]] for kind in ("none", "anchor"))
    first, other = (np.concatenate([t.result.scores for t in trained]) for trained in (none, anchor))
    d = difference_of(settings.evaluate.task, none[0].result.items, first, other)
    n = min(t.n_samples for t in anchor)
    return {"n_samples": n, "difference": d.value, "ci95": [d.low, d.high], "is_above": d.low > 0}


def rows_of(settings: ExperimentSettings, found: Mapping[Point, Sequence[Trained]]) -> list[dict[str, Any]]:
    """Figures, and differences to the first method at the same budget, with Holm over the methods there."""
    first, rows = next(iter(settings.methods)), []
    scores = {point: np.concatenate([t.result.scores for t in trained]) for point, trained in found.items()}
    counted = all(t.n_positive is not None for trained in found.values() for t in trained)
    for axis, budget in dict.fromkeys((point.axis, point.budget) for point in found):
        there = [point for point in found if (point.axis, point.budget) == (axis, budget)]
        base = next((point for point in there if point.method == first), there[0])
        other = [point for point in there if point != base]
        task, items = settings.evaluate.task, found[base][0].result.items
        told = {point: difference_of(task, items, scores[base], scores[point]) for point in other}
        adjusted = dict(zip(other, holm([d.p for d in told.values()]), strict=True))
        for point in there:
            row = {
                **point._asdict(), "kind": settings.kind(point.method), **measured(task, items, scores[point]),
                "n_samples": [t.n_samples for t in found[point]], "tokens": [t.tokens for t in found[point]],
            }  # fmt: skip
            if counted:
                row["n_positive"] = [t.n_positive for t in found[point]]
            if point in told:
                d = told[point]
                row |= {"against": base.method, "difference": d.value, "difference_ci95": [d.low, d.high]}
                row |= {"p": d.p, "p_holm": adjusted[point], "n_items": n_in_both(scores[base], scores[point])}
            rows.append(row)
    return rows
