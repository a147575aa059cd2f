"""How sure a downstream figure is: test items and seeds are drawn again, together.

Before: a task's evaluation gives a score for each test item and seed. After: `evaluating` writes figures down, and sets
results side by side. Of n seeds n - 1 are drawn: of so few, n would give an interval that is too narrow by
sqrt(1 - 1/n).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from facsynth.bins import Doubles
from facsynth.errors import InputError

N_DRAWS, LEVEL = 1_000, 0.95
Metric = Callable[[Doubles, Doubles], Doubles]
"""`metric(scores, counts)`: figures [n_draws] of a model that gives test items these scores [n_items], where each draw
has so many of each item: counts [n_draws, n_items]. NaN of a draw in which there is no such figure."""


class Figure(NamedTuple):
    """A figure, meant over seeds, with the interval in which fresh test items and seeds would put it."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """Of two results on the same items and seeds, with its interval and how likely it is where there is none."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided: how seldom draws fall on the other side of nothing."""


def figure(metric: Metric, scores: Doubles, *, rng_seed: int = 0) -> Figure:
    """Mean over seeds of the metric, with a percentile interval over draws of items and seeds.

    Args:
        metric: of one seed. A draw in which it is not a number, as where no positive item is drawn, is left out.
        scores: [n_seeds, n_items].
        rng_seed: of the draws.

    Raises:
        InputError: no seeds, no items, or the metric is no number on the items themselves.
    """
    return Figure(mean_over_seeds(metric, scores), *_interval(_drawn(metric, scores[None], rng_seed)[0]))


def difference(metric: Metric, first: Doubles, other: Doubles, *, rng_seed: int = 0) -> Difference:
    """`other` less `first`, both [n_seeds, n_items]: a draw takes the same items and seeds of both.

    Raises:
        InputError: as `figure`.
    """
    value = mean_over_seeds(metric, other) - mean_over_seeds(metric, first)
    of_first, of_other = _drawn(metric, np.stack([first, other]), rng_seed)
    drawn = of_other - of_first
    drawn = drawn[np.isfinite(drawn)]
    n_beyond = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return Difference(value, *_interval(drawn), min(1.0, 2 * (n_beyond + 1) / (len(drawn) + 1)))


def of_all(metric: Metric, scores: Doubles) -> float:
    """The figure of the items themselves."""
    return float(metric(scores, np.ones((1, len(scores))))[0])


def mean_metric(scores: Doubles, counts: Doubles) -> Doubles:
    """The mean score of the drawn items that have one: a score that is NaN is none."""
    is_known = np.isfinite(scores)
    n = counts @ is_known
    return np.asarray(np.where(n > 0, counts @ np.where(is_known, scores, 0.0) / np.maximum(n, 1), np.nan))


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p as if it were the only one tried, in the given order (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    found, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        found[place] = highest
    return found


def mean_over_seeds(metric: Metric, scores: Doubles) -> float:
    """Of all items.

    Raises:
        InputError: as `figure`.
    """
    if not scores.size:
        raise InputError(f"nothing to measure: {scores.shape[0]} seeds, {scores.shape[1]} test items")
    value = float(np.mean([of_all(metric, row) for row in scores]))
    if not np.isfinite(value):
        raise InputError("the figure is no number on these test items: are there items of both kinds?")
    return value


def _interval(drawn: Doubles) -> tuple[float, float]:
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _drawn(metric: Metric, scores: Doubles, rng_seed: int) -> Doubles:
    """[n_results, N_DRAWS] of scores [n_results, n_seeds, n_items]; all results are drawn alike."""
    rng, (_, n_seeds, n_items) = np.random.default_rng(rng_seed), scores.shape
    items = rng.multinomial(n_items, np.full(n_items, 1 / n_items), size=N_DRAWS).astype(np.float64)
    n_drawn = max(1, n_seeds - 1)
    seeds = rng.multinomial(n_drawn, np.full(n_seeds, 1 / n_seeds), size=N_DRAWS).T / n_drawn
    by_seed = np.array([[metric(row, items) for row in result] for result in scores])
    return np.asarray((np.where(seeds > 0, by_seed, 0.0) * seeds).sum(axis=1))
