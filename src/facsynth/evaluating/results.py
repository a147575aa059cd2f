"""Results: figures with the items they are of, and which of several is better on the same items and seeds.

Before: an evaluation gives each test item a score by seed. After: `facsynth compare` of result folders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facsynth.bins import Doubles
from facsynth.errors import InputError, MismatchError
from facsynth.names import names_of
from facsynth.store import RESTORE, Artifact, read_json, read_jsonl, write_json, write_jsonl
from facsynth.tasks import instruction, reward, steering, toxicity
from facsynth.tasks.resample import Difference, Metric, difference, figure, holm, mean_over_seeds, of_all

STAGE, RESULT, ITEMS = "eval", "result.json", "items.jsonl"
METRICS: Mapping[str, Callable[[Sequence[Mapping[str, Any]]], Metric]] = {
    "toxicity": toxicity.metric,
    "reward": reward.metric,
    "steering": steering.metric,
    "instruction": instruction.metric,
}
"""By task, the metric of test items; each item is a row of `items.jsonl` without its scores."""


class Result(NamedTuple):
    """One result, as it is kept."""

    task: str
    items: list[dict[str, Any]]
    """Of each test item its `sample_id`, and what the metric needs of it."""
    scores: Doubles
    """[n_seeds, n_items]; NaN where an item has none, null in the file."""
    record: dict[str, Any]
    """`result.json`"""


def measured(task: str, items: Sequence[Mapping[str, Any]], scores: Doubles) -> dict[str, Any]:
    """The figure of these items with its interval.

    Raises:
        InputError: there is none, as where all items are of one kind.
    """
    metric = METRICS[task](items)
    found = figure(metric, scores)
    return {
        "value": found.value, "ci95": [found.low, found.high],
        "by_seed": [of_all(metric, row) for row in scores], "n_test": len(items),
    }  # fmt: skip


def keep_result(artifact: Artifact, result: Result) -> None:
    """Write a result down, the last thing that its folder gets."""
    columns = [[score if np.isfinite(score) else None for score in column] for column in result.scores.T.tolist()]
    rows = zip(result.items, columns, strict=True)
    write_jsonl(artifact.folder / ITEMS, ({**item, "scores": column} for item, column in rows))
    write_json(artifact.folder / RESULT, result.record)
    artifact.finish(n_items=len(result.items))


def read_result(folder: Path) -> Result:
    """A finished result.

    Raises:
        InputError: there is none, or it was changed.
    """
    artifact = Artifact.reopen(folder, STAGE)
    if artifact.manifest is None:
        raise InputError(f"{folder} is not finished\nRun the command that made it again.")
    record, rows = read_json(folder / RESULT, "task", "metric", "value"), read_jsonl(folder / ITEMS)
    scores = [row.pop("scores", None) for row in rows]
    if not rows or not all(isinstance(s, list) and s and len(s) == len(scores[0]) for s in scores):
        raise InputError(f"{folder / ITEMS} has no scores of every item and seed\n{RESTORE}")
    if record["task"] not in METRICS:
        raise InputError(f"{folder / RESULT} is of the task {record['task']!r}, which is none\n{RESTORE}")
    return Result(record["task"], rows, np.array(scores, np.float64).T, record)


def difference_of(task: str, items: Sequence[Mapping[str, Any]], first: Doubles, other: Doubles) -> Difference:
    """`other` less `first`, both [n_seeds, n_items] of these test items."""
    return difference(METRICS[task](items), *_both(first, other))


def compare_results(folders: Sequence[Path]) -> dict[str, Any]:
    """Each result against the first, on the same items and seeds, with Holm over all that are compared.

    Raises:
        InputError: one of them is no finished result.
        MismatchError: other test items, another task, or another number of seeds.
    """
    found = [read_result(folder) for folder in folders]
    names = names_of([str(folder) for folder in folders])
    first, *others = found
    for folder, other in zip(folders[1:], others, strict=True):
        _check_alike(first, other, folders[0], folder)
    metric = METRICS[first.task](first.items)
    told = [difference_of(first.task, first.items, first.scores, other.scores) for other in others]
    return {
        "task": first.task, "metric": first.record["metric"], "n_test": len(first.items),
        "n_seeds": len(first.scores),
        "not_measurable": [
            name for name, one in zip(names, found, strict=True) if not one.record.get("is_measurable", True)
        ],
        "results": [
            {"name": name, "value": mean_over_seeds(metric, result.scores), "ci95": result.record["ci95"]}
            for name, result in zip(names, found, strict=True)
        ],
        "pairs": [
            {"first": names[0], "other": name, "difference": d.value, "ci95": [d.low, d.high], "p": d.p, "p_holm": p}
            for name, d, p in zip(names[1:], told, holm([d.p for d in told]), strict=True)
        ],
    }  # fmt: skip


def _both(first: Doubles, other: Doubles) -> tuple[Doubles, Doubles]:
    """Without the scores of an item and seed that one of them lacks."""
    lacks = np.isnan(first) | np.isnan(other)
    return np.where(lacks, np.nan, first), np.where(lacks, np.nan, other)


def _check_alike(first: Result, other: Result, where: Path, of_other: Path) -> None:
    found = (
        ("tasks", first.task, other.task),
        ("numbers of seeds", len(first.scores), len(other.scores)),
        ("test items", len(first.items), len(other.items)),
        ("judges", first.record.get("judge"), other.record.get("judge")),
    )
    for what, a, b in found:
        if a != b:
            raise MismatchError(
                f"results of other {what} cannot be compared\n  {where}  {a}\n  {of_other}  {b}\n"
                "Measure both with the same test files and --seeds."
            )
    if first.items != other.items:
        raise MismatchError(
            f"{where} and {of_other} were measured on other test items\nMeasure both with the same test files."
        )
