"""Results: figures with the items they are of, and which of several is better on the same items and seeds.

Before: an evaluation gives each test item a score by seed. After: `facsynth compare` of result folders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType
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

RANGES: Mapping[str, tuple[float, float]] = {"steering": (-1.0, 1.0)}
"""Of figures that are not between 0 and 1."""
MAY_LACK = ("instruction",)
"""Tasks of which an item may have no score."""
MEASURED_BY = ("hook_point", "strength", "answer_tokens")
"""How it is measured, whatever is learned: where and how far directions are added, how long answers may be."""
ROUNDING = 1e-6


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
    lowest, highest = limits = RANGES.get(task, (0.0, 1.0))
    found = figure(metric, scores, limits=limits, fewest=_fewest(items, scores))
    return {
        "value": found.value, "ci95": [max(found.low, lowest), min(found.high, highest)],
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
    record, rows = read_json(folder / RESULT, "task", "metric", "value", "ci95"), read_jsonl(folder / ITEMS)
    if record["task"] not in METRICS:
        raise InputError(f"{folder / RESULT} is of the task {record['task']!r}, which is none\n{RESTORE}")
    scores = [row.pop("scores", None) for row in rows]
    kinds = (int, float, NoneType) if record["task"] in MAY_LACK else (int, float)
    n_seeds = len(scores[0]) if rows and isinstance(scores[0], list) else 0
    if not all(_is_row(row, n_seeds, kinds) for row in scores) or not n_seeds:
        raise InputError(f"{folder / ITEMS} has no scores of every item and seed\n{RESTORE}")
    found = Result(record["task"], rows, np.array(scores, np.float64).T, record)
    if not _is_row(record["ci95"], 2, (int, float)) or not _is_row([record["value"]], 1, (int, float)):
        raise InputError(f"{folder / RESULT} has no figure with its interval\n{RESTORE}")
    try:
        value = mean_over_seeds(METRICS[found.task](rows), found.scores)
    except (KeyError, TypeError, ValueError, InputError) as err:
        raise InputError(f"{folder / ITEMS} has items that are none of {found.task}\n{RESTORE}") from err
    if not abs(value - record["value"]) <= ROUNDING:
        raise InputError(f"{folder / RESULT} has not the figure of {ITEMS}: one of them was changed\n{RESTORE}")
    return found


def _is_row(value: Any, n: int, kinds: tuple[type, ...]) -> bool:
    return (
        isinstance(value, list)
        and len(value) == n
        and all(isinstance(one, kinds) for one in value)
        and all(one is None or abs(one) < np.inf for one in value)
    )


def n_in_both(first: Doubles, other: Doubles) -> int:
    """Items that have a score in both, for some seed: those that a difference is of."""
    return int(np.isfinite(first + other).any(axis=0).sum())


def difference_of(task: str, items: Sequence[Mapping[str, Any]], first: Doubles, other: Doubles) -> Difference:
    """`other` less `first`, both [n_seeds, n_items] of these test items."""
    both = _both(first, other)
    limits = RANGES.get(task, (0.0, 1.0))
    return difference(METRICS[task](items), *both, limits=limits, fewest=_fewest(items, both[0]))


def _fewest(items: Sequence[Mapping[str, Any]], scores: Doubles) -> int:
    """Items that have a score, of the label, or the section of RewardBench, that has fewest."""
    known: list[int] = np.flatnonzero(np.isfinite(scores).any(axis=0)).tolist()
    kinds = Counter((items[n].get("label"), reward.SECTION_OF.get(items[n].get("subset") or "")) for n in known)
    return min(kinds.values(), default=1)


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
    told = [difference_of(first.task, first.items, first.scores, other.scores) for other in others]
    all_figures = [measured(first.task, one.items, one.scores) for one in found]
    return {
        "task": first.task, "metric": first.record["metric"], "n_test": len(first.items),
        "n_seeds": len(first.scores),
        "not_measurable": [
            name for name, one in zip(names, found, strict=True) if not one.record.get("is_measurable", True)
        ],
        "results": [
            {"name": name, "value": figures["value"], "ci95": figures["ci95"]}
            for name, figures in zip(names, all_figures, strict=True)
        ],
        "measured_otherwise": {
            name: keys for name, one in zip(names[1:], others, strict=True)
            if (keys := [key for key in MEASURED_BY if one.record.get(key) != first.record.get(key)])
        },
        "pairs": [
            {"first": names[0], "other": name, "difference": d.value, "ci95": [d.low, d.high], "p": d.p, "p_holm": p,
             "n_items": n_in_both(first.scores, one.scores)}
            for name, d, p, one in zip(names[1:], told, holm([d.p for d in told]), others, strict=True)
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
        ("seeds", first.record.get("seeds"), other.record.get("seeds")),
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
