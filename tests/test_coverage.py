"""Coverage on sets worked out by hand, its properties, and the features that are there but hardly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from facsynth.bins import EDGES
from facsynth.coverage.coverage import (
    coverage,
    rarefied,
    recovered,
    samples_within,
    saturation_warning,
    targets,
    under_represented,
)
from facsynth.coverage.threshold import Threshold, feature_thresholds
from facsynth.errors import InputError, MismatchError, SettingsError
from facsynth.profile import Profile, ProfileBuilder, merge
from test_profile import SPACE, profile_of, sparse_values


def profile_of_counts(firing: np.ndarray, n_samples: int, seed: int = 0) -> Profile:
    """A profile in which feature i fires, at 1.0, in firing[i] of the samples."""
    rng = np.random.default_rng(seed)
    sample = np.concatenate([rng.choice(n_samples, int(k), replace=False) for k in firing])
    feature = np.repeat(np.arange(len(firing)), firing)
    builder, ones = ProfileBuilder(SPACE, len(firing)), np.ones(len(sample))
    ids = [f"{i + 1:016x}" for i in range(n_samples)]
    builder.add(ids, np.full(n_samples, 12), sample, feature, ones, 3 * ones, ones)
    return builder.build()


def zeros(n: int) -> np.ndarray:
    return np.zeros(n, np.float32)


def test_coverage_on_paper() -> None:
    anchor = profile_of_counts(np.array([5, 3, 2, 0, 9, 4]), 10)
    seed_set = profile_of_counts(np.array([0, 1, 7, 7, 2, 0]), 20)
    chosen = targets(anchor, zeros(6), relevant=[0, 1, 2, 3, 4])
    assert chosen.feature_ids.tolist() == [0, 1, 4]  # 2 is thin, 3 never fires, 5 is not relevant
    assert (chosen.n_thin, chosen.n_relevant) == (1, 5)
    found = coverage(seed_set, chosen, zeros(6))
    assert found.value == 2 / 3
    assert (found.covered.tolist(), found.missing.tolist()) == ([1, 4], [0])
    assert (found.n_target, found.n_thin, found.n_samples, found.n_tokens) == (3, 1, 20, 240)
    assert repr(found).startswith("Coverage 0.667: 2 of 3")
    assert coverage(seed_set, chosen, zeros(6), min_support=2).missing.tolist() == [0, 1]


def test_active_is_strictly_above_the_threshold() -> None:
    anchor = profile_of_counts(np.array([5]), 10)  # its maxima are 1.0, a bin edge
    at_one, below = np.float32([1.0]), EDGES[79:80]
    assert targets(anchor, below).feature_ids.tolist() == [0]
    assert targets(anchor, at_one).feature_ids.tolist() == []


@given(st.integers(0, 10**6))
def test_coverage_of_itself_is_1_and_more_data_never_lowers_it(rng_seed: int) -> None:
    rng = np.random.default_rng(rng_seed)
    values = sparse_values(rng, 90, 12)
    values[:3] = 1  # no empty T
    anchor, half, rest = profile_of(values), profile_of(values[:10]), profile_of(values[10:50], first_id=11)
    thresholds = zeros(12)
    chosen = targets(anchor, thresholds)
    assert coverage(anchor, chosen, thresholds).value == 1
    less, more = coverage(half, chosen, thresholds), coverage(merge([half, rest]), chosen, thresholds)
    assert less.value <= more.value
    assert set(less.covered) <= set(more.covered)
    assert set(less.covered) | set(less.missing) == set(chosen.feature_ids)


def test_coverage_of_an_empty_target_is_an_error_with_the_way_out() -> None:
    anchor = profile_of_counts(np.array([2, 0]), 10)
    with pytest.raises(InputError, match=r"(?s)1 are thin.*larger anchor"):
        coverage(anchor, targets(anchor, zeros(2)), zeros(2))
    with pytest.raises(InputError, match="relevant feature 7"):
        targets(anchor, zeros(2), relevant={7})
    assert len(targets(anchor, zeros(2), relevant=[]).feature_ids) == 0


def test_a_seed_set_from_another_space_is_refused() -> None:
    anchor = profile_of_counts(np.array([5, 5]), 10)
    other = profile_of(np.ones((4, 2), np.float32), space=SPACE | {"form": "chat"})
    with pytest.raises(MismatchError, match=r"(?s)anchor .*form message.*form chat"):
        coverage(other, targets(anchor, zeros(2)), zeros(2))


@pytest.mark.parametrize("text", ["0.0", "1.5", "r0.5", "r1.0", "q90", "q97.5"])
def test_thresholds_round_trip(text: str) -> None:
    assert str(Threshold.parse(text)) == text


@pytest.mark.parametrize("text", ["", "x", "-1", "r0", "r1.5", "q0", "q100", "nan", "inf", "r", "r-0.5", "qnan"])
def test_a_threshold_that_is_none_is_a_settings_error(text: str) -> None:
    with pytest.raises(SettingsError, match="not understood"):
        Threshold.parse(text)


def test_feature_thresholds_of_each_kind() -> None:
    rng = np.random.default_rng(0)
    values, background = sparse_values(rng, 500, 5), sparse_values(rng, 500, 5) * 4
    background[:, 3] = 0
    anchor, reference = profile_of(values), profile_of(background, space=SPACE | {"form": "chat"})
    assert feature_thresholds(Threshold(0.0), anchor).tolist() == [0.0] * 5
    assert abs(np.log2(feature_thresholds(Threshold(1.5), anchor)[0] / 1.5)) <= 1 / 16
    relative = feature_thresholds(Threshold.parse("r0.5"), anchor, reference)
    half = 0.5 * reference.robust_maximum()
    half[3] = 0.5 * anchor.robust_maximum()[3]
    assert np.abs(np.log2(relative / half)).max() <= 1 / 16 + 1e-6
    above = anchor.firing_samples(feature_thresholds(Threshold.parse("q90"), anchor)) / (values > 0).sum(axis=0)
    assert ((above > 0.05) & (above < 0.15)).all()
    assert (Threshold.parse("q90").anchor_support, Threshold.parse("r0.5").anchor_support) == (10, 3)
    with pytest.raises(MismatchError, match="sae"):
        feature_thresholds(Threshold.parse("r0.5"), anchor, profile_of(values, space=SPACE | {"sae": "81d0"}))


def test_rarefied_agrees_with_drawing_and_with_coverage() -> None:
    rng = np.random.default_rng(2)
    values = sparse_values(rng, 300, 40, share=0.02)
    samples, thresholds = profile_of(values), zeros(40)
    chosen = targets(samples, thresholds)
    assert rarefied(samples, chosen, thresholds, 300) == coverage(samples, chosen, thresholds).value
    drawn = [profile_of(values[np.sort(rng.choice(300, 60, replace=False))]) for _ in range(300)]
    mean = np.mean([coverage(few, chosen, thresholds).value for few in drawn])
    assert rarefied(samples, chosen, thresholds, 60) == pytest.approx(mean, abs=0.01)
    with pytest.raises(InputError, match="cannot draw"):
        rarefied(samples, chosen, thresholds, 301)


def test_tokens_are_as_many_samples_as_hold_them_and_none_may_hold_few() -> None:
    samples = profile_of(sparse_values(np.random.default_rng(2), 300, 40, share=0.02))
    assert samples.n_tokens == 3000
    assert [samples_within(samples, n) for n in (0, 4, 1000, 3000, 10**6)] == [0, 0, 100, 300, 300]


def test_the_saturation_warning_tells_a_dense_anchor_from_a_sparse_one() -> None:
    dense, sparse = profile_of_counts(np.full(50, 300), 1000), profile_of_counts(np.full(50, 5), 1000)
    assert saturation_warning(dense, targets(dense, zeros(50)), zeros(50))
    assert not saturation_warning(sparse, targets(sparse, zeros(50)), zeros(50))


def test_a_subject_planted_at_a_hundredth_of_its_anchor_rate_is_listed_though_each_feature_fires() -> None:
    """Issue: 100,000 rows, a subject at 0.01 % of them and at 1 % of the anchor."""
    n_seed, n_anchor, n_other = 100_000, 2_000, 180
    rng = np.random.default_rng(5)
    rates = 10 ** rng.uniform(-2.5, -1, n_other)
    seed_set = profile_of_counts(np.r_[np.full(20, 10), rng.binomial(n_seed, rates)], n_seed)
    anchor = profile_of_counts(np.r_[np.full(20, 20), rng.binomial(n_anchor, rates)], n_anchor)
    thresholds = zeros(200)
    chosen = targets(anchor, thresholds)
    assert not set(range(20)) & set(coverage(seed_set, chosen, thresholds).missing)
    under = under_represented(seed_set, anchor, chosen, thresholds)
    assert under.feature_ids.tolist() == list(range(20))
    assert under.n_wanted.tolist() == [90] * 20  # 0.1 x 1 % x 100,000 less the 10 that are there


def test_the_rate_test_agrees_with_a_binomial_test_and_keeps_its_rate_at_the_border() -> None:
    rng = np.random.default_rng(6)
    known = rng.integers(3, 60, 500)
    found = np.maximum(rng.poisson(known * 0.1 * 10), 1)  # H0 holds exactly: 0.1 of the rate, ten times the samples
    anchor, seed_set = profile_of_counts(known, 500), profile_of_counts(found, 5000)
    chosen = targets(anchor, zeros(500))
    assert len(under_represented(seed_set, anchor, chosen, zeros(500)).feature_ids) == 0
    every = under_represented(seed_set, anchor, chosen, zeros(500), q=1.0)
    p = [binomtest(int(x), int(x + y), 0.5, alternative="less").pvalue for x, y in zip(found, known, strict=True)]
    rank = np.argsort(np.argsort(p))
    slow = np.array(p) * 500 / (rank + 1)
    slow = np.minimum.accumulate(slow[np.argsort(p)][::-1])[::-1][rank]
    assert np.allclose(every.q_values, np.minimum(slow, 1))


def test_under_represented_and_missing_are_apart_and_one_sample_is_the_least_that_is_wanted() -> None:
    anchor, seed_set = profile_of_counts(np.array([90, 90, 90]), 100), profile_of_counts(np.array([0, 1, 900]), 1000)
    chosen = targets(anchor, zeros(3))
    under = under_represented(seed_set, anchor, chosen, zeros(3))
    assert (under.feature_ids.tolist(), under.n_wanted.tolist()) == ([1], [89])
    forced = under_represented(seed_set, anchor, chosen, zeros(3), q=1.0)
    assert forced.n_wanted.tolist()[-1] == 1


def test_recovered_counts_seed_and_accepted_together_over_what_was_missing() -> None:
    seed_set, accepted = profile_of_counts(np.array([0, 0, 1, 0]), 5), profile_of_counts(np.array([2, 0, 0, 9]), 10)
    found = recovered(np.array([0, 1, 2]), merge([seed_set, accepted]), zeros(4))
    assert (found.value, found.feature_ids.tolist(), found.n_missing) == (2 / 3, [0, 2], 3)
    with pytest.raises(InputError, match="no features are missing"):
        recovered(np.array([], dtype=np.int64), seed_set, zeros(4))
