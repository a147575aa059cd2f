"""Intervals of downstream figures say what they claim."""

from __future__ import annotations

import numpy as np
import pytest

from facsynth.bins import Doubles
from facsynth.errors import InputError
from facsynth.tasks.resample import difference, figure, holm


def mean(scores: Doubles, counts: Doubles) -> Doubles:
    return np.asarray(counts @ scores / counts.sum(axis=1))


def test_the_figure_is_the_mean_over_seeds_and_its_interval_covers_the_truth() -> None:
    rng, hits = np.random.default_rng(0), 0
    for draw in range(60):
        scores = (rng.random((5, 80)) < 0.3).astype(float)
        found = figure(mean, scores, rng_seed=draw)
        assert found.value == pytest.approx(scores.mean())
        hits += found.low <= 0.3 <= found.high
    assert hits >= 54, hits


def test_nothing_and_figures_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="0 test items"):
        figure(mean, np.zeros((2, 0)))
    with pytest.raises(InputError, match="no number"):
        figure(lambda scores, counts: np.full(len(counts), np.nan), np.zeros((2, 3)))


def test_a_difference_is_paired_and_finds_what_items_share() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random((5, 200))
    first, other = hard, hard + 0.05 + rng.normal(0, 0.05, (5, 200))
    found = difference(mean, first, other)
    assert found.value == pytest.approx((other - first).mean())
    assert 0.03 < found.low < found.value < found.high < 0.07
    assert found.p < 0.01
    apart = figure(mean, first), figure(mean, other)
    assert apart[0].high > apart[1].low, "unpaired, the two cannot be told apart"


def test_a_difference_of_nothing_is_seldom_told_even_of_few_seeds() -> None:
    rng, told = np.random.default_rng(1), 0
    for draw in range(60):
        effect = rng.normal(0, 0.1, (2, 5, 1))  # of each seed's training data
        first, other = rng.normal(0, 1, (2, 5, 40)) * 0.1 + effect
        told += difference(mean, first, other, rng_seed=draw).p < 0.05
    assert told <= 9, told


def test_holm_is_that_of_his_paper() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
