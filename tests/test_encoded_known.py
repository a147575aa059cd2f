"""Samples that an earlier folder holds are copied from it, whatever is damaged there: the codes stay the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tiny
from facsynth.features import encoded as module
from facsynth.features.encoded import encode, settings_of
from facsynth.features.queue import MOST_SHARDS
from facsynth.features.reuse import Known
from facsynth.model.backbone import Backbone
from tiny import chats
from tiny_encoded import SHARD, corpus_of, counted, rows, space_of, special


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny.backbone(tiny.save_model(tmp_path_factory.mktemp("models") / "llama"))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_SAMPLES", SHARD)


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


def test_a_damaged_shard_saves_no_work_and_those_behind_it_do(backbone: Backbone, tmp_path: Path) -> None:
    space, samples = space_of(backbone), chats(12)
    encode(corpus_of(samples), space, tmp_path / "old")
    (tmp_path / "old" / "shards" / "00001.parquet").write_bytes(b"PAR1")
    known = Known([tmp_path / "old"], settings_of(space))
    found = encode(corpus_of(samples), space, tmp_path / "new", known=known)
    assert (known.n_found, found.profile.n_samples) == (8, 12)


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
