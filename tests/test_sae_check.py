"""What the self-check says of SAEs that are read rightly and wrongly: pure arithmetic on made-up activations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from facsynth.errors import ModelError
from facsynth.model.sae import Declared, Reconstruction, Sae
from facsynth.model.sae_check import (
    DOUBTFUL,
    FITS,
    REFUSED,
    Reading,
    Verdict,
    as_topk,
    best,
    conventions,
    fit,
    judge,
    places,
)

N, D, K = 400, 128, 8


def sparse_world(rng_seed: int = 0) -> tuple[torch.Tensor, Sae]:
    """Activations that are sums of K of 2 D directions with a common offset, and the topk SAE that made them."""
    rng = torch.Generator().manual_seed(rng_seed)
    W = torch.nn.functional.normalize(torch.randn(2 * D, D, generator=rng), dim=1)
    codes = torch.zeros(N, 2 * D)
    chosen = torch.rand(N, 2 * D, generator=rng).topk(K, dim=1).indices
    codes.scatter_(1, chosen, 3 + torch.rand(N, K, generator=rng))
    b_dec = 2 * torch.randn(D, generator=rng)
    sae = Sae(W.T.contiguous(), torch.full((2 * D,), -0.8), W, b_dec, architecture="topk", hook_point="layers.3",
              model_name="made", k=K)  # fmt: skip
    return codes @ W + b_dec, sae


X, SAE = sparse_world()


def other_words(verdict: Verdict) -> str:
    return " ".join(verdict.reasons)


def test_an_sae_on_what_it_was_made_for_fits() -> None:
    found = fit(SAE, X)
    assert found.explained_variance > 0.6
    assert judge(
        found, Declared(l0=K, explained_variance=0.8), [*conventions(SAE, X, found.explained_variance)]
    ) == Verdict(FITS)


def test_units_of_the_whole_change_nothing_and_sinks_do_not_count() -> None:
    found = fit(SAE, X)
    scaled = replace(SAE, b_enc=SAE.b_enc * 50, b_dec=SAE.b_dec * 50)
    assert fit(scaled, X * 50).fvu == pytest.approx(found.fvu, rel=1e-4)
    assert fit(SAE, torch.cat([X, 1e4 * torch.ones(3, D)])) == found
    with pytest.raises(ModelError, match="no tokens"):
        fit(SAE, X[:0])


WRONG: dict[str, tuple[Sae, str]] = {
    "b_dec is not subtracted": (replace(SAE, centred=False), "it fits with b_dec subtracted from the input"),
    "a scale of 16 is not folded": (
        replace(SAE, W_enc=SAE.W_enc * 16, W_dec=SAE.W_dec / 16, b_dec=SAE.b_dec / 16),
        "it fits on activations times 0.0625",
    ),
    "a scale of a quarter is not folded": (
        replace(SAE, b_dec=SAE.b_dec / 4, b_enc=SAE.b_enc / 4), "it fits on activations times 0.25",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_convention_is_named(name: str) -> None:
    sae, words = WRONG[name]
    found = fit(sae, X)
    verdict = judge(found, sae.declared, conventions(sae, X, found.explained_variance))
    assert verdict.word == REFUSED, verdict
    assert words in other_words(verdict)


def test_a_topk_sae_read_as_relu_is_named_with_its_k() -> None:
    wide = replace(SAE, architecture="standard", k=0, b_enc=torch.zeros(2 * D))
    found = fit(wide, X)
    verdict = judge(found, Declared(), as_topk(wide, X, found.explained_variance))
    assert found.l0 > 4 * K
    assert (verdict.word, "it fits as topk with k = 8" in other_words(verdict)) == (REFUSED, True)
    assert "sae.k (--sae-k)" in other_words(verdict)
    assert as_topk(SAE, X, 0.5) == [], "one that is topk already has no such doubt"


def test_trimming_does_not_make_a_true_relu_sae_doubtful() -> None:
    relu = replace(SAE, architecture="standard", k=0, b_enc=torch.full((2 * D,), -1.5))
    found = fit(relu, X)
    assert judge(found, Declared(), as_topk(relu, X, found.explained_variance)) == Verdict(FITS)


def test_the_place_that_fits_is_named_and_one_that_is_no_better_is_not() -> None:
    elsewhere = X.flip(1)
    here = fit(SAE, elsewhere).explained_variance
    verdict = judge(fit(SAE, elsewhere), Declared(), places(SAE, {"layers.2": elsewhere, "layers.4": X}, here))
    assert verdict.word == REFUSED
    assert verdict.better is not None
    assert verdict.better.what == "at layers.4"
    assert "model.hook_point (--hook-point)" in other_words(verdict)
    there = fit(SAE, X).explained_variance
    assert judge(fit(SAE, X), Declared(), places(SAE, {"layers.2": elsewhere, "layers.4": X}, there)) == Verdict(FITS)


def test_an_sae_of_another_model_is_refused_and_nothing_is_named() -> None:
    _, other = sparse_world(rng_seed=7)
    found = fit(other, X)
    verdict = judge(found, other.declared, conventions(other, X, found.explained_variance))
    assert (verdict.word, verdict.better) == (REFUSED, None)
    assert "worse than their mean" in other_words(verdict)


def reading(**changed: Any) -> Reading:
    return Reading(
        **({"what": "at layers.2", "advice": "", "explained": 0.9, "instead_of": 0.5, "convincing": 0.95} | changed)
    )


def found(explained: float = 0.8, l0: float = 30.0) -> Reconstruction:
    return Reconstruction(1 - explained, l0, 0.1, 500)


@pytest.mark.parametrize(
    ("figures", "declared", "readings", "word", "words"),
    [
        (found(), Declared(l0=30, explained_variance=0.85), [], FITS, ""),
        (found(0.0), Declared(), [], REFUSED, "worse than their mean"),
        (found(float("nan")), Declared(), [], REFUSED, "worse than their mean"),
        (found(0.45), Declared(), [], DOUBTFUL, "0.45: it loses more than half"),
        (found(0.45), Declared(explained_variance=0.7), [], DOUBTFUL, "more than half"),
        (found(0.79), Declared(explained_variance=0.9), [], DOUBTFUL, "0.79, declared 0.90: it loses more than twice"),
        (found(0.81), Declared(explained_variance=0.9), [], FITS, ""),
        (found(l0=301), Declared(l0=30), [], REFUSED, "301 latents fire a token, 30 are declared"),
        (found(l0=95), Declared(l0=30), [], DOUBTFUL, "95.0 latents fire a token, 30.0 are declared"),
        (found(l0=9), Declared(l0=30), [], DOUBTFUL, "9.0 latents fire"),
        (found(l0=80), Declared(l0=30), [], FITS, ""),
        (found(0.5), Declared(), [reading()], REFUSED, "it fits at layers.2 (0.90 instead of 0.50)"),
        (found(0.8), Declared(), [reading(explained=0.85, instead_of=0.8)], DOUBTFUL, "it fits at layers.2"),
        (found(0.8), Declared(), [reading(explained=0.805, instead_of=0.8)], FITS, ""),
        (found(0.8), Declared(), [reading(explained=0.84, instead_of=0.8, convincing=0.75)], FITS, ""),
        (found(-3), Declared(), [reading(explained=0.1, instead_of=-3)], REFUSED, "worse than their mean"),
    ],
)  # fmt: skip
def test_the_bounds(
    figures: Reconstruction, declared: Declared, readings: list[Reading], word: str, words: str
) -> None:
    verdict = judge(figures, declared, readings)
    assert verdict.word == word
    assert words in other_words(verdict)
    assert bool(verdict.reasons) == (word != FITS)


def test_of_several_readings_the_one_that_leaves_least_is_named() -> None:
    three = [reading(what=f"at layers.{n}", explained=explained) for n, explained in enumerate((0.7, 0.9, 0.8))]
    assert best(three) == three[1]
    assert best([]) is None
    assert best([reading(explained=1.0, instead_of=1.0)]) is None
