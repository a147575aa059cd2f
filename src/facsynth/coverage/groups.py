"""Features that are about the same, put together: one concept, written for once. Pure arithmetic.

Before: what is missing, ranked. After: `plan`. SAEs of many features split one meaning over several of them; to write
for each would pay for the same samples again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

CLOSE, SHARED, FEWEST = 0.7, 0.7, 5
"""Cosine of two decoder directions, and share of samples firing either that fire both (so many at least), from which
on two features are one concept. Among 4,096 random directions of width 576 the highest cosine is 0.22."""


def concepts(
    feature_ids: Sequence[int],
    directions: npt.NDArray[np.float32],
    firing: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]],
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
        firing: (sample, feature) of every pair above its threshold, each once; `Encoded.incidence`.
        close: cosine.
        shared: of the samples that fire either.
    """
    ids = np.asarray(feature_ids, np.int64)
    if not len(ids):
        return {}
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    unit = np.divide(directions, lengths, out=np.zeros_like(directions), where=lengths > 0)
    both, n_firing = _together(ids, firing)
    stands = np.full(len(ids), -1)
    for leader in range(len(ids)):
        if stands[leader] >= 0:
            continue
        stands[leader] = leader
        free = np.flatnonzero(stands < 0)
        common = both[[leader], :].toarray()[0, free]
        either = n_firing[leader] + n_firing[free] - common
        alike = ((unit @ unit[leader])[free] >= close) | ((common >= shared * either) & (common >= FEWEST))
        stands[free[alike]] = leader
    return {int(i): int(ids[leader]) for i, leader in zip(ids, stands, strict=True)}


def _together(
    ids: npt.NDArray[np.int64], firing: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]
) -> tuple[csr_array, npt.NDArray[np.int64]]:
    """In how many samples each two features fire together, [n, n], and each alone or not, [n]."""
    samples, features = firing
    order = np.argsort(ids)
    at = np.searchsorted(ids[order], features)
    known = (at < len(ids)) & (ids[order][np.minimum(at, len(ids) - 1)] == features)
    column = order[at[known]]
    shape = (int(samples.max(initial=-1)) + 1, len(ids))
    fires = csr_array((np.ones(len(column), np.int64), (samples[known], column)), shape=shape)
    return csr_array(fires.T @ fires), np.bincount(column, minlength=len(ids))
