"""Scores of test items, kept without any text: what `scores.py` and `by_label.py` compute tables from.

A file has a line of what all its fits share, `items` among it, and then a line for each fit with its `scores`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from facsynth.cli.console import cache_folder
from facsynth.errors import InputError
from facsynth.experimenting.cells import Bench
from facsynth.experimenting.experiment import STAGE
from facsynth.experimenting.settings import ExperimentSettings
from facsynth.store import Artifact, read_jsonl

Fit = dict[str, Any]
SHARED = {"items": "test", "metric": "metric", "experiment": "experiment"}
"""What all fits of a file share, in words."""
OTHERWISE = "Restore it, or begin a new file with the folder of an experiment."


def experiment_in(settings: ExperimentSettings, run: Path) -> str:
    """The fingerprint of an experiment: of its data, draws and largest budget.

    Raises:
        InputError: the folder holds none.
        MismatchError: it holds another one than the settings say.
    """
    if not (run / "plan.json").is_file():
        raise InputError(f"{run} holds no experiment\nName the folder of `facsynth experiment`.")
    bench = Bench(settings, run, cache_folder())
    return Artifact(run, STAGE, bench.asked, bench.parents).fingerprint


def rounded(scores: Iterable[float], digits: int) -> list[float | None]:
    """To significant digits; None where an item has no score."""
    return [float(f"{score:.{digits}g}") if math.isfinite(score) else None for score in scores]


def told(items: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Test items with short ids."""
    return [{**item, "sample_id": item["sample_id"][:12]} for item in items]


def merged(file: Path, more: Sequence[Fit], key: Sequence[str], shared: Sequence[str]) -> list[Fit]:
    """What a file holds, with more fits, which stand in the place of those with the same key.

    Args:
        file: it need not be there where there are more.
        more: each with what all share too, which moves to the first line.
        key: names of what tells fits apart.
        shared: names of what all share.

    Raises:
        InputError: there is nothing, the file is none of these, or it is of another experiment.
    """
    if not file.exists() and not more:
        raise InputError(f"there is no file {file}\nName the folder of an experiment to begin it with.")
    head, *fits = (read_jsonl(file) if file.exists() else None) or [{}]
    _check(file, head, fits, key, shared)
    found = {tuple(fit[name] for name in key): fit for fit in fits}
    for one in more:
        fit = dict(one)
        for name in shared:
            if head.setdefault(name, fit[name]) != fit.pop(name):
                raise InputError(f"{file} is of another {SHARED[name]}\nKeep another file for each experiment.")
        found[tuple(fit[name] for name in key)] = fit
    return [head, *(found[one] for one in sorted(found))]


def _check(file: Path, head: Fit, fits: Sequence[Fit], key: Sequence[str], shared: Sequence[str]) -> None:
    if fits and not all(name in head for name in shared):
        raise InputError(f"{file} does not begin with {' and '.join(shared)}\n{OTHERWISE}")
    known = set[tuple[Any, ...]]()
    for n, fit in enumerate(fits, start=2):
        if lacking := [name for name in (*key, "scores") if name not in fit]:
            raise InputError(f"{file}, line {n} has no {lacking[0]}\n{OTHERWISE}")
        if len(fit["scores"]) != len(head["items"]) or not all(map(_is_score, fit["scores"])):
            raise InputError(f"{file}, line {n} has not one score for each of {len(head['items'])} items\n{OTHERWISE}")
        if (one := tuple(fit[name] for name in key)) in known:
            raise InputError(f"{file}, line {n} is of {one}, which stands there already\n{OTHERWISE}")
        known.add(one)


def _is_score(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and math.isfinite(value))
