"""Rarefaction against drawing, extrapolation against the truth, and an interval that holds what it says."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import hypergeom

from facsynth.coverage.richness import coverage_interval, expected_coverage, extrapolated_coverage
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


@pytest.mark.parametrize(
    ("n", "min_support", "together"), [(60, 1, True), (400, 1, True), (400, 2, True), (400, 1, False)]
)
def test_the_interval_covers_the_expected_coverage_of_fresh_sets(n: int, min_support: int, together: bool) -> None:
    """90 to 98 % of the intervals of fresh data sets; features of a topic fire together, or each on its own."""
    rng = np.random.default_rng(n + min_support)
    n_topics, n_features, n_sets = 40, 250, 120
    hits = 0
    for _ in range(4):
        topics = rng.dirichlet(np.full(n_topics, 0.3))
        rates = 10 ** rng.uniform(-4, -0.5, n_features) * (
            1 + 8 * together * (rng.random((n_topics, n_features)) < 0.08)
        )

        rows = rng.choice(n_topics, (n_sets, n), p=topics)
        sets = [rng.random((n, n_features)) < np.minimum(rates, 0.9)[row] for row in rows]
        truth = np.mean([(s.sum(axis=0) >= min_support).mean() for s in sets])
        for s in sets[:40]:
            sample, feature = np.nonzero(s)
            found = coverage_interval(sample, feature, n, np.arange(n_features), min_support=min_support)
            hits += found.low <= truth <= found.high
    assert 0.90 <= hits / 160 <= 0.98, hits


def test_the_interval_holds_its_own_estimate_and_ignores_what_is_no_target() -> None:
    fires = np.random.default_rng(2).random((100, 60)) < 0.02
    sample, feature = np.nonzero(fires)
    targets = np.arange(0, 60, 3)
    found = coverage_interval(sample, feature, 100, targets)
    assert 0 <= found.low < fires[:, targets].any(axis=0).mean() < found.high <= 1
    inside = np.isin(feature, targets)
    assert coverage_interval(sample[inside], feature[inside], 100, targets) == found


def test_the_interval_of_a_set_that_fires_everything_often_is_1() -> None:
    sample, feature = np.nonzero(np.ones((200, 5)))
    found = coverage_interval(sample, feature, 200, np.arange(5))
    assert (found.low, found.high) == (1.0, 1.0)
    with pytest.raises(InputError, match="4 samples"):
        coverage_interval([0], [0], 1, np.arange(5))
