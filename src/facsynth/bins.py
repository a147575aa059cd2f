"""The fixed bins of profiles, and the sums over them: maxima by eighths of an octave, lengths by half octaves.

A threshold between two edges moves to the nearer one, by at most 4.4 %; in return every count above an edge is exact.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from facsynth.errors import InputError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ids = npt.NDArray[np.uint64]
"""Sample ids: their 16 hex digits as a number."""
Positions = npt.NDArray[np.int32]

EDGES: Floats = np.ldexp(
    np.exp2(np.arange(225) % 8 / 8).astype(np.float32), (np.arange(225) // 8 - 10).astype(np.int32)
).astype(np.float32)
"""Bin i holds maxima in (EDGES[i], EDGES[i+1]]; the first starts at 0.0 instead of 2^-10, the last (above 2^18) is
open. So g > EDGES[i] exactly when its bin is at least i. Whole octaves are scaled exactly: equal on any machine."""
EDGES[0] = 0.0

N_TOP = 16
N_LENGTH_BINS = 40
"""Half octaves of content tokens: bin b holds n with 2^b <= n*n < 2^(b+1); n = 0 lies in the first, and everything
from 741,456 tokens on in the last."""


def length_bin(n_content_tokens: Ints) -> Ints:
    """The half octave of each length; exact, since n * n is an integer far below 2^53."""
    n = np.clip(n_content_tokens, 1, 1 << 20).astype(np.float64)
    exponent: Ints = np.frexp(n * n)[1].astype(np.int64)
    return np.minimum(exponent - 1, N_LENGTH_BINS - 1)


def activation_bin(activations: Floats) -> Ints:
    """The bin of each activation above 0."""
    return np.searchsorted(EDGES, activations, side="left").astype(np.int64) - 1


def round_to_edge(values: npt.ArrayLike) -> Floats:
    """The nearest bin edge by ratio; 0 stays 0, and anything above it stays above it."""
    v = np.asarray(values, dtype=np.float64)
    nearest = np.rint(8 * (np.log2(np.where(v > 0, v, 1.0)) + 10)).clip(1, len(EDGES) - 1).astype(np.int64)
    return np.where(v > 0, EDGES[nearest], np.float32(0.0)).astype(np.float32)


def edge_index(thresholds: Floats, d_sae: int) -> Ints:
    """The first bin above each feature's threshold.

    Raises:
        InputError: not [d_sae], or a threshold is neither 0.0 nor a bin edge.
    """
    limits = np.asarray(thresholds, dtype=np.float32)
    if limits.shape != (d_sae,):
        raise InputError(f"one threshold for each of {d_sae} features is needed, found shape {limits.shape}")
    index = np.minimum(np.searchsorted(EDGES, limits), len(EDGES) - 1)
    wrong = np.flatnonzero(EDGES[index] != limits)
    if len(wrong):
        raise InputError(
            f"threshold {limits[wrong[0]]} of feature {wrong[0]} is not a bin edge\nRound it with round_to_edge."
        )
    return index.astype(np.int64)


def quantile_edge(counts: Ints, q: float) -> Floats:
    """float32[n]: the edge nearest to the `q` quantile of each histogram in [n, n_bins]; 0 where it is empty.

    Within its bin the quantile lies by the share of the bin's samples that are below it.
    """
    total = np.cumsum(counts, axis=1)
    rank = q * total[:, -1:]
    last = len(EDGES) - 1
    at = np.minimum((total < rank).sum(axis=1, keepdims=True), last)
    inside = np.take_along_axis(counts, at, axis=1)
    below = np.take_along_axis(total, at, axis=1) - inside
    edge = np.rint(at + (rank - below) / np.maximum(inside, 1)).astype(np.int64)
    return np.where(total[:, -1] > 0, EDGES[np.minimum(edge[:, 0], last)], np.float32(0.0)).astype(np.float32)


def sum_by_key(key: Ints, *counts: Ints) -> tuple[Ints, ...]:
    """The different keys, ascending, and the sums of each of `counts` over them."""
    order = np.argsort(key, kind="stable")  # a timsort: parts that are sorted already are merged, not sorted
    key = key[order]
    starts = np.flatnonzero(_first_of_run(key[1:] != key[:-1], len(key)))
    return key[starts], *(np.add.reduceat(c[order], starts) if len(starts) else c for c in counts)


def best_samples(
    feature: Ints, value: Floats, sample: Ids, position: Positions, d_sae: int, *, different: bool = False
) -> tuple[Floats, Ids, Positions]:
    """Value, sample and position of the 16 best different samples of each feature, [d_sae, 16] each, 0 where empty.

    Ties go to the lower sample id. Taken of the best of parts, they are the best of the whole, in any order.
    `different`: no pair of feature and sample comes twice; that is a fifth of the work.
    """
    if different:
        order = _by_value(feature, value, sample)
    else:
        order = np.lexsort((position, -value, sample, feature))
        f, s = feature[order], sample[order]
        order = order[_first_of_run((f[1:] != f[:-1]) | (s[1:] != s[:-1]), len(order))]
        order = order[_by_value(feature[order], value[order], sample[order])]
    f = feature[order]
    rank = np.arange(len(f)) - np.searchsorted(f, f)
    order, at = order[rank < N_TOP], (f[rank < N_TOP], rank[rank < N_TOP])
    tops = (
        np.zeros((d_sae, N_TOP), np.float32),
        np.zeros((d_sae, N_TOP), np.uint64),
        np.zeros((d_sae, N_TOP), np.int32),
    )
    tops[0][at], tops[1][at], tops[2][at] = value[order], sample[order], position[order]
    return tops


def _by_value(feature: Ints, value: Floats, sample: Ids) -> Ints:
    """The order by feature, then falling value (above 0), then sample: one sort of whole numbers, ties behind it."""
    falling = np.uint64(0xFFFFFFFF) - value.view(np.uint32).astype(np.uint64)  # floats above 0 rise as their bits do
    key = feature.astype(np.uint64) << np.uint64(32) | falling
    order = np.argsort(key)
    key = key[order]
    same = key[1:] == key[:-1]
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same)) if len(key) else order
    order[tied] = order[tied][np.lexsort((sample[order[tied]], key[tied]))]
    return order


def bincount(index: Ints, counts: Ints, n: int) -> Ints:
    """Sums of `counts` by index, [n]; exact below 2^53."""
    return np.bincount(index, weights=counts, minlength=n).astype(np.int64)


def _first_of_run(differs: npt.NDArray[np.bool_], n: int) -> npt.NDArray[np.bool_]:
    return np.concatenate([np.ones(min(n, 1), bool), differs])
