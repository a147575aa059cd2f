"""Encoded corpora on disk: any stop and any shard size end in the same codes, of one corpus and one space alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
from facsynth.errors import InputError, MismatchError
from facsynth.features import encoded as module
from facsynth.features import shards
from facsynth.features.encode import FeatureSpace
from facsynth.features.encoded import Encoded, encode
from facsynth.incidence import joined
from facsynth.model.backbone import Backbone
from facsynth.profile import merge
from facsynth.records import Failure
from facsynth.text.corpus import Corpus, read_corpus
from tiny import StoppedError, chats, files, maxima, stop_after
from tiny_encoded import SHARD, corpus_of, counted, rows, space_of, special


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny.backbone(tiny.save_model(tmp_path_factory.mktemp("models") / "llama"))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_SAMPLES", SHARD)


def codes(row: dict[str, Any]) -> dict[tuple[int, int], tuple[float, int, int]]:
    columns = (row[name] for name in ("role", "feature", "activation", "position", "n_firing"))
    return {(role, feature): rest for role, feature, *rest in zip(*columns, strict=True)}  # type: ignore[misc]


def test_rows_are_the_samples_in_order_with_their_pooled_codes(backbone: Backbone, tmp_path: Path) -> None:
    space, samples = space_of(backbone), chats(10)
    found = encode(corpus_of(samples), space, tmp_path)
    pooled = space.pool(samples)
    assert list(found.ids()) == [sample.sample_id for sample in samples]
    for index, row in enumerate(rows(found)):
        expected = maxima(pooled, index)
        assert codes(row).keys() == expected.keys()
        for key, (activation, position, n_firing) in codes(row).items():
            assert (pytest.approx(activation, rel=1e-4), position, n_firing) == expected[key]
        assert row["token_ids"] == pooled.tokens[index].ids.tolist()
        assert row["token_role"] == pooled.tokens[index].role.tolist()
    assert len(list(tmp_path.glob("shards/*.parquet"))) == 3
    assert found.manifest["n_samples"] == found.profile.n_samples == 10
    assert found.manifest["n_tokens"] == found.profile.n_tokens == sum(int(t.content.sum()) for t in pooled.tokens)


def test_the_profile_holds_the_higher_of_the_roles_and_the_tokens_of_both(backbone: Backbone, tmp_path: Path) -> None:
    space, samples = space_of(backbone), chats(10)
    profile = encode(corpus_of(samples), space, tmp_path).profile
    pooled = space.pool(samples)
    n_samples, n_tokens = np.zeros(64, int), np.zeros(64, int)
    best: dict[int, list[tuple[float, str, int]]] = {feature: [] for feature in range(64)}
    for index, sample in enumerate(samples):
        for feature, (activation, position) in pooled.maxima(index).items():
            n_samples[feature] += 1
            best[feature].append((-activation, sample.sample_id, position))
        for (_, feature), (_, _, n_firing) in maxima(pooled, index).items():
            n_tokens[feature] += n_firing
    assert profile.firing_samples(np.zeros(64, np.float32)).tolist() == n_samples.tolist()
    assert profile.firing_tokens().tolist() == n_tokens.tolist()
    for feature in range(64):
        found = [(top.sample_id, top.position) for top in profile.top_samples(feature)]
        assert found == [(sample_id, position) for _, sample_id, position in sorted(best[feature])]


def test_incidence_lists_every_pair_above_its_threshold_once(backbone: Backbone, tmp_path: Path) -> None:
    space, samples = space_of(backbone), chats(10)
    found = encode(corpus_of(samples), space, tmp_path)
    thresholds = np.linspace(0, 3, 64).astype(np.float32)
    asked = np.array([3, 5, 8, 21, 34, 40, 41, 55])
    pooled = space.pool(samples)
    expected = {
        (index, feature)
        for index in range(10)
        for feature, (activation, _) in pooled.maxima(index).items()
        if activation > thresholds[feature] and feature in asked
    }
    rows = joined(found.incidence(asked, thresholds))
    pairs = list(zip(rows.sample.tolist(), asked[rows.column].tolist(), strict=True))
    assert len(pairs) == len(expected) and set(pairs) == expected
    assert 0 < len(pairs) < len(joined(found.incidence(asked, np.zeros(64, np.float32))).sample)
    assert [f"{sample_id:016x}" for sample_id in rows.ids.tolist()] == list(found.ids())
    assert rows.n_tokens.sum() == found.profile.n_tokens
    for mine, theirs in zip(found.lengths(), (rows.ids, rows.n_tokens), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_shard_size_changes_nothing(backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space, corpus = space_of(backbone), corpus_of(chats(23))
    found = {}
    for size in (1, 5, 100):
        monkeypatch.setattr(module, "SHARD_SAMPLES", size)
        found[size] = encode(corpus, space, tmp_path / str(size))
    for size in (1, 5):
        for one, other in zip(rows(found[size]), rows(found[100]), strict=True):
            assert one["sample_id"] == other["sample_id"]
            assert codes(one).keys() == codes(other).keys()
            np.testing.assert_allclose(one["activation"], other["activation"], rtol=1e-4)
        assert found[size].profile.firing_tokens().tolist() == found[100].profile.firing_tokens().tolist()
        assert found[size].manifest == found[100].manifest


def test_encoding_goes_on_after_a_stop_at_any_shard_to_the_same_bytes(backbone: Backbone, tmp_path: Path) -> None:
    space, corpus = space_of(backbone), corpus_of([*chats(9), special(), *chats(13)[9:], special(1)])
    told: list[int] = []
    encode(corpus, space, tmp_path / "0", progress=lambda what, done, total: told.append(done))
    whole = files(tmp_path / "0")
    assert len(told) == 12, "before and after the one pass of each of 4 shards, and when it is written"
    for stop in range(1, 13):
        out = tmp_path / str(stop)
        with pytest.raises(StoppedError):
            encode(corpus, space, out, progress=stop_after(stop))
        assert not (out / "manifest.json").exists()
        with pytest.raises(InputError, match="is not finished"):
            Encoded.open(out)
        with counted(backbone) as passes:
            encode(corpus, space, out)
        assert sum(passes) == sum([4, 4, 3, 2][stop // 3 :]), "what is done is not done again"
        assert files(out) == whole


def test_a_finished_folder_is_opened_without_running_the_model(backbone: Backbone, tmp_path: Path) -> None:
    space, corpus = space_of(backbone), corpus_of(chats(6))
    first = encode(corpus, space, tmp_path)
    with counted(backbone) as passes:
        again = encode(corpus, space, tmp_path)
    assert passes == []
    assert again.manifest == first.manifest
    assert Encoded.open(tmp_path).profile.firing_tokens().tolist() == first.profile.firing_tokens().tolist()


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"codes": "relu"}, "codes"), ({"max_tokens": 99}, "max_tokens"), ({"form": "message"}, "form")],
)
@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_in_the_same_folder_are_refused_by_name(
    settings: dict[str, Any], key: str, finished: bool, backbone: Backbone, tmp_path: Path
) -> None:
    corpus = corpus_of(chats(6))
    encode(corpus, space_of(backbone), tmp_path)
    if not finished:
        (tmp_path / "manifest.json").unlink()
    before = files(tmp_path)
    other = space_of(backbone, **settings)
    with pytest.raises(MismatchError, match=f"begun with another {key}"):
        encode(replace(corpus, form=other.settings.form), other, tmp_path)
    assert files(tmp_path) == before


def test_another_corpus_sae_or_hook_point_in_the_same_folder_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    corpus, space = corpus_of(chats(6)), space_of(backbone)
    encode(corpus, space, tmp_path)
    with pytest.raises(MismatchError, match="begun with another corpus"):
        encode(corpus_of(chats(7)), space, tmp_path)
    with pytest.raises(MismatchError, match="begun with another sae"):
        encode(corpus, FeatureSpace(backbone, tiny.random_sae(rng_seed=1), space.settings), tmp_path)
    other = Backbone(
        backbone.model, backbone.tokenizer, hook_point="layers.0", name="llama", fingerprint=backbone.fingerprint
    )
    sae = replace(space.sae, hook_point="layers.0")
    with pytest.raises(MismatchError, match="begun with another hook_point"):
        encode(corpus, FeatureSpace(other, sae, space.settings), tmp_path)


def test_a_corpus_of_another_form_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="read in the form message, the feature space is of the form chat"):
        encode(Corpus.of(chats(3), form="message"), space_of(backbone), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_sample_of_a_file_that_memory_does_not_hold_is_listed(backbone: Backbone, tmp_path: Path) -> None:
    texts = ["river " * 200 if number == 5 else f"a river {number}" for number in range(10)]
    rows = [{"messages": [{"role": "user", "content": t}, {"role": "assistant", "content": "yes"}]} for t in texts]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def refuse(module: Any, inputs: Any) -> None:
        if inputs[0].shape[1] > 60:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = backbone.model.base_model.layers[0].register_forward_pre_hook(refuse)
    try:
        found = encode(read_corpus(tmp_path / "c.jsonl", form="chat"), space_of(backbone), tmp_path / "out")
    finally:
        handle.remove()
    assert found.manifest["n_samples"] == 9 and found.manifest["n_failures"] == 1
    assert "out of memory" in (tmp_path / "out" / "failures.jsonl").read_text("utf-8")


def test_a_few_bytes_that_changed_inside_a_shard_are_damage_or_change_nothing(
    backbone: Backbone, tmp_path: Path
) -> None:
    """Read without its checksums, such a shard gives other features, and no error."""
    encode(corpus_of(chats(12)), space_of(backbone), tmp_path)
    shard, n_told = tmp_path / "shards" / "00001.parquet", 0
    whole, expected = shard.read_bytes(), list(Encoded.open(tmp_path).shards())
    places = range(4, len(whole) * 2 // 3, len(whole) // 40)
    for place in places:
        shard.write_bytes(whole[:place] + bytes(b ^ 0x55 for b in whole[place : place + 4]) + whole[place + 4 :])
        try:
            assert list(Encoded.open(tmp_path).shards()) == expected
        except InputError as err:
            assert "00001.parquet is damaged" in str(err)
            n_told += 1
    assert n_told > len(places) / 2


def test_every_sample_and_row_that_failed_is_listed_and_counted(backbone: Backbone, tmp_path: Path) -> None:
    corpus = corpus_of([*chats(6), special(), *chats(9)[6:], special(1)])
    corpus = replace(corpus, failures=(Failure("corpus.jsonl, line 3", "not JSON", "{"),))
    found = encode(corpus, space_of(backbone), tmp_path)
    listed = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text("utf-8").splitlines()]
    assert [row["where"] for row in listed] == ["corpus.jsonl, line 3", special().sample_id, special(1).sample_id]
    assert found.manifest["n_failures"] == 3
    assert found.manifest["n_samples"] == 9


def test_a_corpus_without_any_content_is_an_input_error(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sample of corpus has content tokens"):
        encode(corpus_of([special(0), special(1)]), space_of(backbone), tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_cut_and_merged_samples_are_counted(backbone: Backbone, tmp_path: Path) -> None:
    samples = chats(8, longest=60)
    space = space_of(backbone, max_tokens=40)
    found = encode(corpus_of(samples), space, tmp_path)
    assert found.manifest["n_cut"] == sum(tokens.cut for tokens in space.pool(samples).tokens) > 0
    assert found.manifest["n_merged"] == 0


def test_halves_split_the_samples_by_id_whatever_the_order(backbone: Backbone, tmp_path: Path) -> None:
    space, samples = space_of(backbone), chats(30)
    whole = encode(corpus_of(samples), space, tmp_path / "a")
    halves, again = whole.halves(), encode(corpus_of(samples[::-1]), space, tmp_path / "b").halves()
    assert [half.n_samples for half in halves] == [half.n_samples for half in again]
    assert min(half.n_samples for half in halves) > 5
    joined = merge(halves)
    assert joined.firing_tokens().tolist() == whole.profile.firing_tokens().tolist()
    assert joined.length_tokens.tolist() == whole.profile.length_tokens.tolist()
    zero = np.zeros(64, np.float32)
    for one, other in zip(halves, again, strict=True):
        assert one.firing_samples(zero).tolist() == other.firing_samples(zero).tolist()


def test_opening_something_else_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no result of `facsynth encode`"):
        Encoded.open(tmp_path)


@given(st.lists(st.floats(0, 2.0**100, width=32, allow_subnormal=False), min_size=1, max_size=50))
def test_activations_are_rounded_by_little_and_only_once(values: list[float]) -> None:
    exact = np.array(values, np.float32)
    found = shards.rounded(exact)
    np.testing.assert_allclose(found, exact, rtol=2**-15)
    assert ((found > 0) == (exact > 0)).all()
    assert shards.rounded(found).tolist() == found.tolist()
