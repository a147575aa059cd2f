"""The map: features of one direction lie together, others apart, and it is the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from facsynth.coverage.layout import laid_out


@pytest.mark.parametrize("n_each", [20, 300])
def test_bundles_of_directions_lie_apart(n_each: int) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 64))
    directions = np.concatenate([c + 0.7 * rng.normal(size=(n_each, 64)) for c in centres]).astype(np.float32)
    places = laid_out(directions)
    assert places is not None
    assert places.shape == (3 * n_each, 2)
    assert (places >= 0).all()
    assert (places <= 1000).all()
    bundles = places.reshape(3, n_each, 2).astype(float)
    middles = bundles.mean(axis=1)
    within = np.linalg.norm(bundles - middles[:, None], axis=2).mean()
    between = min(np.linalg.norm(middles[i] - middles[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert between > 1.5 * within
    np.testing.assert_array_equal(laid_out(directions), places)


def test_few_features_make_no_map_and_equal_ones_do_no_harm() -> None:
    assert laid_out(np.ones((4, 8), np.float32)) is None
    places = laid_out(np.ones((9, 8), np.float32))
    assert places is not None
    assert np.isfinite(places).all()
