"""Codes found block by block, with bfloat16 products, are those of one float32 product and a sort."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from facsynth.model import screen
from facsynth.model.sae import Codes, Sae
from facsynth.model.screen import Products, at_most_kth


def sae_of(d_in: int, d_sae: int, architecture: str = "topk", *, k: int = 5, rng_seed: int = 0) -> Sae:
    """Rows of W_enc of different length, and a b_dec that is long, as real ones are."""
    rng = torch.Generator().manual_seed(rng_seed)
    W_enc = torch.randn((d_in, d_sae), generator=rng) * (0.5 + torch.rand(d_sae, generator=rng)) / d_in**0.5
    return Sae(
        W_enc, torch.randn(d_sae, generator=rng), W_enc.T.contiguous(), 3 * torch.randn(d_in, generator=rng),
        architecture=architecture, hook_point="layers.1", model_name="",
        k={"topk": k, "groupmax": n_groups(d_sae)}.get(architecture, 0),
        threshold=1 + torch.rand(d_sae, generator=rng) if architecture == "jumprelu" else None,
    )  # fmt: skip


def n_groups(d_sae: int) -> int:
    return max(k for k in range(1, 33) if d_sae % k == 0)


def tokens(n: int, d_in: int, rng_seed: int = 1) -> torch.Tensor:
    """Most of ordinary length, one in ten a hundred times as long, one coordinate that rules all; bfloat16."""
    rng = torch.Generator().manual_seed(rng_seed)
    x = 4 * torch.randn((n, d_in), generator=rng)
    x[::10] *= 100
    x[:, 0] += 60
    return x.bfloat16()


def by_numpy(sae: Sae, x: torch.Tensor, codes: str = "native") -> list[dict[int, float]]:
    """Each token's codes, from one product in float64 and a full sort."""
    W, b, b_dec = (t.double().numpy() for t in (sae.W_enc, sae.b_enc, sae.b_dec))
    found = []
    for row in (x.double().numpy() - b_dec) @ W + b:
        kept = np.arange(len(row))
        if codes == "native" and sae.architecture == "topk":
            kept = np.argsort(-row)[: sae.k]
        elif codes == "native" and sae.threshold is not None:
            kept = np.flatnonzero(row > sae.threshold.numpy())
        elif codes == "native" and sae.architecture == "groupmax":
            width = sae.d_sae // sae.k
            kept = row.reshape(sae.k, width).argmax(1) + width * np.arange(sae.k)
        found.append({int(i): float(row[i]) for i in kept if row[i] > 0})
    return found


def by_token(codes: Codes) -> list[dict[int, float]]:
    found: list[dict[int, float]] = [{} for _ in range(codes.n_tokens)]
    for token, feature, act in zip(codes.token.tolist(), codes.feature.tolist(), codes.act.tolist(), strict=True):
        assert feature not in found[token]
        found[token][feature] = act
    return found


KINDS = [("topk", "native"), ("jumprelu", "native"), ("standard", "native"), ("groupmax", "native"), ("topk", "relu")]


def check(codes: Codes, expected: list[dict[int, float]]) -> None:
    """The same latents, but for what rounding decides, in order, with the same values."""
    ordered = (codes.token.diff() > 0) | ((codes.token.diff() == 0) & (codes.feature.diff() > 0))
    assert bool(ordered.all())
    for ours, theirs in zip(by_token(codes), expected, strict=True):
        assert all(max(ours.get(i, 0), theirs.get(i, 0)) < 1e-3 for i in ours.keys() ^ theirs.keys())
        assert all(math.isclose(ours[i], theirs[i], rel_tol=1e-3, abs_tol=1e-3) for i in ours.keys() & theirs.keys())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("architecture", "codes"), KINDS)
@pytest.mark.parametrize(("d_sae", "block"), [(1000, 8192), (1024, 256), (777, 100), (512, 512)])
def test_codes_are_those_of_a_sort_whatever_the_blocks(
    dtype: torch.dtype, architecture: str, codes: str, d_sae: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "FEATURE_BLOCK", block)
    sae, x = sae_of(24, d_sae, architecture), tokens(60, 24)
    check(sae.encode(x.to(dtype), codes), by_numpy(sae, x, codes))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.sampled_from([300, 512, 1024]))
