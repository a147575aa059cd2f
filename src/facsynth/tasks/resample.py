"""How sure a downstream figure is: what fresh test items and fresh seeds would change.

Before: a task's evaluation gives a score for each test item and seed. After: `evaluating` writes figures down, and sets
results side by side. Test items are drawn again (bootstrap); of the few seeds the variance of their mean is taken, with
Student's t for how badly few tell it: drawn again like items, five seeds give intervals that hold the truth 83 times in
100 where seeds are all that differs, three 73 times. Both variances are added, and the degrees of freedom are
Satterthwaite's (1946): (u + v)^2 / (v^2 / (n - 1)) for a variance of u by items and v by n seeds. Two or three seeds
may agree by luck: v is then too small, and the degrees of freedom too many. So no interval is narrower than that of
the seeds alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from facsynth.bins import Doubles
from facsynth.errors import InputError

N_DRAWS, LEVEL = 1_000, 0.95
NOTHING = 1e-20
"""A variance that is rounding alone."""
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
    """Two-sided: how seldom chance gives a difference as large where there is none."""


def figure(
    metric: Metric,
    scores: Doubles,
    *,
    limits: tuple[float, float] = (0.0, 1.0),
    fewest: int | None = None,
    rng_seed: int = 0,
) -> Figure:
    """Mean over seeds of the metric, with a percentile interval over draws of items, widened for the seeds.

    Args:
        metric: of one seed. A draw in which it is not a number, as where no positive item is drawn, is left out.
        scores: [n_seeds, n_items].
        limits: what the metric lies between.
        fewest: items of the kind there are fewest of: where no draw differs, so many may have been alike by luck;
            None where that is not asked.
        rng_seed: of the draws.

    Raises:
        InputError: no seeds, no items, or the metric is no number on the items themselves.
    """
    value = mean_over_seeds(metric, scores)
    drawn = _drawn(metric, scores, rng_seed)
    found = _spread(drawn, _by_seed(metric, scores))
    half = found.half(LEVEL)
    if not found.of_items:
        low, high = _unseen(value, limits, fewest)
        return Figure(value, min(low, value - half), max(high, value + half))
    wider = half / (float(stats.norm.ppf((1 + LEVEL) / 2)) * found.of_items)
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Figure(value, value - (value - low) * wider, value + (high - value) * wider)


def difference(
    metric: Metric,
    first: Doubles,
    other: Doubles,
    *,
    limits: tuple[float, float] = (0.0, 1.0),
    fewest: int | None = None,
    rng_seed: int = 0,
) -> Difference:
    """`other` less `first`, both [n_seeds, n_items]: a draw takes the same items of both, and seeds are paired.

    `limits`, `fewest` and `rng_seed` as of `figure`. Equal scores differ by 0 to 0.

    Raises:
        InputError: as `figure`.
    """
    value = mean_over_seeds(metric, other) - mean_over_seeds(metric, first)
    drawn = _drawn(metric, other, rng_seed) - _drawn(metric, first, rng_seed)
    found = _spread(drawn, _by_seed(metric, other) - _by_seed(metric, first))
    half = found.half(LEVEL)
    if not found.of_items and value:
        widest = limits[1] - limits[0]
        low, high = _unseen(value, (-widest, widest), fewest)
        return Difference(
            value,
            min(low, value - half),
            max(high, value + half),
            max(found.p(value), 2 * 0.5**fewest if fewest else 0.0),
        )
    return Difference(value, value - half, value + half, found.p(value))


def _unseen(value: float, limits: tuple[float, float], n: int | None) -> tuple[float, float]:
    """Where a figure would be if items were of another kind as often as n alike ones allow (Clopper-Pearson)."""
    share = 1 - ((1 - LEVEL) / 2) ** (1 / n) if n else 0.0
    return value - share * (value - limits[0]), value + share * (limits[1] - value)


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
    value = float(np.mean(_by_seed(metric, scores)))
    if not np.isfinite(value):
        raise InputError("the figure is no number on these test items: are there items of both kinds?")
    return value


class Spread(NamedTuple):
    """How far a figure is from what it would be of endless items and seeds."""

    of_items: float
    """Standard error by items alone."""
    of_all: float
    freedom: float
    """Degrees of it; infinite where seeds add nothing."""
    of_seeds: float
    n_seeds: int

    def half(self, level: float) -> float:
        """Half of the interval."""
        return max(float(stats.t.ppf((1 + level) / 2, freedom)) * error for error, freedom in self._errors)

    def p(self, value: float) -> float:
        """Two-sided, where the truth is nothing; what never varied is told as surely as `N_DRAWS` draws can."""
        if not self.of_all:
            return 2 / (N_DRAWS + 1) if value else 1.0
        return max(float(2 * stats.t.sf(abs(value) / error, freedom)) for error, freedom in self._errors)

    @property
    def _errors(self) -> list[tuple[float, float]]:
        """Standard errors with their degrees of freedom: of both, and of seeds where they add anything."""
        of_seeds = [(self.of_seeds, self.n_seeds - 1.0)] if self.of_seeds else []
        return [(self.of_all, self.freedom), *of_seeds]


def _spread(drawn: Doubles, by_seed: Doubles) -> Spread:
    """Of draws of items [N_DRAWS] and figures of seeds [n_seeds]."""
    n_seeds, items = len(by_seed), float(np.nanvar(drawn))
    items = items if items > NOTHING else 0.0
    seeds = float(np.var(by_seed, ddof=1)) / n_seeds if n_seeds > 1 else 0.0
    seeds = seeds if seeds > NOTHING else 0.0
    freedom = (items + seeds) ** 2 / (seeds**2 / (n_seeds - 1)) if seeds else np.inf
    return Spread(float(np.sqrt(items)), float(np.sqrt(items + seeds)), freedom, float(np.sqrt(seeds)), n_seeds)


def _by_seed(metric: Metric, scores: Doubles) -> Doubles:
    """[n_seeds], of all items."""
    return np.array([of_all(metric, row) for row in scores])


def _drawn(metric: Metric, scores: Doubles, rng_seed: int) -> Doubles:
    """Means over seeds [N_DRAWS] of scores [n_seeds, n_items]; all results on the same items are drawn alike."""
    rng, n_items = np.random.default_rng(rng_seed), scores.shape[1]
    items = rng.multinomial(n_items, np.full(n_items, 1 / n_items), size=N_DRAWS).astype(np.float64)
    return np.asarray(np.mean([metric(row, items) for row in scores], axis=0))
