"""The samples of a pool that cover most: the same goal as writing, from texts that are there already. Pure arithmetic.

After `features`, whose codes it is handed; before `synthesis`, which writes only for what remains.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from facsynth.bins import Ints


def select(fires: csr_array, wanted: Ints, weights: Ints, lengths: Ints, n: int) -> Ints:
    """Up to `n` samples, one after the other the one that adds most.

    What a chosen set S is worth is

        Σ_f weights[f] · min(wanted[f], number of samples in S that fire f)

    which is monotone and submodular, so that greedy choice is worth at least 1 - 1/e of the best set of its size
    (Nemhauser, Wolsey and Fisher 1978, proposition 4.2). A sample adds for each feature the whole weight until that
    has all it wants, and nothing after: gains change only when a feature is done, so that no gain is ever computed
    twice, and a choice takes one pass over as many whole numbers as there are samples.

    Args:
        fires: [n_samples, n_features], not zero where a sample fires a feature above its limit.
        wanted: [n_features], samples that each lacks; 0 or less: none.
        weights: [n_features], at least 0.
        lengths: [n_samples], content tokens; of equal gains the shortest sample is taken, and of those the first.
        n: how many at most.

    Returns:
        Their rows, in the order of choice; fewer than `n` where no other sample adds anything.
    """
    order = np.argsort(lengths, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    left = np.maximum(wanted, 0).astype(np.int64)
    worth = np.where(left > 0, weights, 0).astype(np.int64)
    gains = (fires.astype(bool) @ worth)[order]
    samples_of = fires.tocsc()
    chosen: list[int] = []
    while len(chosen) < n and len(gains) and gains[best := int(np.argmax(gains))] > 0:
        row = int(order[best])
        chosen.append(row)
        gains[best] = 0
        fired = fires.indices[fires.indptr[row] : fires.indptr[row + 1]]
        left[fired] -= 1
        for feature in fired[left[fired] == 0]:
            samples = place[samples_of.indices[samples_of.indptr[feature] : samples_of.indptr[feature + 1]]]
            gains[samples] -= worth[feature]
    return np.array(chosen, np.int64)
