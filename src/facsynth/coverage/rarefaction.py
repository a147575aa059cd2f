"""Coverage of samples that hold so many tokens: rarefaction by tokens, so that longer samples are no advantage.

After `features`, which hands in parts of a set; memory holds no more than its lengths. By samples: `richness`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from facsynth.bins import Doubles, Ids, Ints
from facsynth.incidence import Incidence, orders

N_ORDERS = 32
"""Random orders that are averaged."""


def covered_at(
    ids: Ids, n_tokens: Ints, parts: Iterable[Incidence], n_target: int, *, min_support: int = 1, rng_seed: int = 0
) -> Doubles:
    """[N_ORDERS, n_target], sorted as one: the tokens at which each target is covered; infinite where it never is.

    Samples are drawn in a random order, and the middle of a sample's tokens is where it counts: so what is drawn at t
    holds t tokens on average, however long its last sample is.

    Args:
        ids: [n_samples], of the whole set.
        n_tokens: [n_samples], its content tokens.
        parts: of the set, in the same order.
        n_target: how many targets there are.
        min_support: how many samples cover a target.
        rng_seed: of the orders.
    """
    middles = np.empty((N_ORDERS, len(ids)))
    for middle, order in zip(middles, orders(ids, N_ORDERS, rng_seed), strict=True):
        drawn = n_tokens[order]
        middle[order] = np.cumsum(drawn) - drawn / 2
    first, start = np.full((min_support, N_ORDERS, n_target), np.inf), 0
    for part in parts:
        by_column = np.argsort(part.column, kind="stable")
        columns, starts = np.unique(part.column[by_column], return_index=True)
        if len(columns):
            found = _lowest(middles[:, part.sample[by_column] + start], starts, min_support)
            both = np.concatenate([first[:, :, columns], found])
            first[:, :, columns] = np.sort(both, axis=0)[:min_support]
        start += len(part.ids)
    return np.sort(first[-1], axis=None).reshape(N_ORDERS, n_target)


def at_tokens(covered: Doubles, n_tokens: npt.ArrayLike) -> Doubles:
    """Coverage at so many tokens, [n]: the share of pairs of order and target that are covered by then.

    Args:
        covered: as `covered_at` gives it.
        n_tokens: [n]
    """
    return np.searchsorted(covered.ravel(), np.asarray(n_tokens, np.float64), side="right") / covered.size


def _lowest(values: Doubles, starts: Ints, n: int) -> Doubles:
    """[n, n_orders, n_columns]: the n lowest of each segment of the columns of `values`, which is used up."""
    lengths = np.diff(starts, append=values.shape[1])
    found = []
    for _ in range(n):
        found.append(np.minimum.reduceat(values, starts, axis=1))
        if n > 1:
            values[values == np.repeat(found[-1], lengths, axis=1)] = np.inf
    return np.stack(found)
