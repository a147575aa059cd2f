"""Any SAE through the door of a user's words: --sae, --sae-k, --hook-point, notes, and what a fingerprint covers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import foreign
from facsynth.assemble import embedded_sae_folder, open_local_writer, open_sae, open_space
from facsynth.errors import SettingsError
from facsynth.model.hashes import remembered_hash
from facsynth.profile import ProfileBuilder
from facsynth.records import Message, Request
from facsynth.settings import parse_settings
from facsynth.store import fingerprint
from tiny_cli import Parts, facsynth

WIDE = foreign.weights(32, 128)


@pytest.fixture
def tiny(tmp_path: Path) -> Parts:
    return Parts(tmp_path)


def options(tiny: Parts, sae: Path) -> list[str]:
    return ["--anchor", str(tiny.anchor), "--model", str(tiny.model), "--dtype", "float32", "--relevance", "all",
            "--sae", str(sae), "--sae-check", "off"]  # fmt: skip


def test_a_file_that_lacks_k_and_layer_is_given_both(tiny: Parts) -> None:
    sae = foreign.qwen_scope(tiny.folder / "mine", WIDE, file="mine.pt")
    done = facsynth("coverage", tiny.seed, *options(tiny, sae))
    assert (done.code, "Give it with --sae-k." in done.stderr) == (1, True)
    done = facsynth("coverage", tiny.seed, *options(tiny, sae), "--sae-k", 6)
    assert (done.code, "Give it: model.hook_point (--hook-point)." in done.stderr) == (2, True)
    done = facsynth("coverage", tiny.seed, *options(tiny, sae), "--sae-k", 6, "--hook-point", "layers.1", "--json")
    assert done.code == 0, done.stderr
    assert not [note for note in json.loads(done.stdout)["notes"] if "SAE" in note]


def test_what_was_taken_from_a_name_is_noted_and_kept(tiny: Parts) -> None:
    sae = foreign.qwen_scope(tiny.folder / "SAE-Res-Tiny-W1K-L0_6", WIDE, file="layer1.sae.pt")
    done = facsynth("missing", tiny.seed, *options(tiny, sae), "-o", tiny.folder / "run")
    assert done.code == 0, done.stderr
    for note in ("k = 6 is taken from the name 'L0_6'", "its hook point, layers.1, is taken from the name 'layer1.sae"):
        assert f"note: SAE: {note}" in done.stderr
    out = tiny.folder / "encoded"
    done = facsynth("encode", tiny.seed, "--model", tiny.model, "--sae", sae, "--sae-check", "off", "-o", out)
    assert (done.code, done.stderr.count("note: SAE: ")) == (0, 3)


def test_a_settings_file_says_k_too(tiny: Parts) -> None:
    sae = foreign.qwen_scope(tiny.folder / "mine", WIDE, file="layer1.sae.pt")
    settings = tiny.settings | {"sae": {"path": str(sae), "k": 6, "check": "off"}}
    config = tiny.write("k.yaml", yaml.safe_dump(settings))
    assert facsynth("coverage", tiny.seed, "-c", config).code == 0


def test_an_sae_at_another_block_than_asked_for_is_refused(tiny: Parts) -> None:
    sae = foreign.saelens(tiny.folder / "lens", WIDE, "topk", k=6)
    done = facsynth("coverage", tiny.seed, *options(tiny, sae), "--hook-point", "layers.1")
    assert (done.code, "the SAE was trained at layers.3, the model is hooked at layers.1" in done.stderr) == (2, True)


def test_an_sae_with_an_input_norm_writes_without_steering(tiny: Parts) -> None:
    sae = tiny_saelens(tiny.folder / "lens", normalize_activations="layer_norm")
    settings = parse_settings(tiny.settings | {"sae": {"path": str(sae)}}, "test")
    space = open_space(settings, tiny.folder / "cache")
    anchor = ProfileBuilder(space.identity, 128).build()
    with pytest.raises(SettingsError, match=r"\(layer_norm\).*\nSet writer.rungs to"):
        open_local_writer(space, anchor, [3], settings)
    plain = settings.model_copy(update={"writer": settings.writer.model_copy(update={"rungs": ("spans",)})})
    request = Request((Message("user", "hello"),), max_tokens=4, temperature=0.8, top_p=0.95, rng_seed=0)
    assert open_local_writer(space, anchor, [3], plain).write([request])


def tiny_saelens(folder: Path, **config: Any) -> Path:
    metadata = {"model_name": "tiny", "hook_name": "layers.1"}
    return foreign.saelens(folder, WIDE, "topk", k=6, metadata=metadata, **config)


def test_a_fingerprint_covers_the_weights_and_how_they_are_used(tmp_path: Path) -> None:
    def of(path: Path, k: int | None = None) -> str:
        return open_sae(str(path), tmp_path / "cache", k=k).fingerprint

    llama, lens = tmp_path / "llama", tmp_path / "lens"
    found = {of(foreign.llama_scope(llama, foreign.W))}
    found.add(of(foreign.llama_scope(llama, foreign.W, jump_relu_threshold=0.5)))
    found.add(of(foreign.llama_scope(llama, foreign.W, dataset_average_activation_norm={"in": 3.0, "out": 3.0})))
    found.add(of(foreign.llama_scope(llama, foreign.W, sparsity_include_decoder_norm=False)))
    for changed in ({}, {"normalize_activations": "layer_norm"}, {"rescale_acts_by_decoder_norm": True}, {"k": 6}):
        found.add(of(foreign.saelens(lens, foreign.W, "topk", **{"k": 5, **changed})))
    qwen = foreign.qwen_scope(tmp_path / "qwen", foreign.W)
    found |= {of(qwen, 5), of(qwen, 6)}
    assert len(found) == 10
    assert of(lens) == of(lens / "sae_weights.safetensors"), "not where it lies, nor how it was named"


def test_the_fingerprint_of_what_ships_is_what_it_was(tmp_path: Path) -> None:
    shipped = embedded_sae_folder() / "sae_weights.safetensors"
    used = {"architecture": "topk", "k": 32, "centred": True}
    assert open_sae("embedded", tmp_path).fingerprint == fingerprint([remembered_hash(shipped, tmp_path), used])


def test_the_codes_that_the_paper_measured_can_be_asked_for_everywhere(tiny: Parts) -> None:
    measured = [*tiny.options, "--threshold", "0.0", "--codes", "relu"]
    done = facsynth("coverage", tiny.seed, *measured, "--json")
    assert (done.code, json.loads(done.stdout)["codes"]) == (0, "relu"), done.stderr
    assert "note: relu codes above 0.0: " in done.stderr
    native = json.loads(facsynth("coverage", tiny.seed, *measured[:-2], "--json").stdout)
    assert native["codes"] == "native"
    assert native["n_target"] < json.loads(done.stdout)["n_target"]
    assert facsynth("missing", tiny.seed, *measured, "--json").code == 0
    out = tiny.folder / "encoded"
    assert facsynth("encode", tiny.seed, *tiny.space, "--codes", "relu", "-o", out).code == 0
    assert '"codes": "relu"' in (out / "plan.json").read_text("utf-8")
    wrong = facsynth("coverage", tiny.seed, *tiny.options, "--codes", "dense")
    assert (wrong.code, "`sae.codes` is 'dense': Input should be 'native' or 'relu'" in wrong.stderr) == (2, True)
