"""Profiles count exactly, merge in any order, and come back from disk as they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facsynth.bins import EDGES, N_LENGTH_BINS, activation_bin, best_samples, length_bin, round_to_edge
from facsynth.errors import InputError, MismatchError, ModelError
from facsynth.profile import Profile, ProfileBuilder, merge

SPACE = {"model": "toy", "sae": "3f9c", "hook_point": "layers.1", "codes": "native", "form": "message"}


def profile_of(
    values: np.ndarray,
    lengths: Sequence[int] | np.ndarray | None = None,
    *,
    space: dict[str, str] = SPACE,
    first_id: int = 1,
    batch: int = 1000,
) -> Profile:
    """A profile of dense maxima, [n_samples, d_sae]; position and firing tokens are made from sample and feature."""
    builder = ProfileBuilder(space, values.shape[1])
    lengths = np.full(len(values), 10) if lengths is None else np.asarray(lengths)
    for start in range(0, len(values), batch):
        part = values[start : start + batch]
        sample, feature = np.nonzero(part)
        ids = [f"{first_id + start + i:016x}" for i in range(len(part))]
        position, tokens = (sample + start + feature) % 7 + 1, feature % 3 + 1
        builder.add(ids, lengths[start : start + batch], sample, feature, part[sample, feature], position, tokens)
    return builder.build()


def same(a: Profile, b: Profile) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Profile) if f.name != "space")


def sparse_values(rng: np.random.Generator, n: int, d: int, share: float = 0.3) -> np.ndarray:
    return (rng.lognormal(0, 2, (n, d)) * (rng.random((n, d)) < share)).astype(np.float32)


@given(st.floats(2**-20, 2**20, width=32))
def test_above_an_edge_means_in_its_bin_or_a_higher_one(g: float) -> None:
    value = np.float32(g)
    assert np.array_equal(value > EDGES, activation_bin(value) >= np.arange(len(EDGES)))


def test_an_edge_itself_lies_below_its_bin() -> None:
    assert np.array_equal(activation_bin(EDGES[1:]), np.arange(len(EDGES) - 1))
    assert EDGES[0] == 0.0
    assert EDGES[80] == 1.0
    assert EDGES[-1] == 2.0**18


def test_rounding_keeps_edges_and_zero_and_goes_to_the_nearest_ratio() -> None:
    assert np.array_equal(round_to_edge(EDGES), EDGES)
    assert round_to_edge([1e-9]) > 0
    values = np.geomspace(0.01, 1e4, 500)
    ratio = round_to_edge(values) / values
    assert max(ratio.max(), 1 / ratio.min()) <= 2 ** (1 / 16) * 1.0001


def test_length_bins_are_half_octaves_by_integer_arithmetic() -> None:
    for n in [*range(1, 3000), 46_340, 46_341, 65_535, 65_536, 741_455, 741_456, 10**9]:
        assert length_bin(np.array([n]))[0] == min((n * n).bit_length() - 1, N_LENGTH_BINS - 1), n
    assert length_bin(np.array([0]))[0] == 0


def test_counts_agree_with_slow_numpy() -> None:
    rng = np.random.default_rng(1)
    values, lengths = sparse_values(rng, 400, 30), rng.integers(1, 300, 400)
    profile = profile_of(values, lengths)
    thresholds = round_to_edge(rng.choice([0.0, 0.3, 1.0, 5.0], 30))
    fires = values > thresholds
    assert np.array_equal(profile.firing_samples(thresholds), fires.sum(axis=0))
    by_length = np.zeros((30, N_LENGTH_BINS))
    for row, n in zip(fires, lengths, strict=True):
        by_length[:, length_bin(np.array([n]))[0]] += row
    assert np.array_equal(profile.firing_by_length(thresholds), by_length)
    assert np.array_equal(profile.firing_tokens(), (values > 0).sum(axis=0) * (np.arange(30) % 3 + 1))
    assert (profile.n_samples, profile.n_tokens) == (400, lengths.sum())
    ten = np.sort(values, axis=0)[::-1][:10]
    expected = ten.sum(axis=0) / np.maximum((ten > 0).sum(axis=0), 1)
    assert np.allclose(profile.robust_maximum(), expected, rtol=1e-6)


def test_robust_maximum_of_few_and_of_no_samples() -> None:
    values = np.zeros((5, 2), np.float32)
    values[:3, 0] = [1, 2, 6]
    profile = profile_of(values)
    assert profile.robust_maximum().tolist() == [3.0, 0.0]
    assert profile.top_mean(1).tolist() == [6.0, 0.0]


def test_quantile_edges_agree_with_numpy_to_a_bin() -> None:
    values = sparse_values(np.random.default_rng(2), 3000, 8)
    values[:, 7] = 0
    found = profile_of(values).quantile_edges(0.9)
    assert found[7] == 0
    for i in range(7):
        assert abs(np.log2(found[i] / np.quantile(values[values[:, i] > 0, i], 0.9))) < 1 / 8


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 60), max_size=4), st.randoms())
def test_merging_depends_on_neither_cuts_nor_order(rng_seed: int, cuts: list[int], random: object) -> None:
    rng = np.random.default_rng(rng_seed)
    values, lengths = sparse_values(rng, 60, 6, share=0.6).round(1), rng.integers(1, 50, 60)
    ends = [0, *sorted(cuts), 60]
    parts = [
        profile_of(values[a:b], lengths[a:b], first_id=1 + a) for a, b in zip(ends[:-1], ends[1:], strict=True) if b > a
    ]
    random.shuffle(parts)  # type: ignore[attr-defined]
    whole = merge([profile_of(values, lengths, batch=7)])
    merged = merge(parts)
    while len(parts) > 1:  # pairwise, from the right
        parts.append(merge([parts.pop(), parts.pop()]))
    for name in ("cell_key", "cell_samples", "cell_tokens", "length_tokens", "top_value", "top_sample"):
        assert np.array_equal(getattr(merged, name), getattr(whole, name)), name
    assert same(merged, parts[0])


def test_the_16_best_samples_are_different_ones_and_ties_go_by_id() -> None:
    values = np.full((40, 1), 2.0, np.float32)
    values[30] = 3.0
    once = profile_of(values)
    twice = merge([once, once])
    assert twice.n_samples == 80
    assert [int(sample.sample_id, 16) for sample in twice.top_samples(0)] == [31, *range(1, 16)]
    assert twice.top_samples(0)[0].activation == 3.0
    assert np.array_equal(twice.top_position, once.top_position)


def test_a_flush_in_between_changes_nothing() -> None:
    rng = np.random.default_rng(3)
    values = sparse_values(rng, 500, 10)
    builder = ProfileBuilder(SPACE, 10)
    for i, row in enumerate(values):
        (feature,) = np.nonzero(row)
        tokens = feature % 3 + 1
        builder.add([f"{i + 1:016x}"], [10], 0 * feature, feature, row[feature], (i + feature) % 7 + 1, tokens)
        if i % 50 == 0:
            builder.build()
    assert same(builder.build(), profile_of(values, batch=500))


def test_save_and_load_give_the_same_and_equal_profiles_equal_bytes(tmp_path: Path) -> None:
    values = sparse_values(np.random.default_rng(4), 200, 20)
    profile = profile_of(values)
    profile.save(tmp_path / "a.npz")
    profile_of(values, batch=13).save(tmp_path / "b.npz")
    assert same(Profile.load(tmp_path / "a.npz"), profile)
    assert Profile.load(tmp_path / "a.npz").space == SPACE
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert merge([Profile.load(tmp_path / "a.npz"), profile]).n_samples == 400


def test_an_empty_profile_can_be_saved_merged_and_asked(tmp_path: Path) -> None:
    empty = ProfileBuilder(SPACE, 3).build()
    empty.save(tmp_path / "none.npz")
    loaded = Profile.load(tmp_path / "none.npz")
    assert merge([loaded, empty]).firing_samples(np.zeros(3, np.float32)).tolist() == [0, 0, 0]
    assert loaded.robust_maximum().tolist() == [0, 0, 0]
    assert loaded.quantile_edges(0.9).tolist() == [0, 0, 0]


def test_a_broken_file_or_another_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    with pytest.raises(InputError, match="no profile"):
        Profile.load(path)
    profile_of(np.ones((3, 2), np.float32)).save(path)
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"text", b""):
        path.write_bytes(broken)
        with pytest.raises(InputError, match="not a profile"):
            Profile.load(path)
    np.savez(path, meta=np.array('{"schema": 99, "space": {}}'))
    with pytest.raises(InputError, match="schema 99"):
        Profile.load(path)


def test_other_spaces_are_a_mismatch_that_names_the_key_and_both_values() -> None:
    values = np.ones((2, 2), np.float32)
    other = profile_of(values, space=SPACE | {"sae": "81d0"})
    with pytest.raises(MismatchError, match=r"(?s)first .*sae 3f9c.*other .*sae 81d0"):
        merge([profile_of(values), other])
    with pytest.raises(MismatchError, match="d_sae 3"):
        merge([profile_of(values), profile_of(np.ones((2, 3), np.float32))])
    with pytest.raises(InputError, match="no profiles"):
        merge([])


def test_bad_entries_and_thresholds_are_refused() -> None:
    builder = ProfileBuilder(SPACE, 4)
    for value in (np.nan, np.inf):
        with pytest.raises(ModelError, match="not finite"):
            builder.add(["01"], [5], [0], [1], [value], [2], [1])
    with pytest.raises(InputError, match="feature 4"):
        builder.add(["01"], [5], [0], [4], [1.0], [2], [1])
    profile = builder.build()
    assert profile.n_samples == 0
    with pytest.raises(InputError, match=r"0\.3\d* of feature 2 is not a bin edge"):
        profile.firing_samples(np.array([0, 1, 0.3, 0], np.float32))
    with pytest.raises(InputError, match="4 features"):
        profile.firing_samples(np.zeros(3, np.float32))


@given(st.integers(0, 1000), st.integers(1, 400))
def test_the_best_of_different_samples_are_the_best_whichever_way_they_are_found(rng_seed: int, n: int) -> None:
    rng = np.random.default_rng(rng_seed)
    pairs = rng.permutation(5 * 200)[:n]
    feature, sample = pairs // 200, (pairs % 200).astype(np.uint64)
    value = rng.choice([0.5, 1.0, 1.5, 3e-3, 40.0], n).astype(np.float32)  # many ties
    position = rng.integers(9, size=n).astype(np.int32)
    found = best_samples(feature, value, sample, position, 5, different=True)
    for ours, theirs in zip(found, best_samples(feature, value, sample, position, 5), strict=True):
        assert ours.tolist() == theirs.tolist()
    for i in range(5):
        rows = sorted((-value[feature == i]).tolist(), key=float)
        assert (-found[0][i]).tolist()[: len(rows)] == rows[:16]
