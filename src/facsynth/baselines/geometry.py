"""The arithmetic of methods that look at vectors of texts: clusters, uncertainty, matching of distributions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from facsynth.bins import Doubles, Ints

NOISE = 1e-6
"""Added to the diagonal of a kernel, which equal texts make singular."""


class Clusters(NamedTuple):
    """Of unit vectors."""

    centres: Doubles
    """[k, d], of length 1."""
    of: Ints
    """[n], the cluster of each vector."""


def clusters(x: Doubles, k: int, rng: np.random.Generator, n_rounds: int = 20) -> Clusters:
    """Spherical k-means of unit vectors [n, d]: each belongs to the centre of the largest cosine.

    Centres begin as k of the vectors; one that nothing belongs to stays where it is.
    """
    centres = x[rng.choice(len(x), min(k, len(x)), replace=False)]
    for _ in range(n_rounds):
        of = nearest(x, centres)
        sums = np.zeros_like(centres)
        np.add.at(sums, of, x)
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(length > 0, sums / np.where(length > 0, length, 1), centres)
    return Clusters(centres, nearest(x, centres))


def nearest(x: Doubles, centres: Doubles) -> Ints:
    """Of each vector [n, d] the centre [k, d] of the largest cosine; the first of equals."""
    found: Ints = np.argmax(x @ centres.T, axis=1).astype(np.int64)
    return found


def width_of(x: Doubles) -> float:
    """A length scale for `rbf`: the median distance of different vectors [n, d]; 1 where there are none."""
    distances = np.sqrt(_squares(x, x))[np.triu_indices(len(x), 1)]
    distances = distances[distances > 1e-9]
    return float(np.median(distances)) if len(distances) else 1.0


def rbf(x: Doubles, y: Doubles, width: float) -> Doubles:
    """exp(-|x - y|² / (2 width²)), [n_x, n_y]."""
    found: Doubles = np.exp(_squares(x, y) / (-2 * width**2))
    return found


def _squares(x: Doubles, y: Doubles) -> Doubles:
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * x @ y.T
    found: Doubles = np.maximum(squares, 0.0)
    return found


def most_uncertain(kernel: Doubles, n: int) -> list[int]:
    """Points of a Gaussian process, one after the other, where it is least certain given those before.

    The posterior variance of point i given D is k_ii - k_iD (k_DD + NOISE I)^-1 k_Di; the largest is next, the first
    of equals. As a pivoted Cholesky factor, so that no system is solved.

    Args:
        kernel: [m, m], of all points.
        n: how many, at most m.
    """
    variance = kernel.diagonal().copy()
    factor = np.zeros((0, len(kernel)))
    order: list[int] = []
    for _ in range(min(n, len(kernel))):
        left = variance.copy()
        left[order] = -np.inf
        best = int(np.argmax(left))
        row = (kernel[best] - factor[:, best] @ factor) / np.sqrt(variance[best] + NOISE)
        variance = variance - row**2
        factor = np.vstack([factor, row])
        order.append(best)
    return order


def matching_weights(within: Doubles, across: Doubles) -> Doubles:
    """Weights w ≥ 0 [n] of samples that minimise MMD²(real, Σ w · sample) = wᵀ K w - 2 wᵀ κ + const.

    With K + NOISE I = L Lᵀ that is least squares of Lᵀ w to L⁻¹ κ under w ≥ 0.

    Args:
        within: K, [n, n], of the samples.
        across: [n, n_real], of samples with real ones; κ is its mean.

    Source: arXiv 2502.08661. Differs: the sum is left free, and only which are large matters here.
    """
    from scipy.linalg import solve_triangular  # noqa: PLC0415  (takes a while to load)
    from scipy.optimize import nnls  # noqa: PLC0415

    lower = np.linalg.cholesky(within + NOISE * np.eye(len(within)))
    weights: Doubles = nnls(lower.T, solve_triangular(lower, across.mean(axis=1), lower=True))[0]
    return weights
