"""Intervals and p-values of downstream figures say what they claim, and pair what is to be paired."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facsynth.bins import Doubles, Ints
from facsynth.errors import InputError
from facsynth.tasks.resample import difference, figure, holm


def mean(items: Ints, scores: Doubles) -> float:
    return float(scores.mean())


def test_the_figure_is_the_mean_over_seeds_and_its_interval_covers_the_truth() -> None:
    rng, hits = np.random.default_rng(0), 0
    for draw in range(60):
        scores = (rng.random((5, 80)) < 0.3).astype(float)
        found = figure(mean, scores, rng_seed=draw)
        assert found.value == pytest.approx(scores.mean())
        hits += found.low <= 0.3 <= found.high
    assert hits >= 54, hits


def test_a_difference_of_equal_models_is_told_in_one_of_twenty_at_most() -> None:
    rng, told = np.random.default_rng(1), 0
    for draw in range(60):
        items = rng.normal(0, 1, 80)
        one, other = (items + rng.normal(0, 0.5, (3, 80)) for _ in range(2))
        found = difference(mean, one, other, rng_seed=draw)
        assert found.low <= found.value <= found.high
        told += found.p < 0.05
    assert told <= 7, told


def test_what_items_share_cancels_out() -> None:
    rng = np.random.default_rng(2)
    items = rng.normal(0, 5, 60)
    one = items + rng.normal(0, 0.1, (4, 60))
    found = difference(mean, one + 0.2, one)
    assert found.high - found.low < 1e-9
    assert found.p == pytest.approx(2 / 1001)
    assert figure(mean, one).high - figure(mean, one).low > 1
    alone = difference(mean, one + 0.2, one, seeds=([0, 1, 2, 3], [4, 5, 6, 7]))
    assert alone.high - alone.low > found.high - found.low, "other seeds are drawn apart"


def test_nothing_and_figures_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="0 test items"):
        figure(mean, np.zeros((2, 0)))
    with pytest.raises(InputError, match="no number"):
        figure(lambda items, scores: float("nan"), np.zeros((2, 3)))
    with pytest.raises(InputError, match="3 test items cannot be paired with 4"):
        difference(mean, np.zeros((2, 3)), np.zeros((2, 4)))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_the_order_and_lies_between_the_value_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1.0, p * len(p_values)) + 1e-12 or q == max(adjusted)
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()
