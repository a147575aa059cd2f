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
    if len(x) <= EXACT:
        orders = np.array(list(itertools.permutations(range(len(x)))))
    else:
        rng = np.random.default_rng(rng_seed)
        orders = np.array([np.arange(len(x)), *(rng.permutation(len(x)) for _ in range(N_ORDERS))])
    return Correlation(_correlation(x, y), _share(np.abs(x[orders] @ y), abs(float(x @ y))), len(x))


def within(measure: Sequence[float], task: Sequence[float], method: Sequence[str], *, rng_seed: int = 0) -> Correlation:
    """Correlation of ranks within each method, all methods together; p by orders within methods.

    Raises:
        InputError: no method has two points, or one of the two does not vary.
    """
    groups = _groups(method)
    x, y = np.empty(len(method)), np.empty(len(method))
    for group in groups:
        x[group], y[group] = _ranks(np.array(measure)[group]), _ranks(np.array(task)[group])
    return _stratified(x, y, [group[:, None] for group in groups], rng_seed)


def partial(
    measure: Sequence[float], task: Sequence[float], method: Sequence[str], budget: Sequence[float],
    of_seed: Sequence[int], *, rng_seed: int = 0,
) -> Correlation:  # fmt: skip
    """Correlation of ranks over all points, given method and log budget: what is left after a linear fit of both.

    The budgets of a seed are parts of one synthesis, so p is by orders of whole seeds within methods.

    Raises:
        InputError: as `within`; or a method's seeds have other budgets each.
    """
    groups, budgets = _groups(method), np.array(budget, float)
    given = np.column_stack([*(np.isin(np.arange(len(method)), g).astype(float) for g in groups), np.log(budgets)])
    x, y = (_left(rankdata(values), given) for values in (measure, task))
    return _stratified(x, y, [_by_seed(group, np.array(of_seed), budgets) for group in groups], rng_seed)


def _by_seed(group: Ints, of_seed: Ints, budgets: Doubles) -> Ints:
    """Points of a method [n_seeds, n_budgets]."""
    by_budget, of = group[np.argsort(budgets[group])], of_seed[group[np.argsort(budgets[group])]]
    rows = [by_budget[of == one].tolist() for one in np.unique(of)]
    if len({tuple(budgets[row]) for row in rows}) > 1:
        raise InputError("the seeds of a method have other budgets each: whole seeds cannot be exchanged")
    return np.array(rows)


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


def _stratified(x: Doubles, y: Doubles, groups: Sequence[Ints], rng_seed: int) -> Correlation:
    """Of points, in groups [n units, points of each]: units of a group change places."""
    if max(map(len, groups), default=0) < 2:
        raise InputError("no method has two points: there is nothing to correlate within methods")
    rng, found = np.random.default_rng(rng_seed), np.zeros(N_ORDERS)
    for group in groups:
        products = x[group] @ y[group].T  # of a unit in the place of another one
        orders = rng.random((N_ORDERS, len(group))).argsort(axis=1)
        found += products[orders, np.arange(len(group))].sum(axis=1)
    told = float(x @ y)
    return Correlation(_correlation(x, y), _share(np.abs([told, *found]), abs(told)), len(x))


def _share(found: Doubles, limit: float) -> float:
    """Of orders that give as much, rounding aside."""
    return float((found >= limit - 1e-9).mean())
