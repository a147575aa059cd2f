"""Which format a file is, what decides where that is open, and every file that is none: each with a way out."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import foreign
from facsynth.errors import ModelError, SettingsError
from facsynth.model.sae_files import read_weights
from facsynth.model.sae_formats import detect, find_weights, open_local
from facsynth.model.sae_table import FORMATS
from foreign import W, linear

FOUR = {key: W.torch(key) for key in ("W_enc", "b_enc", "W_dec", "b_dec")}
TOPK_OR_BATCH = {**linear(W), "b_dec": W.torch("b_dec"), "k": torch.tensor(5), "threshold": torch.tensor(0.7)}


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def params(folder: Path) -> Path:
    names = {"W_enc": "w_enc", "W_dec": "w_dec"}
    return foreign.put(folder / "params.safetensors", {names.get(key, key): W.torch(key) for key in vars(W)})


MADE: dict[str, Callable[[Path], Path]] = {
    "SAELens": lambda folder: foreign.saelens(folder, W, "standard"),
    "Gemma Scope": lambda folder: foreign.gemma_scope(folder, W),
    "Gemma Scope 2": params,
    "OpenMOSS": lambda folder: foreign.llama_scope(folder, W),
    "sparsify": lambda folder: foreign.sparsify(folder / "layers.1", W),
    "dictionary_learning": lambda folder: foreign.put(folder / "ae.pt", {**linear(W), "bias": W.torch("b_dec")}),
    "Qwen-Scope": lambda folder: foreign.qwen_scope(folder, W),
    "Goodfire": lambda folder: foreign.put(
        folder / "x.pt",
        {key.replace(".", "_linear."): value for key, value in {**linear(W), "decoder.bias": W.torch("b_dec")}.items()},
    ),
    "FAC-Synthesis": lambda folder: foreign.fac(folder / "TopK7_l16_h65536_epoch3.pth", W, topK=4),
}


@pytest.mark.parametrize("name", MADE)
def test_a_format_is_known_by_its_keys(name: str, tmp_path: Path) -> None:
    held = read_weights(find_weights(MADE[name](tmp_path)))
    assert detect(held).name == name


def test_every_format_of_the_table_is_made_here() -> None:
    assert MADE.keys() == {row.name for row in FORMATS}


def test_names_of_files_decide_nothing(tmp_path: Path) -> None:
    path = foreign.put(tmp_path / "ae.pt", {**linear(W), "bias": W.torch("b_dec")})
    assert open_local(path.rename(tmp_path / "layer3.sae.pt")).format == "dictionary_learning"


def test_a_file_and_its_folder_are_the_same(tmp_path: Path) -> None:
    folder = foreign.saelens(tmp_path, W, "standard")
    by_file, by_folder = open_local(folder / "sae_weights.safetensors"), open_local(folder)
    assert (by_file.weights, dict(by_file.used)) == (by_folder.weights, dict(by_folder.used))


def test_what_lies_beside_an_sae_is_none(tmp_path: Path) -> None:
    foreign.qwen_scope(tmp_path, W)
    foreign.put(tmp_path / "sparsity.safetensors", {"sparsity": torch.zeros(3)})
    (tmp_path / "trainer_state.pt").write_bytes(b"not read")
    assert find_weights(tmp_path).name == "layer3.sae.pt"


def test_a_folder_of_many_is_listed(tmp_path: Path) -> None:
    for layer in range(10):
        foreign.qwen_scope(tmp_path, W, file=f"layer{layer}.sae.pt")
    with pytest.raises(ModelError, match=r"holds 10 files that may be SAEs: layer0.sae.pt, .* …\nName one of them"):
        open_local(tmp_path)


def test_folders_below_are_named(tmp_path: Path) -> None:
    for hook_point in ("layers.1", "layers.2"):
        foreign.sparsify(tmp_path / hook_point, W)
    with pytest.raises(ModelError, match=r"itself, but in layers.1, layers.2\nName one of them with --sae"):
        open_local(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no SAE in .*empty\nGive a file or folder"):
        open_local(tmp_path / "empty")
    with pytest.raises(ModelError, match="there is no such file or folder"):
        open_local(tmp_path / "nowhere")


def test_topk_or_batchtopk_is_decided_by_the_config_or_by_k(tmp_path: Path) -> None:
    path = foreign.put(tmp_path / "ae.pt", TOPK_OR_BATCH)
    with pytest.raises(ModelError, match=r"(?s)k = 5, a threshold of 0.7.*TopK or BatchTopK\?.*config.json.*--sae-k"):
        open_local(path)
    assert open_local(path, k=5).sae.architecture == "topk"
    foreign.put_json(tmp_path / "config.json", trainer={"dict_class": "BatchTopKSAE"})
    assert open_local(path).sae.architecture == "jumprelu"


def test_without_a_threshold_it_is_topk(tmp_path: Path) -> None:
    path = foreign.put(tmp_path / "ae.pt", {**linear(W), "b_dec": W.torch("b_dec")})
    foreign.put_json(tmp_path / "config.json", trainer={"k": 7})
    assert open_local(path).sae.k == 7


def test_k_that_stands_nowhere_is_asked_for(tmp_path: Path) -> None:
    path = foreign.qwen_scope(tmp_path, W)
    with pytest.raises(ModelError, match=r"does not say how many latents a token keeps \(k\)\nGive it with --sae-k"):
        open_local(path)
    opened = open_local(path, k=3)
    assert (opened.sae.k, opened.used["k"]) == (3, 3)
    assert open_local(foreign.qwen_scope(tmp_path / "W1K-L0_9", W), k=3).sae.k == 3


def test_k_that_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    folder = foreign.sparsify(tmp_path / "layers.1", W)
    assert open_local(folder, k=4).sae.k == 4
    with pytest.raises(SettingsError, match=r"says k = 4, --sae-k says 5"):
        open_local(folder, k=5)
    with pytest.raises(SettingsError, match="is a standard SAE: it has no k"):
        open_local(foreign.saelens(tmp_path / "relu", W, "standard"), k=5)


def test_a_hook_point_is_taken_from_the_file_then_as_given_then_from_the_name(tmp_path: Path) -> None:
    stored = foreign.saelens(tmp_path / "stored", W, "standard")
    assert open_local(stored, hook_point="layers.9").sae.hook_point == "layers.3"
    named = foreign.sparsify(tmp_path / "layers.5", W)
    assert open_local(named, hook_point="layers.9").sae.hook_point == "layers.9"
    assert open_local(named).sae.hook_point == "layers.5"
    nameless = foreign.sparsify(tmp_path / "mine", W)
    assert open_local(nameless).sae.hook_point == ""
    assert open_local(nameless, hook_point="model.layers.9").sae.hook_point == "layers.9"
    metadata = {"hook_name": "blocks.3.hook_mlp_out"}
    elsewhere = foreign.saelens(tmp_path / "mlp", W, "standard", metadata=metadata)
    assert open_local(elsewhere).sae.hook_point == "blocks.3.hook_mlp_out"
    assert open_local(elsewhere, hook_point="layers.3.mlp").sae.hook_point == "layers.3.mlp"


def damaged(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], Path]:
    """A SAELens folder whose tensors were changed."""

    def make(folder: Path) -> Path:
        foreign.saelens(folder, W, name)
        tensors = load_file(folder / "sae_weights.safetensors")
        change(tensors)
        save_file(tensors, folder / "sae_weights.safetensors")
        return folder

    return make


def cut(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = find_weights(MADE[name](folder))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return path

    return make


def written(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def torch_file(content: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        torch.save(content, folder / "x.pt")
        return folder / "x.pt"

    return make


NAN, BIG = torch.full((24,), float("nan")), torch.full((24,), 1e6)
HOOKS = {"hook_point_in": "blocks.8.ln2.hook_normalized", "hook_point_out": "blocks.8.hook_mlp_out"}
BAD: list[tuple[str, Callable[[Path], Path], str]] = [
    ("cut safetensors", cut("SAELens"), r"cannot be read as safetensors: .*\nIt is cut off"),
    ("cut npz", cut("Gemma Scope"), "cannot be read as npz"),
    ("cut torch", cut("Qwen-Scope"), "cannot be read as a torch file"),
    ("empty torch", written("x.pt", b""), "cannot be read as a torch file"),
    ("garbage torch", written("x.pth", b"\0\1garbage" * 20), "its pickle is damaged, or holds more than tensors"),
    ("pickled numbers", written("x.pt", pickle.dumps([1, 2], protocol=2)), "cannot be read as a torch file"),
    ("garbage npz", written("params.npz", b"garbage"), "cannot be read as npz"),
    ("objects in npz", lambda f: npz(f / "params.npz", W_enc=np.array([{}], dtype=object)), "Object arrays"),
    ("another suffix", written("sae.gguf", b"GGUF"), r"no file of weights: those are named .safetensors, .npz"),
    ("tensor alone", torch_file(torch.ones(3)), "holds a Tensor, not tensors by name"),
    ("no tensors", torch_file({"a": 1}), "it holds no tensors"),
    ("a language model", lambda f: foreign.put(f / "model.safetensors", {"lm_head.weight": torch.ones(2)}),
     r"it holds lm_head.weight\nFor the nearest, .*Known are SAELens, Gemma Scope"),
    ("missing key", damaged("topk", lambda t: t.pop("W_dec")), "For the nearest, SAELens, it lacks W_dec"),
    ("missing bias", damaged("standard", lambda t: t.pop("b_enc")), r"it lacks b_enc\nGet the file again"),
    ("a key too much", damaged("standard", lambda t: t.update(attn=torch.ones(2))), "SAELens, it has too much: attn"),
    ("NaN", damaged("standard", lambda t: t.update(b_enc=NAN)), "the SAE's b_enc holds NaN or infinity, stored as flo"),
    ("half too small", damaged("standard", lambda t: t.update(b_enc=BIG.half())), "stored as float16\nGet .* 65,504"),
    ("double too large", damaged("standard", lambda t: t.update(b_enc=1e300 * BIG.double())), "stored as float64"),
    ("another width", damaged("standard", lambda t: t.update(b_dec=torch.ones(9))), "read as SAELens: .* do not fit"),
    ("another config", lambda f: foreign.saelens(f, W, "topk", k=4, tensors={"threshold": W.torch("threshold")}),
     "its config says topk, its tensors do not: .* hold threshold, not nothing more"),
    ("another config's width", lambda f: foreign.saelens(f, W, "standard", d_sae=48), "says d_sae = 48, .* have 24"),
    ("transcoder of SAELens", damaged("standard", lambda t: t.update(W_skip=torch.ones(8, 8))), "it is a transcoder"),
    ("one head", lambda f: foreign.saelens(f, W, "standard", metadata={"hook_head_index": 3}), "reads head 3 alone"),
    ("fine-tuned", damaged("standard", lambda t: t.update(scaling_factor=BIG)), "scaling factors of a fine-tuning"),
    ("bool k", lambda f: foreign.saelens(f, W, "topk", k=True), "k is True, not a number"),
    ("k beyond d_sae", lambda f: foreign.saelens(f, W, "topk", k=25), r"k = 25; k must lie between 1 and d_sae \(24\)"),
    ("no config", lambda f: foreign.put(f / "sae_weights.safetensors", FOUR), "cfg.json is missing beside it"),
    ("no sparsify config", lambda f: _without(foreign.sparsify(f, W), "cfg.json"), "cfg.json is missing beside it"),
    ("sparsify transcoder", lambda f: foreign.sparsify(f, W, transcode=True), "it is a transcoder"),
    ("sparsify skip", lambda f: foreign.sparsify(f, W, skip_connection=True), "it has a skip connection"),
    ("sparsify signed", lambda f: foreign.sparsify(f, W, signed=True), "signed or unknown"),
    ("sparsify width", lambda f: foreign.sparsify(f, W, num_latents=32), "says d_sae = 32, its weights have 24"),
    ("no hyperparams", lambda f: _without(foreign.llama_scope(f, W), "hyperparams.json"), "hyperparams.json or config"),
    ("no norm", lambda f: foreign.llama_scope(f, W, dataset_average_activation_norm=None), "norm is not there"),
    ("batch norm", lambda f: foreign.llama_scope(f, W, norm_activation="batch-wise"), "codes depend on the batch"),
    ("batchtopk", lambda f: foreign.llama_scope(f, W, act_fn="batchtopk"), "its activation is batchtopk"),
    ("glu", lambda f: foreign.llama_scope(f, W, use_glu_encoder=True), r"a gated \(GLU\) encoder"),
    ("llama transcoder", lambda f: foreign.llama_scope(f, W, **HOOKS), "reads blocks.8.ln2.* writes blocks.8.hook_mlp"),
    ("two norms", lambda f: foreign.llama_scope(f, W, dataset_average_activation_norm={"in": 1.0, "out": 2.0}),
     "as a transcoder"),
    ("crosscoder", lambda f: foreign.put(f / "sae_weights.safetensors",
     {"W_E": torch.ones(2, 8, 24), "b_E": torch.ones(2, 24), "W_D": torch.ones(2, 24, 8), "b_D": torch.ones(2, 8)}),
     "spans several layers"),
    ("gemma attention", lambda f: foreign.gemma_scope(f / "gemma-scope-2b-pt-att" / "layer_1", W), "the input of o_pr"),
    ("gemma embedding", lambda f: foreign.gemma_scope(f / "gemma-scope-2b-pt-res/embedding/width_4k", W), "embeddings"),
    ("gemma 2 transcoder", lambda f: params(f / "transcoder_all" / "layer_1"), "by its name it is a transcoder"),
    ("gemma 2 attention", lambda f: params(f / "attn_out" / "layer_1"), "it reads the input of a module"),
    ("wrong way round", lambda f: foreign.put(f / "L0_5.sae.pt", FOUR), "read as Qwen-Scope: .* do not fit each other"),
    ("linear alone", lambda f: foreign.put(f / "ae.pt", {**linear(W), "decoder.bias": W.torch("b_dec")}),
     "do not say what is between them"),
    ("masked", lambda f: foreign.fac(f / "TopK7_l16_h1.pth", W, mask=1 - torch.eye(24)[0], topK=4),
     "its mask switches off 1 of 24 features"),
    ("k of the paper", lambda f: foreign.fac(f / "TopK7_l16_h1.pth", W), r"\(k\)\nGive it with --sae-k"),
]  # fmt: skip


def _without(folder: Path, name: str) -> Path:
    (folder / name).unlink()
    return folder


@pytest.mark.parametrize(("make", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_what_cannot_be_kept_exactly_is_refused(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"(?s){message}") as caught:
        open_local(make(tmp_path))
    assert "\n" in str(caught.value), "a way out"


class Trap:
    """Runs when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_runs_none(zipped: bool, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    torch.save({**FOUR, "trap": Trap(marker)}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        ModelError, match="(?s)holds more than tensors: it calls .*system.*Nothing of it was run"
    ) as told:
        open_local(tmp_path / "x.pt")
    assert "weights_only" not in str(told.value), "torch's own advice is to run it"
    assert not marker.exists()
    pickle.loads(pickle.dumps(Trap(marker)))
    assert marker.exists(), "the trap is one"
