"""Do sets that a measure finds better teach a task better? Rank correlations that do not mistake methods for samples.

Before: measures and task figures by method, seed and budget. After: `experimenting.correlating` writes them down.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from facsynth.bins import Doubles, Ints
from facsynth.errors import InputError

EXACT = 8
"""Points up to which every order is looked at: 40,320."""
N_ORDERS = 10_000
"""Orders drawn at random, of more points."""


class Correlation(NamedTuple):
    """A rank correlation, and how seldom chance gives one so far from nothing."""

    rho: float
    p: float
    n: int
    """Points: methods, or samples within them."""


def between(measure: Sequence[float], task: Sequence[float], *, rng_seed: int = 0) -> Correlation:
    """Spearman's correlation of means, a point a method, with a permutation p: exact for `EXACT` points and fewer.

    Raises:
        InputError: fewer than three points, or one of the two does not vary.
    """
    x, y = _ranks(np.array(measure)), _ranks(np.array(task))
    if len(x) < 3:
        raise InputError(f"{len(x)} methods have no correlation: three are needed")
    orders = _orders(len(x), rng_seed)
    return Correlation(_correlation(x, y), _share(np.abs(x[orders] @ y), abs(float(x @ y))), len(x))


def within(
    measure: Sequence[float], task: Sequence[float], method: Sequence[str], of_seed: Sequence[int], *, rng_seed: int = 0
) -> Correlation:
    """Correlation of ranks within each method, all methods together; p by orders of seeds, the same for all methods.

    Methods share a seed's data, so what a seed gives one it may give all: to exchange seeds method by method would take
    that for many findings. Of five seeds there are 120 orders, and no p is below 1/120.

    Raises:
        InputError: fewer than two seeds, other methods in each, or one of the two does not vary.
    """
    groups = _groups(method)
    x, y = np.empty(len(method)), np.empty(len(method))
    for group in groups:
        x[group], y[group] = _ranks(np.array(measure)[group]), _ranks(np.array(task)[group])
    return _by_orders(x, y, _by_seed(method, [0.0] * len(method), of_seed), rng_seed)


def partial(
    measure: Sequence[float], task: Sequence[float], method: Sequence[str], budget: Sequence[float],
    of_seed: Sequence[int], *, rng_seed: int = 0,
) -> Correlation:  # fmt: skip
    """Correlation of ranks over all points, given method and log budget: what is left after a linear fit of both.

    The budgets of a seed are parts of one synthesis, and methods share its data, so p is as `within`.

    Raises:
        InputError: as `within`, or other budgets in each.
    """
    groups = _groups(method)
    given = np.column_stack([*(np.isin(np.arange(len(method)), g).astype(float) for g in groups), np.log(budget)])
    x, y = (_left(rankdata(values), given) for values in (measure, task))
    return _by_orders(x, y, _by_seed(method, budget, of_seed), rng_seed)


def _by_seed(method: Sequence[str], budget: Sequence[float], of_seed: Sequence[int]) -> Ints:
    """Places of points [n_seeds, points of a seed], of all methods and budgets in one order."""
    by_seed: dict[int, list[tuple[str, float, int]]] = {}
    for place, (one, many, seed) in enumerate(zip(method, budget, of_seed, strict=True)):
        by_seed.setdefault(seed, []).append((one, many, place))
    rows = [sorted(points) for points in by_seed.values()]
    if len({tuple(point[:2] for point in row) for row in rows}) > 1:
        raise InputError("seeds have other methods or budgets each: they cannot be exchanged")
    return np.array([[place for *_, place in row] for row in rows])


def _ranks(values: Doubles) -> Doubles:
    """Around nothing."""
    ranks = rankdata(values)
    return np.asarray(ranks - ranks.mean())


def _left(values: Doubles, given: Doubles) -> Doubles:
    fitted, *_ = np.linalg.lstsq(given, values, rcond=None)
    return np.asarray(values - given @ fitted)


def _groups(method: Sequence[str]) -> list[Ints]:
    names = np.array(method)
    return [np.flatnonzero(names == name) for name in dict.fromkeys(method)]


def _correlation(x: Doubles, y: Doubles) -> float:
    length = math.sqrt(float(x @ x) * float(y @ y))
    if length < 1e-12:
        raise InputError("one of the two is the same everywhere: there is nothing to correlate")
    return float(x @ y) / length


def _by_orders(x: Doubles, y: Doubles, places: Ints, rng_seed: int) -> Correlation:
    """Of points at places [n_seeds, points of a seed]: seeds change places in one of the two."""
    if len(places) < 2:
        raise InputError("there is one seed: there is nothing to correlate within methods")
    products = x[places] @ y[places].T  # of a seed in the place of another one
    found = products[_orders(len(places), rng_seed), np.arange(len(places))].sum(axis=1)
    return Correlation(_correlation(x, y), _share(np.abs(found), abs(float(x @ y))), len(x))


def _orders(n: int, rng_seed: int) -> Ints:
    """All of n points where they are few, else as they are and many drawn at random."""
    if n <= EXACT:
        return np.array(list(itertools.permutations(range(n))))
    rng = np.random.default_rng(rng_seed)
    return np.array([np.arange(n), *(rng.permutation(n) for _ in range(N_ORDERS))])


def _share(found: Doubles, limit: float) -> float:
    """Of orders that give as much, rounding aside."""
    return float((found >= limit - 1e-9).mean())
