"""Intervals of downstream figures say what they claim."""

from __future__ import annotations

import numpy as np
import pytest

from facsynth.bins import Doubles, Ints
from facsynth.errors import InputError
from facsynth.tasks.resample import figure


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


def test_nothing_and_figures_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="0 test items"):
        figure(mean, np.zeros((2, 0)))
    with pytest.raises(InputError, match="no number"):
        figure(lambda items, scores: float("nan"), np.zeros((2, 3)))
