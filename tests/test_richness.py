"""Rarefaction against drawing; extrapolation, Chao2 and Good-Turing against the truth."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import hypergeom

from facsynth.coverage.richness import expected_coverage, extrapolated_coverage, richness
from facsynth.errors import InputError


def test_expected_coverage_is_the_mean_over_all_draws() -> None:
    fires = np.random.default_rng(0).random((8, 5)) < 0.3
    firing = fires.sum(axis=0)
    for n_drawn in range(9):
        for support in (1, 2, 3):
            draws = [(fires[list(rows)].sum(axis=0) >= support).mean() for rows in combinations(range(8), n_drawn)]
            found = expected_coverage(firing, 8, n_drawn, 5, support)
            assert found == pytest.approx(np.mean(draws), abs=1e-12), (n_drawn, support)


def test_expected_coverage_of_large_sets_agrees_with_scipy() -> None:
    firing = np.array([0, 1, 2, 50, 10_000, 999_999, 1_000_000])
    for support in (1, 2):
        slow = hypergeom.sf(support - 1, 1_000_000, firing, 3_000).mean()
        assert expected_coverage(firing, 1_000_000, 3_000, 7, support) == pytest.approx(slow, abs=1e-8)


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(InputError, match="cannot draw 4 of 3"):
        expected_coverage([1], 3, 4, 1)
    with pytest.raises(InputError, match="no target"):
        expected_coverage([], 3, 2, 0)
    with pytest.raises(InputError, match="nothing to extrapolate"):
        extrapolated_coverage([], 0, 2)


@pytest.mark.parametrize("times", [2, 10])
def test_extrapolation_nears_the_truth(times: int) -> None:
    rng = np.random.default_rng(1)
    rates = 10 ** rng.uniform(-3.5, -1, 400)
    truth = (1 - (1 - rates) ** (200 * times)).mean()
    found = [extrapolated_coverage(rng.binomial(200, rates), 200, 200 * times) for _ in range(8)]
    assert np.mean(found) == pytest.approx(truth, abs=0.1)


@pytest.mark.parametrize("counts", [[0, 0, 0, 0], [1, 1, 1, 0], [5, 5, 5, 5], [0, 0, 10, 10], [0], [10]])
def test_extrapolation_of_odd_counts_starts_at_what_was_found_and_only_rises_to_1(counts: list[int]) -> None:
    values = [extrapolated_coverage(counts, 10, n) for n in (10, 11, 100, 10**6)]
    assert values[0] == np.mean(np.array(counts) > 0)
    assert np.all(np.diff(values) >= 0)
    assert values[-1] <= 1


def test_good_turing_and_chao2_of_counts_worked_by_hand() -> None:
    # 10 samples; S = 5, Q1 = 2, Q2 = 1, U = 1 + 1 + 2 + 4 + 8 = 16
    found = richness([1, 1, 2, 4, 8, 0, 0, 0], 10)
    assert found.n_found == 5
    assert found.n_reachable == pytest.approx(5 + 0.9 * 4 / 2)
    assert found.completeness == pytest.approx(1 - 2 / 16 * (9 * 2) / (9 * 2 + 2))
    assert richness([1, 1, 2, 4, 8, 0], 10).n_reachable == 6, "no more than there are"
    assert richness([1, 1, 1, 0, 0, 0, 0, 0], 10).n_reachable == pytest.approx(3 + 0.9 * 3), "none fired twice"
    assert richness([5, 5], 10) == (2, 2.0, 1.0)
    assert richness([0, 0], 10) == (0, 0.0, None)


def test_chao2_is_under_what_there_is_and_good_turing_near_the_truth() -> None:
    rng, rates = np.random.default_rng(3), np.random.default_rng(4).beta(0.3, 4, 300)
    reached, gaps = [], []
    for _ in range(40):
        firing = rng.binomial(200, rates)
        found = richness(firing, 200)
        reached.append(found.n_reachable)
        gaps.append(found.completeness - rates[firing > 0].sum() / rates.sum())
    assert 200 < np.mean(reached) < 300
    assert abs(np.mean(gaps)) < 0.001


def test_of_samples_that_were_chosen_nothing_is_said_of_a_source() -> None:
    with pytest.raises(InputError, match="3 of the samples were chosen or written for features"):
        richness([1, 2], 10, n_chosen=3)
    with pytest.raises(InputError, match="no samples"):
        richness([0, 0], 0)
