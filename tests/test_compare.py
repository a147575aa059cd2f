"""Differences between two sets: none between halves of one, those that were planted, and never one of length alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import fisher_exact

from facsynth.coverage.compare import differences, only_in
from facsynth.coverage.coverage import coverage, targets
from facsynth.errors import MismatchError
from facsynth.profile import Profile, ProfileBuilder
from facsynth.strata import two_sided
from test_profile import SPACE

D_SAE = 400
ALL, ABOVE_0 = np.arange(D_SAE), np.zeros(D_SAE, np.float32)


def profile(fires: npt.NDArray[np.bool_], n_tokens: npt.ArrayLike, space: dict[str, str] | None = None) -> Profile:
    builder = ProfileBuilder(space or SPACE, D_SAE)
    sample, feature = np.nonzero(fires)
    ones = np.ones(len(sample))
    builder.add([f"{n:016x}" for n in range(len(fires))], n_tokens, sample, feature, ones, ones, ones)
    return builder.build()


def topical(rng: np.random.Generator, n: int, lowest: float = 1e-3) -> npt.NDArray[np.bool_]:
    """Samples of 20 topics, whose features come together."""
    rates = 10 ** rng.uniform(np.log10(lowest), -1, D_SAE) * (1 + 8 * (rng.random((20, D_SAE)) < 0.1))
    return rng.random((n, D_SAE)) < np.minimum(rates, 0.9)[rng.integers(0, 20, n)]


def test_two_halves_of_one_set_differ_in_at_most_3_of_20_splits() -> None:
    rng = np.random.default_rng(0)
    fires, lengths = topical(rng, 2000), rng.integers(5, 200, 2000)
    n_different = 0
    for _ in range(20):
        order = rng.permutation(2000)
        half, other = (profile(fires[rows], lengths[rows]) for rows in np.split(order, 2))
        n_different += len(differences(half, other, ALL, ABOVE_0).feature_ids) > 0
    assert n_different <= 3


def test_of_what_was_planted_nearly_all_is_found() -> None:
    """2,000 samples a side, base rates under 1 %; 5 % of one side are replaced by samples that fire 40 features."""
    rng = np.random.default_rng(1)
    rates = 10 ** rng.uniform(-4, -2, D_SAE)
    planted = rng.choice(D_SAE, 40, replace=False)
    sides, lengths = [rng.random((2000, D_SAE)) < rates for _ in range(2)], rng.integers(5, 200, (2, 2000))
    replaced = rng.choice(2000, 100, replace=False)
    sides[0][np.ix_(replaced, planted)] |= rng.random((100, 40)) < 0.3
    found = differences(profile(sides[0], lengths[0]), profile(sides[1], lengths[1]), ALL, ABOVE_0)
    hits = np.isin(found.feature_ids, planted)
    assert hits.sum() >= 0.8 * 40
    assert hits.mean() >= 0.9
    assert (found.log_odds[hits] > 0).all()
    assert np.isclose(found.rates[0], [side[:, found.feature_ids[0]].mean() for side in sides]).all()


def test_longer_samples_alone_are_no_difference() -> None:
    """Both fire a feature once in a hundred tokens; the one has more long samples."""
    rng = np.random.default_rng(2)
    rates = 10 ** rng.uniform(-4, -2.5, D_SAE)
    lengths = [rng.choice([10, 200], 3000, p=p) for p in ((0.7, 0.3), (0.3, 0.7))]
    sides = [rng.random((3000, D_SAE)) < 1 - (1 - rates) ** n[:, None] for n in lengths]
    one, other = (profile(fires, n) for fires, n in zip(sides, lengths, strict=True))
    assert one.firing_samples(ABOVE_0).sum() < 0.7 * other.firing_samples(ABOVE_0).sum()
    assert len(differences(one, other, ALL, ABOVE_0).feature_ids) <= 1


def test_where_no_lengths_are_shared_nothing_is_tested_and_the_share_says_so() -> None:
    fires = np.ones((10, D_SAE), np.bool_)
    found = differences(profile(fires, np.full(10, 5)), profile(fires, np.full(10, 500)), ALL, ABOVE_0)
    assert (len(found.feature_ids), found.n_tested, found.compared) == (0, 0, (0.0, 0.0))


def test_in_one_stratum_p_values_are_near_those_of_fishers_test() -> None:
    for a, c in ((0, 8), (3, 3), (12, 2), (40, 10)):
        p, log_odds = two_sided(np.array([[a]]), np.array([[c]]), np.array([500]), np.array([500]))
        exact = fisher_exact([[a, 500 - a], [c, 500 - c]]).pvalue
        assert p[0] == pytest.approx(exact, rel=0.35, abs=1e-9)
        assert np.sign(log_odds[0]) == np.sign(a - c)


def test_features_of_only_one_set() -> None:
    a, b = np.zeros((3, D_SAE), np.bool_), np.zeros((3, D_SAE), np.bool_)
    a[0, [1, 5]], b[0, [5, 7]] = True, True
    anchor = profile(np.ones((5, D_SAE), np.bool_), np.full(5, 5))
    aims = targets(anchor, ABOVE_0)
    one, other = (coverage(profile(fires, np.full(3, 5)), aims, ABOVE_0) for fires in (a, b))
    assert (only_in(one, other).tolist(), only_in(other, one).tolist()) == ([1], [7])


def test_sets_of_different_spaces_are_refused() -> None:
    fires = np.ones((4, D_SAE), np.bool_)
    with pytest.raises(MismatchError, match="codes"):
        differences(
            profile(fires, np.full(4, 5)), profile(fires, np.full(4, 5), {**SPACE, "codes": "relu"}), ALL, ABOVE_0
        )
