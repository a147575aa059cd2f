"""Clusters, uncertainty and weights against second ways in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from facsynth.baselines.geometry import NOISE, clusters, matching_weights, most_uncertain, nearest, rbf, width_of
from facsynth.baselines.self_instruct import rouge_l


def unit(n: int, d: int, rng_seed: int) -> np.ndarray:
    x = np.random.default_rng(rng_seed).normal(size=(n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_clusters_are_a_fixed_point_of_assigning_and_averaging() -> None:
    x = unit(60, 3, 0)
    found = clusters(x, 5, np.random.default_rng(1), n_rounds=100)
    for k in range(5):
        mean = x[found.of == k].sum(axis=0)
        np.testing.assert_allclose(found.centres[k], mean / np.linalg.norm(mean))
    assert found.of.tolist() == [max(range(5), key=lambda k: float(row @ found.centres[k])) for row in x]


def test_clusters_find_planted_groups_and_there_are_never_more_than_vectors() -> None:
    rng = np.random.default_rng(0)
    planted = np.repeat(np.eye(4)[:3], 20, axis=0) + rng.normal(0, 0.05, (60, 4))
    x = planted / np.linalg.norm(planted, axis=1, keepdims=True)
    best = max(
        (clusters(x, 3, np.random.default_rng(n)) for n in range(8)), key=lambda c: (x @ c.centres.T).max(1).sum()
    )
    assert len({tuple({*best.of[start : start + 20].tolist()}) for start in (0, 20, 40)}) == 3
    assert len(clusters(x[:2], 8, rng).centres) == 2
    same = clusters(np.repeat(x[:1], 9, axis=0), 3, rng)
    assert np.isfinite(same.centres).all() and set(same.of.tolist()) == {0}
    assert nearest(x[:0], best.centres).shape == (0,)


def test_a_kernel_falls_with_the_distance_and_its_width_is_the_median_one() -> None:
    x = unit(7, 4, 2)
    distances = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
    width = width_of(x)
    assert width == pytest.approx(np.median(distances[np.triu_indices(7, 1)]))
    np.testing.assert_allclose(rbf(x, x, width), np.exp(-(distances**2) / (2 * width**2)), atol=1e-12)
    assert width_of(np.repeat(x[:1], 3, axis=0)) == 1.0


def test_the_next_point_is_where_the_posterior_variance_is_largest() -> None:
    x = unit(25, 3, 3)
    kernel = rbf(x, x, 0.7)
    order = most_uncertain(kernel, 25)
    assert sorted(order) == list(range(25))
    for n in range(1, 12):
        known = order[:n]
        inner = np.linalg.inv(kernel[np.ix_(known, known)] + NOISE * np.eye(n))
        variance = np.diag(kernel) - np.einsum("ia,ab,ib->i", kernel[:, known], inner, kernel[:, known])
        variance[known] = -np.inf
        assert variance[order[n]] == pytest.approx(variance.max(), abs=1e-9)
    twice = np.concatenate([x[:3], x[:3]])
    assert {i % 3 for i in most_uncertain(rbf(twice, twice, 0.7), 3)} == {0, 1, 2}, "a copy tells nothing"


def test_weights_are_those_that_an_optimiser_finds() -> None:
    real, samples = unit(30, 3, 4), unit(12, 3, 5)
    within, across = rbf(samples, samples, 0.6), rbf(samples, real, 0.6)
    kappa = across.mean(axis=1)

    def discrepancy(w: np.ndarray) -> float:
        return float(w @ (within + NOISE * np.eye(12)) @ w - 2 * w @ kappa)

    found = matching_weights(within, across)
    other = minimize(discrepancy, np.full(12, 1 / 12), bounds=[(0, None)] * 12, method="L-BFGS-B", tol=1e-14)
    assert (found >= 0).all()
    assert discrepancy(found) <= other.fun + 1e-9
    np.testing.assert_allclose(found, other.x, atol=2e-3)


def test_samples_that_are_the_real_ones_get_the_weight_and_far_ones_none() -> None:
    real = unit(10, 3, 6)
    samples = np.concatenate([real, -real[:1]])
    weights = matching_weights(rbf(samples, samples, 0.2), rbf(samples, real, 0.2))
    np.testing.assert_allclose(weights[:10], 0.1, atol=0.02)
    assert weights[10] < 0.01


def slow_rouge(one: list[str], other: list[str]) -> float:
    table = np.zeros((len(one) + 1, len(other) + 1), int)
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
    longest = table[-1, -1]
    if not longest:
        return 0.0
    precision, recall = longest / len(one), longest / len(other)
    return float(2 * precision * recall / (precision + recall))


@settings(max_examples=200)
@given(st.lists(st.sampled_from("abcd"), max_size=12), st.lists(st.sampled_from("abcd"), max_size=12))
def test_rouge_l_is_that_of_the_table(one: list[str], other: list[str]) -> None:
    assert rouge_l(one, other) == pytest.approx(slow_rouge(one, other))
