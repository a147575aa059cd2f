"""Sampling from a nucleus against a full sort in numpy; a cache in place against one that is copied."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache, LlamaConfig

from facsynth.model.decoding import CACHE_GROWTH, growing_cache, sample_nucleus


def slow_nucleus(logits: npt.NDArray[np.float64], temperature: float, top_p: float, uniform: float) -> int:
    order = np.argsort(-logits, kind="stable")
    probs = np.exp((logits[order] - logits.max()) / temperature)
    probs /= probs.sum()
    n_kept = int(np.sum(np.cumsum(probs) < top_p)) + 1 if top_p < 1 else len(probs)
    kept = probs[:n_kept] / probs[:n_kept].sum()
    return int(order[min(np.searchsorted(np.cumsum(kept), uniform, side="right"), len(kept) - 1)])


def column(values: npt.NDArray[np.float64]) -> torch.Tensor:
    return torch.from_numpy(values).double()


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 0.5, 0.9, 0.999, 1.0]), st.sampled_from([10, 64, 700]))
def test_sampling_equals_a_full_sort(rng_seed: int, top_p: float, n_vocab: int) -> None:
    rng = np.random.default_rng(rng_seed)
    n = 6
    logits = rng.normal(0, rng.choice([0.1, 1.0, 5.0], (n, 1)), (n, n_vocab)).astype(np.float32)  # flat to peaked
    temperature, uniform = rng.uniform(0.3, 1.5, n), rng.random(n)
    top_ps = np.where(np.arange(n) % 2 == 0, top_p, 0.7)  # settings differ within a batch
    found = sample_nucleus(torch.from_numpy(logits), column(temperature), column(top_ps), column(uniform)).tolist()
    for token, row, t, p, u in zip(found, logits.astype(np.float64), temperature, top_ps, uniform, strict=True):
        # float32 against float64: a number within rounding of a step may land on its other side.
        near = [(p, u - 1e-5), (p, u), (p, u + 1e-5), (p - 1e-5, u), (min(p + 1e-5, 1.0), u)]
        assert token in {slow_nucleus(row, t, *settings) for settings in near}


def test_an_even_grid_of_numbers_gives_every_token_its_share() -> None:
    probs = np.array([0.5, 0.3, 0.15, 0.05])
    grid = (np.arange(1000) + 0.5) / 1000
    logits = torch.from_numpy(np.log(probs)).float().expand(1000, 4)
    ones = np.ones(1000)
    for top_p, shares in ((1.0, [500, 300, 150, 50]), (0.8 - 1e-4, [625, 375, 0, 0]), (0.81, [526, 316, 158, 0])):
        tokens = sample_nucleus(logits, column(ones), column(top_p * ones), column(grid)).numpy()
        assert np.abs(np.bincount(tokens, minlength=4) - shares).max() <= 1


@pytest.mark.parametrize("n_first", [1, CACHE_GROWTH, 3 * CACHE_GROWTH + 5])
def test_a_growing_cache_holds_what_a_copied_one_does(n_first: int) -> None:
    config = LlamaConfig(num_hidden_layers=2)
    generator = torch.Generator().manual_seed(0)
    n_rows = 4
    ours, theirs = growing_cache(config), DynamicCache(config=config)
    for step in range(CACHE_GROWTH + 9):
        n = n_first if step == 0 else 1
        rows = {20: [3, 0, 0], 40: [1, 2]}.get(step)  # more of the same, then fewer
        if rows:
            n_rows = len(rows)
            for cache in (ours, theirs):
                cache.batch_select_indices(torch.tensor(rows))
        states = torch.randn(2, n_rows, 3, n, 8, generator=generator)
        for layer in range(2):
            a, b = ours.update(states[0], states[1], layer), theirs.update(states[0], states[1], layer)
            assert torch.equal(a[0], b[0])
            assert torch.equal(a[1], b[1])
        assert ours.get_seq_length() == theirs.get_seq_length()
    assert ours.get_seq_length() > CACHE_GROWTH
