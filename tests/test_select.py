"""The greedy choice from a pool: against brute force, against choosing by hand, and what order must not change."""

from __future__ import annotations

import itertools
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from facsynth.coverage.select import select

POOLS = st.integers(1, 7).flatmap(
    lambda k: st.tuples(
        st.lists(st.tuples(st.sets(st.integers(0, k - 1)), st.integers(3, 9)), min_size=1, max_size=8),
        st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), min_size=k, max_size=k),
    )
)
"""Samples as (features, length), features as (wanted, weight)."""


def chosen(samples, features, n):
    fires = np.array([[f in fired for f in range(len(features))] for fired, _ in samples], np.int8)
    wanted, weights = np.array(features).T
    return select(csr_array(fires), wanted, weights, np.array([length for _, length in samples]), n).tolist()


def worth(samples, features, rows):
    counts = [sum(f in samples[row][0] for row in rows) for f in range(len(features))]
    return sum(weight * min(wanted, count) for (wanted, weight), count in zip(features, counts, strict=True))


def by_hand(samples, features, n):
    rows: list[int] = []
    while len(rows) < n:
        before = worth(samples, features, rows)
        gains = {i: worth(samples, features, [*rows, i]) - before for i in range(len(samples)) if i not in rows}
        best = max(gains, key=lambda i: (gains[i], -samples[i][1], -i), default=None)
        if best is None or not gains[best]:
            break
        rows.append(best)
    return rows


@given(POOLS, st.integers(0, 9))
def test_each_choice_is_the_one_that_adds_most_and_the_shortest_of_those(pool, n):
    assert chosen(*pool, n) == by_hand(*pool, n)


@given(POOLS, st.integers(1, 4))
def test_it_is_worth_what_is_proven_of_greedy_choice(pool, n):
    samples, features = pool
    best = max(
        worth(samples, features, rows) for rows in itertools.combinations(range(len(samples)), min(n, len(samples)))
    )
    assert worth(samples, features, chosen(*pool, n)) >= (1 - 1 / math.e) * best - 1e-9


@given(POOLS, st.integers(1, 6), st.randoms())
def test_the_order_of_the_pool_changes_no_worth_of_distinct_lengths(pool, n, random):
    samples = [(fired, i) for i, (fired, _) in enumerate(pool[0])]
    mixed = random.sample(samples, len(samples))
    assert [samples[i] for i in chosen(samples, pool[1], n)] == [mixed[i] for i in chosen(mixed, pool[1], n)]


def test_nothing_to_add_is_nothing_chosen():
    assert chosen([({0}, 3)], [(0, 1)], 5) == []
    assert chosen([(set(), 3)], [(1, 1)], 5) == []
    assert select(csr_array((0, 3), dtype=np.int8), *np.ones((2, 3), int), np.zeros(0, int), 5).tolist() == []
