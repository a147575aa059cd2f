"""How sure a downstream figure is: test items and seeds are drawn again, together.

Before: a task's evaluation gives a score for each test item and seed. After: `evaluating` writes figures down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

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


def figure(metric: Metric, scores: Doubles, *, rng_seed: int = 0) -> Figure:
    """Mean over seeds of the metric, with a percentile interval over draws of items and seeds.

    Args:
        metric: of one seed. A draw in which it is not a number, as where no positive item is drawn, is left out.
        scores: [n_seeds, n_items].
        rng_seed: of the draws.

    Raises:
        InputError: no seeds, no items, or the metric is no number on the items themselves.
    """
    value, drawn = _value(metric, scores), _drawn(metric, scores, rng_seed)
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Figure(value, float(low), float(high))


def _value(metric: Metric, scores: Doubles) -> float:
    if not scores.size:
        raise InputError(f"nothing to measure: {scores.shape[0]} seeds, {scores.shape[1]} test items")
    items = np.arange(scores.shape[1])
    value = float(np.mean([metric(items, row) for row in scores]))
    if not np.isfinite(value):
        raise InputError("the figure is no number on these test items: are there items of both kinds?")
    return value


def _drawn(metric: Metric, scores: Doubles, rng_seed: int) -> Doubles:
    """[N_DRAWS], each of as many items and seeds, drawn with replacement."""
    rng, (n_seeds, n_items) = np.random.default_rng(rng_seed), scores.shape
    found = np.empty(N_DRAWS)
    for draw in range(N_DRAWS):
        items = np.asarray(rng.integers(0, n_items, n_items), np.int64)
        seeds = np.asarray(rng.integers(0, n_seeds, n_seeds), np.int64)
        found[draw] = np.mean([metric(items, row[items]) for row in scores[seeds]])
    return found
