"""Rarefaction by tokens against drawing by hand; parts and order change nothing, more tokens never cover less."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from facsynth.coverage.rarefaction import at_tokens, covered_at
from facsynth.coverage.richness import expected_coverage
from facsynth.incidence import Incidence, joined, orders

Fires = npt.NDArray[np.bool_]


def incidence(fires: Fires, n_tokens: npt.ArrayLike, rng_seed: int = 0) -> Incidence:
    ids = np.random.default_rng(rng_seed).integers(0, 2**63, len(fires)).astype(np.uint64)
    return Incidence(ids, np.asarray(n_tokens, np.int64), *np.nonzero(fires))


def curve(rows: Incidence, n_target: int, at: npt.ArrayLike, **more: int) -> npt.NDArray[np.float64]:
    return at_tokens(covered_at(rows.ids, rows.n_tokens, [rows], n_target, **more), at)


@pytest.mark.parametrize("min_support", [1, 2, 3])
def test_it_is_what_drawing_in_these_orders_gives(min_support: int) -> None:
    rng = np.random.default_rng(min_support)
    fires, n_tokens = rng.random((40, 12)) < 0.15, rng.integers(1, 30, 40)
    rows = incidence(fires, n_tokens)
    for n in (0, 5, 50, 200, 400):
        shares = []
        for order in orders(rows.ids, 32, 0):
            middle = np.cumsum(n_tokens[order]) - n_tokens[order] / 2
            shares.append((fires[order][middle <= n].sum(axis=0) >= min_support).mean())
        assert curve(rows, 12, n, min_support=min_support) == pytest.approx(np.mean(shares))


def test_with_equal_lengths_it_is_rarefaction_by_samples() -> None:
    rng = np.random.default_rng(0)
    fires = rng.random((400, 300)) < 10 ** rng.uniform(-3, -0.5, 300)
    rows = incidence(fires, np.full(400, 10))
    for n in (1, 20, 100, 400):
        exact = expected_coverage(fires.sum(axis=0), 400, n, 300)
        assert curve(rows, 300, 10 * n) == pytest.approx(exact, abs=0.01)


def test_joining_samples_gains_nothing_at_equal_tokens() -> None:
    rng = np.random.default_rng(5)
    fires = rng.random((2000, 200)) < 10 ** rng.uniform(-3.5, -1, 200)
    alone, joint = incidence(fires[:1000], np.full(1000, 10)), incidence(fires[:1000] | fires[1000:], np.full(1000, 20))
    by_samples = [expected_coverage(rows.counts(200), 1000, 1000, 200) for rows in (alone, joint)]
    assert by_samples[1] > by_samples[0] + 0.03
    by_tokens = [curve(rows, 200, 10_000) for rows in (alone, joint)]
    assert by_tokens[1] == pytest.approx(by_tokens[0], abs=0.02)


@given(
    arrays.arrays(np.bool_, st.tuples(st.integers(1, 25), st.integers(1, 6))),
    st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**32),
)  # fmt: skip
def test_parts_and_order_change_nothing_and_it_only_rises_to_coverage(
    fires: Fires, n_parts: int, min_support: int, rng_seed: int
) -> None:
    rng = np.random.default_rng(rng_seed)
    n_tokens = rng.integers(1, 50, len(fires))
    rows, at = incidence(fires, n_tokens), np.arange(n_tokens.sum() + 1)
    expected = curve(rows, fires.shape[1], at, min_support=min_support)
    assert (np.diff(expected) >= 0).all()
    assert expected[-1] == pytest.approx((fires.sum(axis=0) >= min_support).mean())
    cuts = np.array_split(rng.permutation(len(fires)), n_parts)
    parts = [Incidence(rows.ids[cut], n_tokens[cut], *np.nonzero(fires[cut])) for cut in cuts]
    whole = joined(parts)
    found = covered_at(whole.ids, whole.n_tokens, parts, fires.shape[1], min_support=min_support)
    np.testing.assert_array_equal(at_tokens(found, at), expected)
