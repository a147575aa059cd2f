"""Contrast finds what is planted, not what is merely longer; its test agrees with the formula written as a loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import false_discovery_control, hypergeom, norm

from facsynth.errors import InputError, MismatchError
from facsynth.meaning.relevance import contrast, everything
from facsynth.strata import mantel_haenszel
from test_profile import SPACE, profile_of


def zeros(n: int) -> np.ndarray:
    return np.zeros(n, np.float32)


def firing(rng: np.random.Generator, rates: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Maxima of samples each of whose tokens fires each feature at its rate: longer texts fire more."""
    return (rng.random((len(lengths), len(rates))) < 1 - (1 - rates) ** lengths[:, None]).astype(np.float32)


def test_planted_features_are_found_and_hardly_others() -> None:
    rng = np.random.default_rng(0)
    rates = 10 ** rng.uniform(-4, -1.5, 600)
    more = rates * np.where(np.arange(600) < 60, 8, 1)
    lengths = rng.integers(8, 200, 1500)
    anchor, background = (
        profile_of(firing(rng, more, lengths), lengths),
        profile_of(firing(rng, rates, lengths), lengths),
    )
    found = contrast(anchor, background, zeros(600))
    planted = (found.feature_ids < 60).sum()
    assert planted >= 40
    assert len(found.feature_ids) - planted <= 4
    assert (found.method, found.dropped_share) == ("contrast", 0.0)
    assert (found.log_odds >= math.log(3)).all()
    assert (found.q_values < 0.05).all()
    assert len(found.log_odds) == len(found.q_values) == len(found.feature_ids)


