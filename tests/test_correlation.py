"""Correlations of measures with a task: exact where they can be, and blind to what methods have in common."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import spearmanr

from facsynth.errors import InputError
from facsynth.experimenting.correlating import correlations
from facsynth.tasks.correlation import between, partial, within


def test_between_methods_it_is_spearmans_with_an_exact_p() -> None:
    rng = np.random.default_rng(0)
    for n in (4, 6):
        x, y = rng.normal(size=n), rng.integers(0, 4, n).astype(float)
        found = between(x.tolist(), y.tolist())
        assert found.rho == pytest.approx(spearmanr(x, y).statistic)
        all_rho = [abs(spearmanr(x[list(order)], y).statistic) for order in itertools.permutations(range(n))]
        assert found.p == pytest.approx(np.mean(np.array(all_rho) >= abs(found.rho) - 1e-9))
    assert between([1, 2, 3, 4], [2, 3, 4, 5]).p == pytest.approx(2 / 24)
    assert between(list(range(12)), list(range(12))).p < 0.001


def test_methods_alone_make_no_correlation_within() -> None:
    rng = np.random.default_rng(1)
    method, seed = [str(m) for m in range(6) for _ in range(5)], [s for _ in range(6) for s in range(5)]
    level = np.repeat(np.arange(6.0), 5)
    x, y = level + 0.1 * rng.normal(size=30), level + 0.1 * rng.normal(size=30)
    assert spearmanr(x, y).statistic > 0.9
    assert within(x.tolist(), y.tolist(), method, seed).p > 0.05
    shared = rng.normal(size=30)
    told = within((level + shared).tolist(), (shared - level).tolist(), method, seed)
    assert told.rho > 0.9 and told.p == pytest.approx(1 / 120), "as good as five seeds can say"


def test_what_a_seed_gives_to_all_methods_is_one_finding_and_not_one_of_each() -> None:
    rng, told = np.random.default_rng(4), 0
    method, seed = [str(m) for m in range(6) for _ in range(5)], [s for _ in range(6) for s in range(5)]
    for _ in range(100):
        x, y = (np.tile(rng.normal(size=5), 6) + 0.3 * rng.normal(size=30) for _ in range(2))
        told += within(x.tolist(), y.tolist(), method, seed).p < 0.05
    assert told <= 12, told


def test_a_budget_that_moves_both_and_one_draw_at_three_budgets_make_no_partial_correlation() -> None:
    rng, told = np.random.default_rng(2), 0
    method = [str(m) for m in range(5) for _ in range(15)]
    seed = [s for _ in range(5) for s in range(5) for _ in range(3)]
    budget = [float(b) for _ in range(25) for b in (50, 100, 200)]
    for _ in range(60):
        x, y = (np.log(budget) + np.repeat(rng.normal(size=25), 3) + 0.3 * rng.normal(size=75) for _ in range(2))
        told += partial(x.tolist(), y.tolist(), method, budget, seed, rng_seed=0).p < 0.05
    assert 1 <= told <= 7, told
    shared = np.repeat(rng.normal(size=25), 3)
    x, y = (np.log(budget) + shared + 0.3 * rng.normal(size=75) for _ in range(2))
    found = partial(x.tolist(), y.tolist(), method, budget, seed)
    assert found.rho > 0.5 and found.p < 0.02
    with pytest.raises(InputError, match="other methods or budgets each"):
        partial(x[1:].tolist(), y[1:].tolist(), method[1:], budget[1:], seed[1:])


def test_too_few_points_are_refused() -> None:
    with pytest.raises(InputError, match="three are needed"):
        between([1, 2], [1, 2])
    with pytest.raises(InputError, match="there is one seed"):
        within([1, 2], [1, 2], ["a", "b"], [0, 0])
    with pytest.raises(InputError, match="the same everywhere"):
        between([1, 1, 1], [1, 2, 3])


def test_a_method_without_samples_for_a_seed_is_left_out_and_named() -> None:
    rng = np.random.default_rng(3)
    rows = [
        {"method": m, "budget": b, "rng_seed": s, "task": rng.normal(), "measures": {"words": rng.normal()}}
        for m in "abcd" for s in range(3) for b in (4, 8) if (m, s) != ("d", 1)
    ]  # fmt: skip
    found = correlations(rows)
    assert found["notes"][0] == "d has no samples for some seeds and is left out" and found["n_methods"] == 3
    assert {kind: told["n"] for kind, told in found["measures"]["words"].items()} == {
        "between": 3, "within": 9, "partial": 18,
    }  # fmt: skip
    assert found["measures"] == correlations([row for row in rows if row["method"] != "d"])["measures"]
