"""Encoded folders put together are what one pass leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny
from facsynth.errors import InputError, MismatchError, SettingsError
from facsynth.features import encoded as module
from facsynth.features.encode import EncodeSettings, FeatureSpace
from facsynth.features.encoded import Encoded, encode
from facsynth.features.merge import merge_encoded
from facsynth.features.queue import Part
from facsynth.profile import merge
from facsynth.records import Message, Sample
from tiny import chats, files
from tiny_cli import Parts, facsynth
from tiny_encoded import corpus_of

EMPTY = Sample((Message("user", "<|im_end|>"), Message("assistant", "</s>")))


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> FeatureSpace:
    backbone = tiny.backbone(tiny.save_model(tmp_path_factory.mktemp("models") / "llama"))
    return FeatureSpace(backbone, tiny.random_sae(), EncodeSettings(form="chat"))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_SAMPLES", 4)


@pytest.mark.parametrize("n", [2, 7])
def test_the_parts_of_a_corpus_merge_to_the_bytes_of_one_pass(space: FeatureSpace, tmp_path: Path, n: int) -> None:
    corpus = corpus_of([*chats(14), EMPTY, *chats(3, rng_seed=9)])
    encode(corpus, space, tmp_path / "whole")
    parts = [tmp_path / f"part{number}" for number in range(1, n + 1)]
    for number, folder in enumerate(parts, start=1):
        found = encode(corpus, space, folder, part=Part(number, n))
        assert len(list(folder.glob("shards/*.parquet"))) == len(range(number - 1, 5, n))
        assert found.manifest["n_samples"] == found.profile.n_samples
    merged = merge_encoded(parts[::-1], tmp_path / "merged")
    assert files(tmp_path / "merged") == files(tmp_path / "whole")
    assert files(merge_encoded(parts, tmp_path / "merged").folder) == files(tmp_path / "whole")
    assert list(merged.ids()) == [s.sample_id for s in corpus if s is not EMPTY]


def test_different_corpora_merge_to_the_profile_of_both_and_serve_as_one(space: FeatureSpace, tmp_path: Path) -> None:
    first, second = (encode(corpus_of(chats(6, seed), f"c{seed}"), space, tmp_path / f"{seed}") for seed in (1, 2))
    merged = merge_encoded([first.folder, second.folder], tmp_path / "both")
    assert merged.profile.cell_samples.tolist() == merge([first.profile, second.profile]).cell_samples.tolist()
    assert list(merged.ids()) == [*first.ids(), *second.ids()]
    assert merged.manifest["corpus"] == "c1 + c2"
    assert Encoded.open(tmp_path / "both").manifest == merged.manifest


def test_what_does_not_belong_together_is_refused(space: FeatureSpace, tmp_path: Path) -> None:
    corpus = corpus_of(chats(9))
    one, two, three = (encode(corpus, space, tmp_path / f"{i}", part=Part(i, 3)).folder for i in (1, 2, 3))
    whole = encode(corpus, space, tmp_path / "whole").folder
    dense = FeatureSpace(space.backbone, space.sae, EncodeSettings(form="chat", codes="relu"))
    other = encode(corpus, dense, tmp_path / "relu").folder
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"parts of the corpus are missing: 2/3\nEncode them with --shard"):
        merge_encoded([one, three], out)
    with pytest.raises(InputError, match="a part comes twice"):
        merge_encoded([one, two, three, two], out)
    with pytest.raises(InputError, match=r"whole \(whole\) is no part of the corpus"):
        merge_encoded([one, two, whole], out)
    with pytest.raises(InputError, match="holds the same samples as a folder before it"):
        merge_encoded([whole, whole], out)
    with pytest.raises(MismatchError, match=r"another codes\n.*native\n.*relu\nEncode one of them again"):
        merge_encoded([whole, other], out)
    with pytest.raises(InputError, match="no folders to merge"):
        merge_encoded([], out)
    assert not out.exists()


def test_parts_without_a_sample_are_whole_and_a_corpus_without_one_is_not(space: FeatureSpace, tmp_path: Path) -> None:
    corpus = corpus_of([EMPTY])
    parts = [encode(corpus, space, tmp_path / f"{i}", part=Part(i, 2)).folder for i in (1, 2)]
    with pytest.raises(InputError, match="no sample of corpus has content tokens"):
        merge_encoded(parts, tmp_path / "out")


@pytest.mark.parametrize("text", ["0/2", "3/2", "a/b", "2", "1/0", "-1/2"])
def test_a_part_that_is_none_is_a_settings_error(text: str) -> None:
    with pytest.raises(SettingsError, match="there is no shard"):
        Part.parse(text)
    assert str(Part.parse("2/7")) == "2/7"


def test_a_folder_to_reuse_is_used_or_refused(tmp_path: Path) -> None:
    tiny_parts = Parts(tmp_path)
    whole, half = tmp_path / "whole", tmp_path / "half"
    encoding = ("encode", tiny_parts.anchor, *tiny_parts.space, "--form", "message")
    assert facsynth(*encoding, "-o", half, "--shard", "1/1").code == 0
    done = facsynth(*encoding, "-o", whole, "--reuse", half)
    n_samples = Encoded.open(half).profile.n_samples
    assert (done.code, f"{n_samples} samples were there already: {half}" in done.stderr) == (0, True), done
    half_again = tmp_path / "half-again"
    half.rename(half_again)
    done = facsynth(*encoding, "-o", whole, "--reuse", half)
    assert (done.code, "were there already" in done.stderr) == (0, False), "it is finished"
    half_again.rename(half)
    for folder, options, reason in (
        (tmp_path / "gone", (), f"there is no folder {tmp_path / 'gone'}"),
        (tiny_parts.anchor.parent, (), "holds no result of `facsynth encode`"),
        (half, ("--codes", "relu"), "half cannot be reused: it was encoded with another codes\n  there  native"),
    ):
        done = facsynth(*encoding, *options, "-o", tmp_path / "new", "--reuse", folder)
        assert (done.code, reason in done.stderr) == (1, True), done


@pytest.mark.parametrize("cut", [None, 200])
def test_a_shard_that_is_gone_or_cut_is_never_merged_nor_taken_as_finished(
    cut: int | None, space: FeatureSpace, tmp_path: Path
) -> None:
    corpus = corpus_of(chats(9))
    one, two = (encode(corpus, space, tmp_path / f"{i}", part=Part(i, 2)).folder for i in (1, 2))
    shard = one / "shards" / "00002.parquet"
    shard.unlink() if cut is None else shard.write_bytes(shard.read_bytes()[:cut])
    for again in (
        lambda: merge_encoded([one, two], tmp_path / "out"),
        lambda: encode(corpus, space, one, part=Part(1, 2)),
    ):
        with pytest.raises(InputError, match="its manifest says 5" if cut is None else r"00002.parquet is damaged"):
            again()
    assert not (tmp_path / "out").exists()