@example(136, 27, 512)
def test_bfloat16_products_lose_no_code_of_any_token(rng_seed: int, k: int, d_sae: int) -> None:
    sae, x = sae_of(16, d_sae, k=k, rng_seed=rng_seed), tokens(20, 16, rng_seed)
    exact, found = sae.encode(x.float()), sae.encode(x)
    for one, other in zip(by_token(found), by_token(exact), strict=True):
        assert len(one) == len(other)
        lost = [act for feature, act in one.items() if feature not in other]  # where two tie, but for rounding
        assert lost == pytest.approx([act for feature, act in other.items() if feature not in one], rel=1e-6)
        shared = one.keys() & other.keys()
        assert [one[i] for i in shared] == pytest.approx([other[i] for i in shared], rel=1e-4, abs=1e-4)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 300), st.sampled_from([256, 512, 1000, 2048]))
def test_the_bound_is_reached_by_k_entries(rng_seed: int, k: int, d: int) -> None:
    pre = torch.randn((7, d), generator=torch.Generator().manual_seed(rng_seed))
    bound = at_most_kth(pre, k)
    if k > d:
        assert (bound == -torch.inf).all()
    else:
        assert ((pre >= bound[:, None]).sum(1) >= k).all()


def test_the_error_of_a_rough_product_is_within_its_bound() -> None:
    sae, x = sae_of(64, 2048), tokens(200, 64)
    rough = Products.rough(*sae.products[:2])
    product, exact = next(rough.blocks(x))[1].double(), next(sae.products.blocks(x))[1].double()
    bound = rough.slack(x).double()[:, None] + screen.ROUNDING * product.abs()
    assert ((product - exact).abs() <= bound).all()
    assert (product - exact).abs().max() > 1e-3, "else there was nothing to bound"


def test_tokens_on_which_nothing_fires_and_no_tokens_at_all() -> None:
    sae = sae_of(8, 512)
    silent = Sae(
        torch.zeros(8, 512), torch.full((512,), -1.0), torch.zeros(512, 8), torch.zeros(8), architecture="topk",
        hook_point="", model_name="", k=5,
    )  # fmt: skip
    for dtype in (torch.float32, torch.bfloat16):
        assert silent.encode(torch.ones((4, 8), dtype=dtype)).act.tolist() == []
        assert sae.encode(torch.zeros((0, 8), dtype=dtype)).n_tokens == 0


def test_no_block_of_products_outlives_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 32 blocks never more than two are there at once: the one at work, and the one before it."""
    monkeypatch.setattr(screen, "FEATURE_BLOCK", 64)
    alive: set[int] = set()
    most = 0
    whole = Products.blocks

    def counted(self: Products, x: torch.Tensor, size: int = 0) -> Iterator[tuple[int, torch.Tensor]]:
        nonlocal most
        for first, pre in whole(self, x, size):
            assert pre.shape[1] == 64
            alive.add(first)
            weakref.finalize(pre, alive.discard, first)
            most = max(most, len(alive))
            yield first, pre

    monkeypatch.setattr(Products, "blocks", counted)
    for architecture in ("topk", "jumprelu", "standard", "groupmax"):
        sae_of(16, 2048, architecture).encode(tokens(20, 16))
        assert most <= 2


class Widest(TorchDispatchMode):
    """The most numbers that any matrix of a dtype which torch made holds."""

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.dtype, self.n = dtype, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and tensor.dim() > 1:
                self.n = max(self.n, tensor.numel() if self.dtype in (None, tensor.dtype) else 0)
        return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("architecture", "codes"), KINDS)
def test_no_array_of_all_tokens_and_features_is_made(
    architecture: str, codes: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "FEATURE_BLOCK", 128)
    n, d_in, d_sae = 256, 8, 2048
    sae, x = sae_of(d_in, d_sae, architecture), tokens(n, d_in).to(dtype)
    sae.encode(x[:1])  # the weights in both precisions are [d_in, d_sae], and made once
    with Widest() as made:
        sae.encode(x, codes)
    assert made.n < n * d_sae / 4


@pytest.mark.parametrize(("bias", "often"), [(-100.0, False), (-40.0, False), (-10.0, True), (0.0, True), (50.0, True)])
def test_relu_codes_are_those_of_numpy_however_many_fire(
    bias: float, often: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where few do, products are bfloat16 at first; where many do, float32 but for the tokens that tell."""
    monkeypatch.setattr(screen, "FEATURE_BLOCK", 256)
    sae, x = sae_of(24, 1024, "standard"), tokens(100, 24).clamp(-20, 20)
    sae = replace(sae, b_enc=sae.b_enc + bias)
    sae.encode(x[:1])
    with Widest(torch.bfloat16) as made:
        found = sae.encode(x)
    check(found, by_numpy(sae, x))
    assert (len(found.act) / (100 * 1024) > screen.OFTEN) == often
    assert (made.n < 100 * 256) == often
