"""Intervals of downstream figures say what they claim."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from facsynth.bins import Doubles
from facsynth.errors import InputError
from facsynth.names import p_of
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
    first, other = hard, hard + 0.04 + rng.normal(0, 0.05, (5, 200))
    found = difference(mean, first, other)
    assert found.value == pytest.approx((other - first).mean())
    assert 0.03 < found.low < found.value < found.high < 0.05
    assert found.p < 0.01
    apart = figure(mean, first), figure(mean, other)
    assert apart[0].high > apart[1].low, "unpaired, the two cannot be told apart"


@pytest.mark.parametrize(
    ("n_seeds", "of_seeds", "of_items"),
    [
        (2, 0.1, 0.01), (2, 0.1, 0.3),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((3, 0.1, 0.3), (3, 0.01, 0.1), (5, 0.1, 0.01))),
    ],
)  # fmt: skip
def test_a_difference_of_nothing_is_told_once_in_twenty_however_few_the_seeds(
    n_seeds: int, of_seeds: float, of_items: float
) -> None:
    rng, found = np.random.default_rng(1), list[float]()
    for draw in range(200):
        of_data = rng.normal(0, of_seeds, (2, n_seeds, 1))
        first, other = rng.normal(0, of_items, (2, 1, 40)) + of_data
        told = difference(mean, first, other, rng_seed=draw)
        assert (told.p < 0.05) == (told.low > 0 or told.high < 0), "the interval and p say the same"
        found.append(told.p)
    p = np.array(found)
    assert 2 <= (p < 0.05).sum() <= 20
    assert (p < 0.001).sum() <= 1, "seeds that agree by luck tell nothing"


def test_a_figure_of_seeds_that_differ_has_the_interval_of_students_t() -> None:
    scores = np.repeat([[0.2], [0.4], [0.3]], 50, axis=1)
    found = figure(mean, scores)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 2, 0.3, 0.1 / np.sqrt(3)))
    assert figure(mean, scores[:1]) == pytest.approx((0.2, 0.2, 0.2))
    assert difference(mean, scores[:1], scores[1:2]).p == pytest.approx(2 / 1001), "no more than the draws can tell"
    assert difference(mean, scores, scores).p == 1


def test_holm_is_that_of_his_paper() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_p_that_is_too_small_to_show_is_not_shown_as_nothing() -> None:
    assert [p_of(p) for p in (0.0, 0.00099, 0.001, 0.0499, 1.0)] == ["< 0.001", "< 0.001", "0.001", "0.050", "1.000"]