def test_the_same_texts_cut_to_half_length_give_no_more_than_the_nominal_share() -> None:
    """Unstratified, the same data would give hundreds of findings."""
    findings, crude = [], 0
    for rng_seed in range(2):
        rng = np.random.default_rng(rng_seed)
        rates = 10 ** rng.uniform(-4, -1.5, 800)
        lengths = np.maximum(rng.lognormal(4, 0.7, 1200).astype(int), 4)
        long, short = firing(rng, rates, lengths), firing(rng, rates, lengths // 2)
        found = contrast(profile_of(long, lengths), profile_of(short, lengths // 2), zeros(800))
        findings.append(len(found.feature_ids))
        same = np.full(len(lengths), 64)
        crude += len(contrast(profile_of(long, same), profile_of(short, same), zeros(800)).feature_ids)
    assert np.mean(findings) <= 0.05 * 800 / 10
    assert crude > 40


def loop(a: np.ndarray, c: np.ndarray, n1: np.ndarray, n0: np.ndarray) -> tuple[float, float, float]:
    """Cochran-Mantel-Haenszel z without continuity correction, log-odds, and the exact one-sided p of one feature."""
    observed = mean = variance = rises = falls = 0.0
    exact = np.ones(1)
    for ai, ci, n1i, n0i in zip(a, c, n1, n0, strict=True):
        n, m = n1i + n0i, ai + ci
        observed += ai
        mean += n1i * m / n
        variance += n1i * n0i * m * (n - m) / (n**2 * (n - 1))
        rises, falls = rises + ai * (n0i - ci) / n, falls + (n1i - ai) * ci / n
        exact = np.convolve(exact, hypergeom.pmf(np.arange(m + 1), n, n1i, m))
    z = (observed - mean - 0.5) / math.sqrt(variance)
    return z, math.log((rises + 0.5) / (falls + 0.5)), float(exact[int(observed) :].sum())


def test_many_samples_agree_with_the_normal_formula_and_the_exact_test() -> None:
    rng = np.random.default_rng(1)
    n1, n0 = np.array([300, 500, 200]), np.array([400, 300, 600])
    a, c = rng.binomial(n1, 0.33, (40, 3)), rng.binomial(n0, 0.3, (40, 3))
    p, log_odds = mantel_haenszel(a, c, n1.astype(float), n0.astype(float))
    slow = [loop(a[i], c[i], n1, n0) for i in range(40)]
    assert np.allclose(log_odds, [row[1] for row in slow])
    assert np.allclose(p, norm.sf([row[0] for row in slow]), rtol=0.15, atol=1e-4)
    assert np.allclose(np.log(p), np.log([row[2] for row in slow]), rtol=0.03)


def test_a_rare_feature_and_a_large_background_agree_with_the_exact_test_where_the_normal_fails() -> None:
    n1, n0 = np.array([200, 200]), np.array([40_000, 60_000])
    a = np.array([[2, 1], [3, 3], [1, 0], [20, 15], [200, 200]])
    c = np.array([[15, 10], [40, 60], [0, 0], [40, 10], [9, 9]])
    p, _ = mantel_haenszel(a, c, n1.astype(float), n0.astype(float))
    slow = [loop(a[i], c[i], n1, n0) for i in range(5)]
    assert np.allclose(np.log(p[:4]), np.log([row[2] for row in slow[:4]]), rtol=0.02)
    assert norm.sf(slow[0][0]) < 0.001 * p[0]
    assert p[4] < 1e-300 or math.log(p[4]) < -500


def test_null_p_values_are_not_too_small() -> None:
    rng = np.random.default_rng(2)
    n1, n0 = np.array([50.0, 80.0, 20.0]), np.array([900.0, 500.0, 2000.0])
    rates = 10 ** rng.uniform(-3, -0.5, (20_000, 1))
    a, c = rng.binomial(n1.astype(int), rates), rng.binomial(n0.astype(int), rates)
    p, _ = mantel_haenszel(a, c, n1, n0)
    for alpha in (0.05, 0.01, 0.001):
        assert (p <= alpha).mean() <= alpha * 1.1 + 0.0003


def test_lengths_that_only_one_set_has_are_dropped_and_reported() -> None:
    rng = np.random.default_rng(3)
    values = (rng.random((100, 5)) < 0.5).astype(np.float32)
    lengths = np.r_[np.full(70, 20), np.full(30, 500)]
    anchor = profile_of(values, lengths)
    found = contrast(anchor, profile_of(values, np.r_[np.full(50, 20), np.full(50, 3)]), zeros(5))
    assert found.dropped_share == pytest.approx(0.3)
    with pytest.raises(InputError, match=r"70% of the anchor samples.*\nGive a background"):
        contrast(anchor, profile_of(values, np.full(100, 500)), zeros(5))


def test_a_background_may_differ_in_form_but_not_in_sae() -> None:
    values = np.ones((20, 3), np.float32)
    assert (
        len(contrast(profile_of(values), profile_of(values, space=SPACE | {"form": "chat"}), zeros(3)).feature_ids) == 0
    )
    with pytest.raises(MismatchError, match=r"(?s)anchor .*sae 3f9c.*background.*sae 81d0"):
        contrast(profile_of(values), profile_of(values, space=SPACE | {"sae": "81d0"}), zeros(3))


def test_features_that_nobody_fires_are_not_tested_and_everything_is_what_the_anchor_fires() -> None:
    values = np.zeros((50, 6), np.float32)
    values[:20, 1] = values[:4, 4] = 2.0
    background = profile_of(np.zeros((50, 6), np.float32))
    assert everything(profile_of(values)).feature_ids.tolist() == [1, 4]
    assert everything(profile_of(values)).method == "all"
    found = contrast(profile_of(values), background, zeros(6))
    assert (found.n_tested, found.feature_ids.tolist()) == (2, [1])
    p, _ = mantel_haenszel(np.array([[20], [4]]), np.array([[0], [0]]), np.array([50.0]), np.array([50.0]))
    assert np.allclose(found.q_values, false_discovery_control(p)[:1])
    assert contrast(background, background, zeros(6)).n_tested == 0
