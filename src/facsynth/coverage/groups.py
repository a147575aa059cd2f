"""Features that are about the same, put together: one concept, written for once. Pure arithmetic.

Before: what is missing, ranked. After: `plan`. SAEs of many features split one meaning over several of them; to write
for each would pay for the same samples again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from facsynth.bins import Ints

BLOCK = 512
"""Features that are compared with all others at a time."""
CLOSE, SHARED, FEWEST = 0.7, 0.7, 5
"""Cosine of two decoder directions, and share of samples firing either that fire both (so many at least), from which
on two features are one concept. Among 4,096 random directions of width 576 the highest cosine is 0.22."""


def concepts(
    feature_ids: Sequence[int],
    directions: npt.NDArray[np.float32],
    firing: tuple[Ints, Ints],
    *,
    close: float = CLOSE,
    shared: float = SHARED,
) -> dict[int, int]:
    """For each feature the one that stands for its concept.

    In the given order, each feature that belongs to nobody yet stands for itself and for all later ones that are close
    to it: what is close to a member alone stays out, so that concepts do not run into each other.

    Args:
        feature_ids: the strongest first.
        directions: [n_features, d_model], decoder rows in this order, of any length.
        firing: (sample, feature) of every pair above its threshold, each once.
        close: cosine.
        shared: of the samples that fire either.
    """
    ids = np.asarray(feature_ids, np.int64)
    if not len(ids):
        return {}
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    unit = np.divide(directions, lengths, out=np.zeros_like(directions), where=lengths > 0)
    fires = _firing(ids, firing)
    stands = np.full(len(ids), -1)
    for start in range(0, len(ids), BLOCK):
        block = slice(start, start + BLOCK)
        alike = csr_array((unit[block] @ unit.T >= close) | _share_samples(fires, block, shared))
        for row, leader in enumerate(range(start, min(start + BLOCK, len(ids)))):
            if stands[leader] < 0:
                found = alike.indices[alike.indptr[row] : alike.indptr[row + 1]]
                stands[found[stands[found] < 0]] = leader
                stands[leader] = leader
    return {int(i): int(ids[leader]) for i, leader in zip(ids, stands, strict=True)}


def _firing(ids: npt.NDArray[np.int64], firing: tuple[Ints, Ints]) -> csr_array:
    """Whether a feature fires in a sample, [n_features, n_samples], in the order of `ids`."""
    samples, features = firing
    order = np.argsort(ids)
    at = np.searchsorted(ids[order], features)
    known = (at < len(ids)) & (ids[order][np.minimum(at, len(ids) - 1)] == features)
    rows = order[at[known]]
    return csr_array(
        (np.ones(len(rows), np.float32), (rows, samples[known])), shape=(len(ids), int(samples.max(initial=-1)) + 1)
    )


def _share_samples(fires: csr_array, block: slice, shared: float) -> npt.NDArray[np.bool_]:
    """Which features fire in the same samples as those of a block, [n_block, n_features]."""
    n_firing = fires.sum(axis=1)
    both = (fires[block] @ fires.T).toarray()
    is_shared: npt.NDArray[np.bool_] = (both >= FEWEST) & (both >= shared * (n_firing[block, None] + n_firing - both))
    return is_shared
