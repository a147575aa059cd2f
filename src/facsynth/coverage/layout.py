"""Features in two dimensions, near each other where their decoder directions are: for a map, never for a figure.

Laplacian eigenmaps (Belkin and Niyogi 2003) of the graph of nearest neighbours by cosine. Nothing is drawn at random:
equal directions give an equal map, up to what the order of its features changes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.sparse.linalg import eigsh

from facsynth.bins import Doubles

N_NEIGHBOURS = 12
BLOCK = 2_000
"""Rows whose cosines are held at once."""
FEWEST, DENSE = 5, 400
"""Fewer features make no map; up to so many the eigenvectors are found exactly."""


def laid_out(directions: npt.NDArray[np.float32]) -> npt.NDArray[np.int64] | None:
    """int64[n_features, 2] in 0 … 1000; None for fewer than 5 features.

    Args:
        directions: [n_features, d_model], decoder rows, none of length 0.
    """
    n = len(directions)
    if n < FEWEST:
        return None
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    graph = _neighbours(unit, min(N_NEIGHBOURS, n - 1))
    root = 1 / np.sqrt(graph.sum(axis=1))
    scaled = diags_array(root) @ graph @ diags_array(root)
    if n <= DENSE:
        vectors = eigh(scaled.toarray())[1][:, -3:-1]
    else:
        vectors = eigsh(scaled, k=3, v0=np.ones(n), tol=1e-6)[1][:, -3:-1]
    places = vectors * root[:, None]
    spread = np.stack([_by_rank(column) for column in places.T], axis=1)
    return (1000 * spread).round().astype(np.int64)


def _neighbours(unit: npt.NDArray[np.float32], k: int) -> csr_array:
    """[n, n], symmetric: 1 + cosine of each feature and its k nearest."""
    rows, columns, weights = [], [], []
    for start in range(0, len(unit), BLOCK):
        cosines = unit[start : start + BLOCK] @ unit.T
        here = np.arange(len(cosines))
        cosines[here, start + here] = -np.inf
        nearest = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        rows.append(np.repeat(start + here, k))
        columns.append(nearest.ravel())
        weights.append(1.0 + np.take_along_axis(cosines, nearest, axis=1).ravel().astype(np.float64))
    joined = (np.concatenate(rows), np.concatenate(columns))
    graph = coo_array((np.maximum(np.concatenate(weights), 1e-6), joined), shape=(len(unit), len(unit))).tocsr()
    return csr_array(graph.maximum(graph.T))


def _by_rank(values: Doubles) -> Doubles:
    """In [0, 1]: halfway between place and rank, so that few far ones do not push all others together."""
    rank = np.argsort(np.argsort(values, kind="stable"), kind="stable") / max(len(values) - 1, 1)
    spread = (values - values.min()) / max(float(np.ptp(values)), 1e-12)
    halfway: Doubles = (rank + spread) / 2
    return halfway
