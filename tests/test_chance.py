"""The chance level is what plain samples really recover, fewer or more of them than were written."""

from __future__ import annotations

import numpy as np
import pytest

from facsynth.coverage.chance import chance_at_samples, chance_at_tokens
from facsynth.errors import InputError

RATES = 10 ** np.random.default_rng(0).uniform(-3, -0.5, 80)


def test_all_control_samples_give_what_they_fired() -> None:
    level = chance_at_samples([3, 0, 1, 0], 10, 10)
    assert (level.value, level.n_control, level.extrapolated) == (0.5, 10, False)


@pytest.mark.parametrize(("n_samples", "extrapolated"), [(60, False), (300, False), (600, True), (900, True)])
def test_the_level_is_near_what_fresh_plain_samples_recover(n_samples: int, extrapolated: bool) -> None:
    rng = np.random.default_rng(1)
    levels = [chance_at_samples(rng.binomial(300, RATES), 300, n_samples) for _ in range(25)]
    fresh = [(rng.binomial(n_samples, RATES) > 0).mean() for _ in range(200)]
    assert {level.extrapolated for level in levels} == {extrapolated}
    assert np.mean([level.value for level in levels]) == pytest.approx(np.mean(fresh), abs=0.06)


@pytest.mark.parametrize("n_samples", [150, 900])
def test_a_feature_that_wants_three_samples_needs_three(n_samples: int) -> None:
    rng, needed = np.random.default_rng(4), np.where(np.arange(80) % 2, 3, 1)
    levels = [chance_at_samples(rng.binomial(300, RATES), 300, n_samples, needed) for _ in range(25)]
    fresh = [(rng.binomial(n_samples, RATES) >= needed).mean() for _ in range(200)]
    assert np.mean([level.value for level in levels]) == pytest.approx(np.mean(fresh), abs=0.06)
    assert all(level.value < chance_at_samples([3] * 80, 300, n_samples).value for level in levels)


def test_more_samples_never_recover_less_and_never_more_than_all() -> None:
    firing = np.random.default_rng(2).binomial(100, RATES)
    values = [chance_at_samples(firing, 100, n).value for n in range(0, 2000, 125)]
    assert values[0] == 0
    assert np.all(np.diff(values) >= 0)
    assert values[-1] <= 1
    assert chance_at_samples([1, 1, 1, 0], 5, 10**9).value <= 1


def test_equal_tokens_are_as_many_samples_as_they_buy() -> None:
    firing = np.random.default_rng(3).binomial(100, RATES)
    bought = chance_at_tokens(firing, n_control=100, control_tokens=4000, written_tokens=1000)
    assert bought == chance_at_samples(firing, 100, 25)
    assert chance_at_tokens(firing, 100, 4000, 8000).extrapolated


def test_no_control_samples_features_or_tokens_are_errors() -> None:
    with pytest.raises(InputError, match=r"0 control samples.*\n.*budget\.control"):
        chance_at_samples([0, 0], 0, 10)
    with pytest.raises(InputError, match="0 attempted"):
        chance_at_samples([], 10, 10)
    with pytest.raises(InputError, match="no written tokens"):
        chance_at_tokens([1], 10, 0, 100)
