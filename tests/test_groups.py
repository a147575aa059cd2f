"""Concepts: close directions or shared samples put features together, through the strongest, and never in a chain."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from facsynth.coverage.groups import concepts

NONE = (np.zeros(0, np.int32), np.zeros(0, np.int32))


def pairs(fires: dict[int, list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Feature → samples, as `Encoded.incidence` gives them."""
    found = [(sample, feature) for feature, samples in fires.items() for sample in samples]
    return np.array([p[0] for p in found], np.int32), np.array([p[1] for p in found], np.int32)


def test_close_directions_are_one_concept_through_the_first() -> None:
    directions = np.array([[1, 0, 0], [0, 1, 0], [3, 0.3, 0], [-1, 0, 0]], np.float32)
    assert concepts([9, 4, 7, 2], directions, NONE) == {9: 9, 4: 4, 7: 9, 2: 2}


def test_features_that_fire_the_same_samples_are_one_concept() -> None:
    directions = np.eye(4, dtype=np.float32)
    fires = {9: list(range(7)), 4: list(range(5)), 7: [3, 4, 5, 6, 7], 2: [], 100: list(range(7))}
    assert concepts([9, 4, 7, 2], directions, pairs(fires)) == {9: 9, 4: 9, 7: 7, 2: 2}
    few = {9: [0, 1, 2], 4: [0, 1, 2]}
    assert concepts([9, 4], directions[:2], pairs(few)) == {9: 9, 4: 4}, "three samples are chance"


def test_a_chain_does_not_run_into_one_concept() -> None:
    angles = np.deg2rad([0, 40, 80])
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert concepts([1, 2, 3], directions, NONE) == {1: 1, 2: 1, 3: 3}
    assert concepts([2, 1, 3], directions[[1, 0, 2]], NONE) == {2: 2, 1: 2, 3: 2}


def test_a_direction_of_length_zero_is_close_to_nothing() -> None:
    assert concepts([1, 2], np.zeros((2, 3), np.float32), NONE) == {1: 1, 2: 2}
    assert concepts([], np.zeros((0, 3), np.float32), NONE) == {}


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 25))
def test_it_agrees_with_a_loop(rng_seed: int, n: int) -> None:
    rng = np.random.default_rng(rng_seed)
    ids = rng.permutation(60)[:n].tolist()
    directions = rng.standard_normal((n, 3)).astype(np.float32)
    common = rng.random(12) < 0.6
    fires = {i: np.flatnonzero(common ^ (rng.random(12) < 0.15)).tolist() for i in ids}
    expected: dict[int, int] = {}
    for a, i in enumerate(ids):
        if i in expected:
            continue
        expected[i] = i
        for b, j in enumerate(ids):
            cosine = directions[a] @ directions[b] / np.linalg.norm(directions[a]) / np.linalg.norm(directions[b])
            one, other = set(fires[i]), set(fires[j])
            shared = len(one & other) >= 5 and len(one & other) >= 0.7 * len(one | other)
            if j not in expected and (cosine >= 0.7 or shared):
                expected[j] = i
    assert concepts(ids, directions, pairs(fires)) == expected
