"""`train-sae` from corpora to a folder: figures, failures, stops, and a folder that is asked for something else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tiny
from facsynth.errors import InputError, MismatchError
from facsynth.features.harvest import HarvestSettings
from facsynth.features.train import Recipe, train_on_corpora
from facsynth.model.backbone import Backbone
from facsynth.model.sae_formats import load_sae
from facsynth.model.trainer import TrainSettings
from facsynth.records import Failure, Message, Sample
from facsynth.text.corpus import Corpus
from tiny import StoppedError, stop_after

RECIPE = Recipe(
    HarvestSettings(max_tokens=64, held_out=0.1, chunk_tokens=150),
    TrainSettings(d_sae=48, k=4, n_tokens=3000, batch_tokens=64, buffer_chunks=2),
    "float16",
)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny.backbone(tiny.save_model(tmp_path_factory.mktemp("models") / "llama"))


def corpora() -> list[Corpus]:
    chat = [Sample((Message("user", f"What is {i} plus {i * i}?"),)) for i in range(60)]
    broken = Sample((Message("user", "<|im_end|>"),))
    text = [Sample((Message("text", f"{i}: " + "the river rose overnight " * 3),)) for i in range(20)]
    first = Corpus.of([*chat, broken], name="chat.jsonl")
    first = replace(first, failures=(Failure("chat.jsonl, line 7", "the user turn is empty"),))
    return [first, Corpus.of(text, name="text.jsonl", form="text")]


def train(backbone: Backbone, out: Path, recipe: Recipe = RECIPE, **given: Any) -> Any:
    return train_on_corpora(corpora(), backbone, out, recipe, **given)


def test_an_sae_is_trained_measured_and_written_with_every_failure(backbone: Backbone, tmp_path: Path) -> None:
    trained = train(backbone, tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest | trained.figures == manifest
    assert {"fvu", "l0", "dead_share", "dead_share_train", "n_sink_tokens", "n_tokens_seen"} <= manifest.keys()
    assert manifest["n_tokens_seen"] >= 3000 > manifest["n_distinct_tokens"] > 500
    assert manifest["n_samples"] == 81
    rows = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text().splitlines()]
    assert manifest["n_failures"] == len(rows) == 2
    assert rows[0]["where"] == "chat.jsonl, line 7"
    assert "no content tokens" in rows[1]["reason"]
    sae = load_sae(tmp_path)
    assert (sae.d_in, sae.d_sae, sae.k, sae.hook_point, sae.model_name) == (32, 48, 4, "layers.1", "llama")


def test_the_same_call_goes_on_after_a_stop_and_reads_what_is_done(backbone: Backbone, tmp_path: Path) -> None:
    told: list[str] = []
    unbroken = train(backbone, tmp_path / "0", progress=lambda what, done, total: told.append(what))
    assert len(told) >= 20
    for stop in range(1, len(told), 4):
        out = tmp_path / str(stop)
        with pytest.raises(StoppedError):
            train(backbone, out, progress=stop_after(stop))
        assert not (out / "manifest.json").exists()
        train(backbone, out)
        for name in ("sae_weights.safetensors", "cfg.json", "manifest.json"):
            assert (out / name).read_bytes() == (tmp_path / "0" / name).read_bytes()

    told.clear()
    assert train(backbone, tmp_path / "0", progress=lambda what, done, total: told.append(what)) == unbroken
    assert told == [], "a finished folder is read, not made again"


def test_another_recipe_or_model_in_the_same_folder_is_refused_by_name(backbone: Backbone, tmp_path: Path) -> None:
    train(backbone, tmp_path)
    before = (tmp_path / "sae_weights.safetensors").read_bytes()
    with pytest.raises(MismatchError, match="begun with another train"):
        train(backbone, tmp_path, replace(RECIPE, train=replace(RECIPE.train, k=5)))
    other = Backbone(backbone.model, backbone.tokenizer, hook_point="layers.0", name="llama", fingerprint="f")
    with pytest.raises(MismatchError, match="begun with another hook_point"):
        train(other, tmp_path)
    assert (tmp_path / "sae_weights.safetensors").read_bytes() == before


def test_corpora_that_are_too_small_are_an_input_error(backbone: Backbone, tmp_path: Path) -> None:
    one = [Corpus.of([Sample((Message("user", "Hello?"),))])]
    with pytest.raises(InputError, match="too small"):
        train_on_corpora(one, backbone, tmp_path / "a", RECIPE)
    few = [Corpus.of([Sample((Message("user", f"Hello {i}?"),)) for i in range(5)])]
    with pytest.raises(InputError, match="fewer tokens than one batch of 64"):
        train_on_corpora(few, backbone, tmp_path / "b", RECIPE)
