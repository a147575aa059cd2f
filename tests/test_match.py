"""Counterparts in another space: planted truth, chance, a second opinion in numpy, folders of `encode`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.sparse import csr_array

import tiny
from facsynth.errors import InputError, MismatchError
from facsynth.features.encode import EncodeSettings, FeatureSpace
from facsynth.features.encoded import encode
from facsynth.features.match import Matches, match, shuffled_rows
from facsynth.matching import match_spaces
from facsynth.model.backbone import Backbone, load_backbone
from facsynth.model.embedded import embedded_model
from facsynth.records import Message, Sample
from facsynth.text.corpus import Corpus
from tiny_cli import facsynth

Matrix = npt.NDArray[np.float32]


def fired(n: int, d: int, rng: np.random.Generator) -> Matrix:
    """Activations of features that fire in 1 % to 40 % of the samples."""
    rates = np.exp(rng.uniform(np.log(0.01), np.log(0.4), d))
    return np.where(rng.random((n, d)) < rates, rng.gamma(2, 1, (n, d)), 0).astype(np.float32)


def matched(a: Matrix, b: Matrix, rng_seed: int = 0, **settings: Any) -> Matches:
    n_tokens = np.random.default_rng(rng_seed).integers(3, 60, len(a))
    asked = {"min_support": 5, "n_shuffles": 5, "rng_seed": rng_seed} | settings
    return match(csr_array(a), csr_array(b), n_tokens, **asked)


def test_features_that_were_permuted_scaled_and_blurred_are_all_found_among_noise() -> None:
    rng = np.random.default_rng(0)
    a, order = fired(500, 200, rng), rng.permutation(200)
    blurred = a[:, order] * rng.uniform(0.5, 2, 200) * np.exp(0.3 * rng.normal(size=a.shape))
    found = matched(a, np.hstack([blurred, fired(500, 100, rng)]).astype(np.float32))
    expected = {int(i): place for place, i in enumerate(order) if (a[:, i] > 0).sum() >= 5}
    assert found.counterparts == expected
    assert (found.support_a == (a > 0).sum(axis=0)[found.feature_a]).all()
    assert found.eligible_a.tolist() == sorted(expected)


def test_unrelated_spaces_have_no_counterparts_though_many_are_mutual_neighbours() -> None:
    rng = np.random.default_rng(1)
    found = [matched(fired(400, 150, rng), fired(400, 150, rng), seed) for seed in range(12)]
    assert np.mean([len(one.feature_a) for one in found]) > 30
    assert sum(len(one.counterparts) > 0 for one in found) <= 1
    assert all(0 < group.null < 1 and group.paired_by_chance > 0.2 for one in found for group in one.groups)


def test_a_half_that_is_related_is_told_from_the_half_that_is_not() -> None:
    rng = np.random.default_rng(2)
    a, b = fired(500, 160, rng), fired(500, 160, rng)
    b[:, :80] = a[:, :80] * rng.uniform(0.5, 2, (500, 80))
    told = matched(a, b).counterparts
    wrong = {i: j for i, j in told.items() if i != j}
    assert len(told) - len(wrong) >= 75
    assert len(wrong) <= 0.1 * len(told)


def test_length_alone_makes_no_counterparts() -> None:
    rng = np.random.default_rng(3)
    n_tokens = np.round(np.exp(rng.normal(3, 1, 600))).astype(np.int64) + 1
    chance = 1 - np.exp(-n_tokens[:, None] / rng.uniform(20, 400, (2, 1, 100)))
    a, b = (np.where(rng.random(part.shape) < part, rng.gamma(2, 1, part.shape), 0) for part in chance)
    found = match(csr_array(a), csr_array(b), n_tokens, min_support=5, n_shuffles=5)
    assert np.median(np.corrcoef(a.T, b.T)[:100, 100:]) > 0.05, "longer samples fire everything more"
    assert len(found.counterparts) <= 2


def test_pairs_are_those_of_all_correlations_at_once_in_numpy() -> None:
    rng = np.random.default_rng(4)
    a, b = fired(300, 60, rng), fired(300, 90, rng)
    b[:, :20] += a[:, 20:40]
    found = matched(a, b)
    keep_a, keep_b = ((x > 0).sum(axis=0) >= 5 for x in (a, b))
    slow = np.corrcoef(a.T, b.T)[:60, 60:]
    slow = np.where(keep_a[:, None] & keep_b, slow, -2)
    expected = [(i, j) for i, j in enumerate(slow.argmax(axis=1)) if keep_a[i] and slow[:, j].argmax() == i]
    assert list(zip(found.feature_a, found.feature_b, strict=True)) == expected
    np.testing.assert_allclose(found.correlation, [slow[pair] for pair in expected], atol=1e-5)


def test_block_size_changes_nothing_and_constant_or_rare_features_are_left_out() -> None:
    rng = np.random.default_rng(5)
    a = fired(300, 80, rng)
    b = a[:, ::-1].copy()
    a[:, 0], a[:, 1] = 2.0, 0.0
    a[:4, 1] = 1.0
    whole, small = matched(a, b), matched(a, b, block_entries=100)
    assert whole.counterparts == small.counterparts
    assert (whole.q_values == small.q_values).all() and whole.groups == small.groups
    assert not {0, 1} & set(whole.eligible_a.tolist())
    nothing = matched(np.zeros_like(a), b)
    assert (len(nothing.feature_a), nothing.groups) == (0, [])


def test_samples_are_shuffled_among_those_of_their_length() -> None:
    n_tokens = np.random.default_rng(6).permutation(np.repeat([5, 50, 500], 100))
    rows = shuffled_rows(n_tokens, np.random.default_rng(0))
    assert sorted(rows) == [*range(300)] and (n_tokens[rows] == n_tokens).all()
    assert (rows == np.arange(300)).sum() < 20


def folder(place: Path, model: Backbone, samples: Sequence[Sample], rng_seed: int = 0) -> Path:
    """A corpus encoded with a random SAE."""
    space = FeatureSpace(model, tiny.random_sae(rng_seed=rng_seed), EncodeSettings(form="chat"))
    encode(Corpus.of(list(samples), form="chat"), space, place)
    return place


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Backbone]:
    home = tmp_path_factory.mktemp("models")
    return {
        family: tiny.backbone(tiny.save_model(home / family, family, n_blocks=2, rng_seed=seed))
        for seed, family in enumerate(("llama", "mistral", "qwen2"))
    }


@pytest.mark.parametrize("families", [("llama", "mistral"), ("mistral", "qwen2"), ("qwen2", "llama")])
def test_families_are_matched_by_the_command(
    models: dict[str, Backbone], families: tuple[str, str], tmp_path: Path
) -> None:
    samples = tiny.chats(120, longest=12)
    a, b = (folder(tmp_path / name, models[name], samples, seed) for seed, name in enumerate(families))
    done = facsynth("match", a, b, "-o", tmp_path / "m")
    assert done.code == 0, done.stderr
    assert "with a counterpart" in done.stdout
    record = json.loads(facsynth("match", a, b, "-o", tmp_path / "m", "--json").stdout)
    rows = rows_of(tmp_path / "m")
    assert record["n_samples"] == 120 and record["n_mutual"] == len(rows) > 0
    assert record["counterparts"]["n_with_counterpart"] == sum(row["counterpart"] for row in rows)
    other = facsynth("match", a, b, "-o", tmp_path / "m", "--min-support", "9")
    assert (other.code, "begun with another min_support" in other.stderr) == (1, True)


def test_a_space_matches_itself_feature_by_feature_whatever_the_order_of_samples(
    models: dict[str, Backbone], tmp_path: Path
) -> None:
    samples = tiny.chats(150, longest=12)
    a = folder(tmp_path / "a", models["llama"], samples)
    turned = folder(tmp_path / "turned", models["llama"], samples[::-1])
    record = match_spaces(a, turned, tmp_path / "m")
    rows = rows_of(tmp_path / "m")
    assert all(row["feature_a"] == row["feature_b"] and row["correlation"] > 0.999 for row in rows)
    assert record["counterparts"]["n_with_counterpart"] >= 0.9 * record["n_eligible"]["a"] > 10
    back = match_spaces(turned, a, tmp_path / "back")
    assert back["groups"] == record["groups"]
    assert rows_of(tmp_path / "back") == rows


def test_other_corpora_are_refused_by_name(models: dict[str, Backbone], tmp_path: Path) -> None:
    a = folder(tmp_path / "a", models["llama"], tiny.chats(80, longest=8))
    b = folder(tmp_path / "b", models["mistral"], tiny.chats(80, rng_seed=1, longest=8))
    with pytest.raises(MismatchError, match=f"{a} and {b} are not of one corpus: 0 samples are in both, 50 are needed"):
        match_spaces(a, b, tmp_path / "m")
    assert not (tmp_path / "m" / "manifest.json").exists()
    few = folder(tmp_path / "few", models["llama"], tiny.chats(3, longest=8))
    with pytest.raises(MismatchError, match="3 samples are too few to pair features by: 50 are needed"):
        match_spaces(few, few, tmp_path / "m3")
    with pytest.raises(InputError, match="holds no result of `facsynth encode`"):
        match_spaces(a, tmp_path, tmp_path / "n")
    with pytest.raises(InputError, match="is no run, so no samples were made"):
        match_spaces(a, b, tmp_path / "n", accepted=a)
    assert facsynth("match", a, b, "-o", tmp_path / "n", "--min-support", "0").code == 2


@pytest.mark.slow
def test_the_embedded_model_has_counterparts_at_another_depth(tmp_path: Path) -> None:
    place = embedded_model(tmp_path / "cache")
    rng = np.random.default_rng(0)
    samples = [Sample((Message("user", " ".join(rng.choice(tiny.WORDS, 8))),)) for _ in range(200)]
    folders = []
    for depth in ("layers.6", "layers.9"):
        backbone = load_backbone(place, hook_point=depth, dtype="float32", cache=tmp_path / "cache")
        sae = tiny.fitted_sae(backbone, samples[:40], n_directions=16)
        space = FeatureSpace(backbone, sae, EncodeSettings())
        folders.append(tmp_path / depth)
        encode(Corpus.of(samples), space, folders[-1])
    record = match_spaces(*folders, tmp_path / "m")
    assert record["counterparts"]["share"] > 0.3
    assert record["correlation"] > record["null"]
