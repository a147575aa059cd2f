"""Encoded corpora on disk: any stop, any shard size, any earlier folder ends in the same codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
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
from facsynth.features.encode import EncodeSettings, FeatureSpace
from facsynth.features.encoded import Encoded, encode, settings_of
from facsynth.features.queue import MOST_SHARDS
from facsynth.features.reuse import Known
from facsynth.incidence import joined
from facsynth.model.backbone import Backbone
from facsynth.profile import merge
from facsynth.records import Failure, Message, Sample
from facsynth.text.corpus import Corpus, read_corpus
from tiny import chats, maxima

SHARD = 4


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny.backbone(tiny.save_model(tmp_path_factory.mktemp("models") / "llama"))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_SAMPLES", SHARD)


def space_of(backbone: Backbone, **settings: Any) -> FeatureSpace:
    return FeatureSpace(backbone, tiny.random_sae(), EncodeSettings(**{"form": "chat"} | settings))


def corpus_of(samples: list[Sample], name: str = "corpus") -> Corpus:
    return Corpus.of(samples, name=name, form="chat")


def special(index: int = 0) -> Sample:
    return Sample((Message("user", "<|im_end|>" * (index + 1)), Message("assistant", "</s>")))


def files(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def rows(found: Encoded) -> list[dict[str, Any]]:
    return [row for table in found.shards() for row in table.to_pylist()]


def codes(row: dict[str, Any]) -> dict[tuple[int, int], tuple[float, int, int]]:
    columns = (row[name] for name in ("role", "feature", "activation", "position", "n_firing"))
    return {(role, feature): rest for role, feature, *rest in zip(*columns, strict=True)}  # type: ignore[misc]


@contextmanager
def counted(backbone: Backbone) -> Iterator[list[int]]:
    """Sequences a forward pass, for each pass."""
    passes: list[int] = []
    first = backbone.model.base_model.layers[0]
    handle = first.register_forward_pre_hook(lambda module, inputs: passes.append(len(inputs[0])))
    yield passes
    handle.remove()


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


class StoppedError(Exception):
    pass


def test_encoding_goes_on_after_a_stop_at_any_shard_to_the_same_bytes(backbone: Backbone, tmp_path: Path) -> None:
    space, corpus = space_of(backbone), corpus_of([*chats(9), special(), *chats(13)[9:], special(1)])
    told: list[int] = []
    encode(corpus, space, tmp_path / "0", progress=lambda what, done, total: told.append(done))
    whole = files(tmp_path / "0")
    assert len(told) == 12, "before and after the one pass of each of 4 shards, and when it is written"
    for stop in range(1, 13):
        left = [stop]

        def progress(what: str, done: int, total: int | None, left: list[int] = left) -> None:
            left[0] -= 1
            if not left[0]:
                raise StoppedError

        out = tmp_path / str(stop)
        with pytest.raises(StoppedError):
            encode(corpus, space, out, progress=progress)
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


def test_samples_that_stand_in_an_earlier_folder_are_copied(backbone: Backbone, tmp_path: Path) -> None:
    space, samples = space_of(backbone), chats(40)
    encode(corpus_of(samples[:30]), space, tmp_path / "old")
    changed = [*samples[35:], *samples[3:20][::-1], samples[7], special(), *samples[25:33]]
    with counted(backbone) as passes:
        found = encode(
            corpus_of(changed),
            space,
            tmp_path / "new",
            known=Known([tmp_path / "gone", tmp_path / "old"], settings_of(space)),
        )
    assert sum(passes) == 5 + 3
    plain = encode(corpus_of(changed), space, tmp_path / "plain")
    assert found.manifest == plain.manifest
    for one, other in zip(rows(found), rows(plain), strict=True):
        for name in (
            "sample_id",
            "cut",
            "merged",
            "token_ids",
            "token_role",
            "role",
            "feature",
            "position",
            "n_firing",
        ):
            assert one[name] == other[name]
        np.testing.assert_allclose(one["activation"], other["activation"], rtol=1e-4)
    assert found.profile.firing_tokens().tolist() == plain.profile.firing_tokens().tolist()
    assert (tmp_path / "new/failures.jsonl").read_bytes() == (tmp_path / "plain/failures.jsonl").read_bytes()


def test_few_new_samples_of_many_shards_are_pooled_together_and_stay_where_they_belong(
    backbone: Backbone, tmp_path: Path
) -> None:
    space, samples = space_of(backbone), chats(40)
    old = [sample for index, sample in enumerate(samples) if index not in {2, 21, 38}]
    encode(corpus_of(old), space, tmp_path / "old")
    changed = [*samples[:5], special(), *samples[5:]]
    with counted(backbone) as passes:
        found = encode(corpus_of(changed), space, tmp_path / "new", known=Known([tmp_path / "old"], settings_of(space)))
    assert passes == [3]
    plain = encode(corpus_of(changed), space, tmp_path / "plain")
    assert list(found.ids()) == list(plain.ids())
    failed = "shards/00001.parquet.failures.jsonl"
    assert (found.folder / failed).read_bytes() == (plain.folder / failed).read_bytes()
    assert len(list((tmp_path / "new" / "shards").glob("*.failures.jsonl"))) == 1


def test_a_known_corpus_is_written_shard_by_shard_also_where_something_new_is_last(
    backbone: Backbone, tmp_path: Path
) -> None:
    space, samples, before = space_of(backbone), chats(40), []
    encode(corpus_of(samples), space, tmp_path / "old")

    def progress(what: str, done: int, total: int | None) -> None:
        before.append(len(list((tmp_path / "new" / "shards").glob("*.parquet"))))

    known = Known([tmp_path / "old"], settings_of(space))
    changed = corpus_of([*samples, *chats(1, rng_seed=9)])
    found = encode(changed, space, tmp_path / "new", known=known, progress=progress)
    assert 1 in before and 5 in before and 9 in before
    assert list(found.ids())[:40] == [sample.sample_id for sample in samples]


def test_shards_that_wait_for_each_other_are_few(backbone: Backbone, tmp_path: Path) -> None:
    space, samples = space_of(backbone), chats(4 * (MOST_SHARDS + 4))
    encode(corpus_of([s for i, s in enumerate(samples) if i % 4]), space, tmp_path / "old")
    known = Known([tmp_path / "old"], settings_of(space))
    with counted(backbone) as passes:
        encode(corpus_of(samples), space, tmp_path / "new", known=known)
    assert sum(passes) == MOST_SHARDS + 4 and len(passes) >= 2


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


def test_a_damaged_shard_saves_no_work_and_those_behind_it_do(backbone: Backbone, tmp_path: Path) -> None:
    space, samples = space_of(backbone), chats(12)
    encode(corpus_of(samples), space, tmp_path / "old")
    (tmp_path / "old" / "shards" / "00001.parquet").write_bytes(b"PAR1")
    known = Known([tmp_path / "old"], settings_of(space))
    found = encode(corpus_of(samples), space, tmp_path / "new", known=known)
    assert (known.n_found, found.profile.n_samples) == (8, 12)


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


def test_a_folder_of_another_schema_saves_no_work_and_stops_none(backbone: Backbone, tmp_path: Path) -> None:
    space, plan = space_of(backbone), tmp_path / "old" / "plan.json"
    encode(corpus_of(chats(4)), space, tmp_path / "old")
    plan.write_text(json.dumps(json.loads(plan.read_text("utf-8")) | {"schema": 0}), encoding="utf-8")
    assert Known([tmp_path / "old"], settings_of(space)).find([s.sample_id for s in chats(4)]) is None


def test_an_earlier_folder_of_another_space_is_not_used(backbone: Backbone, tmp_path: Path) -> None:
    corpus, space = corpus_of(chats(6)), space_of(backbone)
    encode(corpus, space_of(backbone, codes="relu"), tmp_path / "relu")
    with counted(backbone) as passes:
        encode(corpus, space, tmp_path / "native", known=Known([tmp_path / "relu"], settings_of(space)))
    assert sum(passes) == 6


def test_equal_samples_are_kept_as_often_as_they_come(backbone: Backbone, tmp_path: Path) -> None:
    space, samples = space_of(backbone), chats(5)
    repeated = [*samples, samples[0], samples[0], samples[3]]
    found = encode(corpus_of(repeated), space, tmp_path / "a")
    copied = encode(corpus_of(repeated), space, tmp_path / "b", known=Known([tmp_path / "a"], settings_of(space)))
    for one in (found, copied):
        assert list(one.ids()) == [sample.sample_id for sample in repeated]
        assert one.profile.n_samples == 8
    once = encode(corpus_of(samples), space, tmp_path / "c")
    assert found.profile.firing_tokens().sum() > once.profile.firing_tokens().sum()


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
