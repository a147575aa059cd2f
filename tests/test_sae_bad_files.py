"""Every file that is no SAE, or one that cannot be kept exactly: a message, with a way out, and nothing executed."""

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
from facsynth.errors import ModelError
from facsynth.model.sae_formats import find_weights, open_local
from foreign import FOUR, MADE, W, linear


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


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


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
    ("whole numbers", damaged("standard", lambda t: t.update(W_dec=t["W_dec"].int())), "W_dec holds int32, not weigh"),
    ("another width", damaged("standard", lambda t: t.update(b_dec=torch.ones(9))), 
     r"read as SAELens, .* do not fit each other: .*b_dec is \[9\], not \[8\]"),
    ("another config", lambda f: foreign.saelens(f, W, "topk", k=4, tensors={"threshold": W.torch("threshold")}),
     "its config says topk, its tensors do not: .* hold threshold, not nothing more"),
    ("another config's width", lambda f: foreign.saelens(f, W, "standard", d_sae=48), "says d_sae = 48, .* have 24"),
    ("transcoder of SAELens", damaged("standard", lambda t: t.update(W_skip=torch.ones(8, 8))), "it is a transcoder"),
    ("one head", lambda f: foreign.saelens(f, W, "standard", metadata={"hook_head_index": 3}), "reads head 3 alone"),
    ("fine-tuned", damaged("standard", lambda t: t.update(scaling_factor=BIG)), "scaling factors of a fine-tuning"),
    ("endless k", lambda f: foreign.saelens(f, W, "topk", k=float("inf")), "k is inf, not a number"),
    ("hook_z by its name", lambda f: foreign.saelens(f, W, "standard", reshape_activations=None,
     metadata={"hook_name": "blocks.3.attn.hook_z"}), "reshape_activations is 'hook_z'"),
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
    ("gemma 2 transcoder", lambda f: foreign.params(f / "transcoder_all" / "layer_1"), "its name it is a transcoder"),
    ("gemma 2 attention", lambda f: foreign.params(f / "attn_out" / "layer_1"), "it reads the input of a module"),
    ("wrong way round", lambda f: foreign.put(f / "L0_5.sae.pt", FOUR), "Qwen-Scope, .* fit each other: with W_enc"),
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
