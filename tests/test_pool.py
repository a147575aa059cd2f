"""Pooling of codes alone: the first of the highest, in order, and dense codes as a list of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
from facsynth.features import pool
from facsynth.features.pool import pool_codes, pool_dense
from facsynth.model import screen
from facsynth.model.sae import Codes


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.integers(1, 2), st.dictionaries(st.integers(0, 5), st.sampled_from([0.5, 1.0, 2.0]))
        ),
        max_size=12,
    )
)  # fmt: skip
def test_pooling_takes_the_first_of_the_highest(rows: list[tuple[int, int, dict[int, float]]]) -> None:
    flat = [(token, feature, act) for token, (_, _, acts) in enumerate(rows) for feature, act in sorted(acts.items())]
    codes = Codes(
        torch.tensor([t for t, _, _ in flat], dtype=torch.int64),
        torch.tensor([f for _, f, _ in flat], dtype=torch.int64),
        torch.tensor([a for _, _, a in flat], dtype=torch.float32),
        len(rows),
    )
    position = np.arange(len(rows)) + 7
    found = pool_codes(
        codes, np.array([s for s, _, _ in rows], int), np.array([r for _, r, _ in rows], np.uint8), position
    )
    slow: dict[tuple[int, int, int], list[tuple[float, int]]] = {}
    for token, feature, act in flat:
        slow.setdefault((*rows[token][:2], feature), []).append((-act, token + 7))
    expected = [(*key, -min(values)[0], min(values)[1], len(values)) for key, values in sorted(slow.items())]
    assert list(zip(*(column.tolist() for column in found), strict=True)) == expected


@pytest.mark.parametrize("block", [7, 1024])
def test_dense_codes_are_pooled_as_a_list_of_them_would_be(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "BLOCK_TOKENS", block)
    monkeypatch.setattr(screen, "FEATURE_BLOCK", 20)
    rng = np.random.default_rng(0)
    sae, n = tiny.random_sae(), 60
    x = torch.from_numpy(rng.standard_normal((n, 32)).astype(np.float32))
    sample = np.sort(rng.integers(6, size=n))
    role = rng.integers(1, 3, size=n).astype(np.uint8)
    position = np.arange(n) + 5
    expected = pool_codes(sae.encode(x, "relu"), sample, role, position)
    found = pool_dense(sae, x, sample, role, position)
    for column in ("sample", "role", "feature", "position", "n_firing"):
        assert getattr(found, column).tolist() == getattr(expected, column).tolist(), column
    np.testing.assert_allclose(found.activation, expected.activation, rtol=1e-4, atol=1e-6)
    assert [column.dtype for column in found] == [column.dtype for column in expected]
    nothing = np.zeros(0, np.int64)
    assert len(pool_dense(sae, x[:0], nothing, nothing.astype(np.uint8), nothing).feature) == 0
