"""How sure a downstream figure is, and the difference of two: test items and seeds are drawn again, together.

Before: a task's evaluation gives a score for each test item and seed. After: `evaluating` writes figures down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from facsynth.bins import Doubles, Ints
from facsynth.errors import InputError

N_DRAWS, LEVEL = 1_000, 0.95
Metric = Callable[[Ints, Doubles], float]
"""`metric(items, scores)`: the figure of a model that gives these test items [n] these scores [n]."""


class Figure(NamedTuple):
    """A figure, meant over seeds, with the interval in which fresh test items and seeds would put it."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """One figure less another on the same test items."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided, that fresh items and seeds would turn it round: at least 2 / (draws + 1)."""


def figure(metric: Metric, scores: Doubles, *, rng_seed: int = 0) -> Figure:
    """Mean over seeds of the metric, with a percentile interval over draws of items and seeds.

    Args:
        metric: of one seed. A draw in which it is not a number, as where no positive item is drawn, is left out.
        scores: [n_seeds, n_items].
        rng_seed: of the draws.

    Raises:
        InputError: no seeds, no items, or the metric is no number on the items themselves.
    """
    value, drawn = _value(metric, scores), _drawn(metric, [scores], [_ids(scores)], rng_seed)[0]
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Figure(value, float(low), float(high))


def difference(
    metric: Metric, of: Doubles, against: Doubles, *, seeds: Sequence[Sequence[int]] | None = None, rng_seed: int = 0
) -> Difference:
    """The metric of `of` less that of `against`, on the same items: every draw takes the same items of both.

    Args:
        metric: as in `figure`.
        of: [n_seeds, n_items].
        against: [m_seeds, n_items].
        seeds: of both; where they are equal a draw takes the same seeds of both, else each its own.
        rng_seed: of the draws.

    Raises:
        InputError: the two have different items.
    """
    if of.shape[1] != against.shape[1]:
        raise InputError(f"{of.shape[1]} test items cannot be paired with {against.shape[1]}")
    one, other = seeds or (_ids(of), _ids(against))
    ids = [one, one if list(one) == list(other) else [f"other-{seed}" for seed in other]]
    drawn = _drawn(metric, [of, against], ids, rng_seed)
    gaps = drawn[0] - drawn[1]
    gaps = gaps[np.isfinite(gaps)]
    low, high = np.quantile(gaps, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    tail = min((gaps <= 0).sum(), (gaps >= 0).sum())
    value = _value(metric, of) - _value(metric, against)
    return Difference(value, float(low), float(high), float(min(1.0, 2 * (tail + 1) / (len(gaps) + 1))))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given (Holm 1979): reject where one is below the level, and 5 % stays 5 %."""
    order = np.argsort(p_values, kind="stable")
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _value(metric: Metric, scores: Doubles) -> float:
    if not scores.size:
        raise InputError(f"nothing to measure: {scores.shape[0]} seeds, {scores.shape[1]} test items")
    items = np.arange(scores.shape[1])
    value = float(np.mean([metric(items, row) for row in scores]))
    if not np.isfinite(value):
        raise InputError("the figure is no number on these test items: are there items of both kinds?")
    return value


def _drawn(
    metric: Metric, sets: Sequence[Doubles], seeds: Sequence[Sequence[object]], rng_seed: int
) -> list[npt.NDArray[np.float64]]:
    """[N_DRAWS] of each set: items are drawn once for all of them, and seeds of the same names too."""
    rng, n_items = np.random.default_rng(rng_seed), sets[0].shape[1]
    found = [np.empty(N_DRAWS) for _ in sets]
    for draw in range(N_DRAWS):
        items = np.asarray(rng.integers(0, n_items, n_items), np.int64)
        rows: dict[tuple[object, ...], list[int]] = {}
        for values, scores, names in zip(found, sets, seeds, strict=True):
            key = tuple(names)
            if key not in rows:
                rows[key] = rng.integers(0, len(scores), len(scores)).tolist()
            values[draw] = np.mean([metric(items, scores[row][items]) for row in rows[key]])
    return found


def _ids(scores: Doubles) -> list[int]:
    return list(range(len(scores)))
