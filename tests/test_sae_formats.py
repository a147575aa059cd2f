"""Every format, from a file of its documented layout, against numpy: codes, x̂, where it reads, what it declares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import foreign
from facsynth.model.sae import Declared
from facsynth.model.sae_formats import open_local
from foreign import D_IN, Array, W, X, centred, check, decoded, jump, linear, plain, top


@pytest.mark.parametrize("lower", [False, True])
def test_gemma_scope(lower: bool, tmp_path: Path) -> None:
    folder = tmp_path / "gemma-scope-2b-pt-res" / "layer_20" / "width_16k" / "average_l0_71"
    acts = jump(plain(), W.threshold)
    sae = check(foreign.gemma_scope(folder, W, lower=lower), acts, decoded(acts))
    assert (sae.hook_point, sae.model_name, sae.declared.l0) == ("layers.20", "google/gemma-2-2b", 71)
    assert [note.split(", is taken")[0] for note in sae.notes] == [
        "SAE: its hook point, layers.20", "SAE: its model, google/gemma-2-2b",
    ]  # fmt: skip


def test_gemma_scope_of_mlps_reads_what_the_block_adds(tmp_path: Path) -> None:
    folder = foreign.gemma_scope(tmp_path / "gemma-scope-9b-it-mlp" / "layer_3" / "width_16k" / "average_l0_7", W)
    sae = open_local(folder).sae
    assert (sae.hook_point, sae.model_name) == ("layers.3.post_feedforward_layernorm", "google/gemma-2-9b-it")


def gemma_scope_2(folder: Path, **config: Any) -> Path:
    names = {"W_enc": "w_enc", "W_dec": "w_dec"}
    foreign.put(folder / "params.safetensors", {names.get(key, key): W.torch(key) for key in vars(W)})
    if config:
        foreign.put_json(folder / "config.json", **config)
    return folder


def test_gemma_scope_2_with_its_config(tmp_path: Path) -> None:
    config = {
        "hf_hook_point_in": "model.layers.17.output", "hf_hook_point_out": "model.layers.17.output", "l0": 20,
        "model_name": "google/gemma-3-1b-pt", "width": 24, "architecture": "jump_relu", "type": "sae",
    }  # fmt: skip
    acts = jump(plain(), W.threshold)
    sae = check(gemma_scope_2(tmp_path, **config), acts, decoded(acts))
    assert sae.declared == Declared("google/gemma-3-1b-pt", "layers.17", None, 20)
    assert sae.notes == ()


@pytest.mark.parametrize(
    ("name", "hook_point", "model"),
    [
        ("gemma-scope-2-1b-pt/resid_post_all/layer_10_width_262k_l0_small", "layers.10", "google/gemma-3-1b-pt"),
        ("gemma-scope-2-270m-pt/resid_post/layer_5_width_16k_l0_big", "layers.5", "google/gemma-3-270m"),
        ("gemma-scope-2-4b-it/mlp_out/layer_5_width_16k", "layers.5.post_feedforward_layernorm",
         "google/gemma-3-4b-it"),
    ],
)  # fmt: skip
def test_gemma_scope_2_without_a_config_is_known_by_its_path(
    name: str, hook_point: str, model: str, tmp_path: Path
) -> None:
    sae = open_local(gemma_scope_2(tmp_path / name)).sae
    assert (sae.hook_point, sae.model_name, len(sae.notes)) == (hook_point, model, 2)


@pytest.mark.parametrize("by_decoder_norm", [True, False])
def test_llama_scope_is_in_units_of_the_stream(by_decoder_norm: bool, tmp_path: Path) -> None:
    folder = foreign.llama_scope(tmp_path / "Llama3_1-8B-Base-L8R-8x", W, sparsity_include_decoder_norm=by_decoder_norm)
    s, n = D_IN**0.5 / 1.7, np.linalg.norm(W.W_dec, axis=1) if by_decoder_norm else 1
    raw = (X.astype(np.float64) @ W.W_enc + W.b_enc / s) * n
    acts = jump(raw, 0.4)
    sae = check(folder, acts, (acts / n) @ W.W_dec + W.b_dec / s)
    assert (sae.hook_point, sae.model_name, sae.declared.l0) == ("layers.8", "meta-llama/Llama-3.1-8B", 50)
    assert "SAELens gives 1.664 times as much" in sae.notes[0]
    if by_decoder_norm:
        assert "long in the file; their lengths are moved into the activations" in sae.notes[1]
        torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(24))


@pytest.mark.parametrize("key", ["log_jumprelu_threshold", "activation_function.log_jumprelu_threshold"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_the_newer_openmoss_layout_has_thresholds_of_the_scaled_stream(suffix: str, key: str, tmp_path: Path) -> None:
    state = {"W_E": W.torch("W_enc"), "b_E": W.torch("b_enc"), "W_D": W.torch("W_dec"), "b_D": W.torch("b_dec"),
             key: W.torch("threshold").log(),
             "dataset_average_activation_norm.blocks.8.hook_resid_post": torch.tensor(1.7)}  # fmt: skip
    if suffix == ".pt":
        torch.save({"sae": state, "version": "2.0"}, tmp_path / "sae_weights.pt")
    else:
        foreign.put(tmp_path / "sae_weights.safetensors", state)
    hook = "blocks.8.hook_resid_post"
    foreign.put_json(
        tmp_path / "config.json", sae_type="sae", d_model=D_IN, expansion_factor=3, act_fn="jumprelu", top_k=50,
        norm_activation="dataset-wise", hook_point_in=hook, hook_point_out=hook, sparsity_include_decoder_norm=True,
    )  # fmt: skip
    s, n = D_IN**0.5 / 1.7, np.linalg.norm(W.W_dec, axis=1)
    theirs = plain(x=X * s) * n  # as trained: what is compared with the threshold
    acts = jump(theirs, W.threshold)
    check(tmp_path, acts / s, ((acts / n) @ W.W_dec + W.b_dec) / s)


@pytest.mark.parametrize(("act_fn", "norm"), [("topk", "token-wise"), ("relu", "inference")])
def test_openmoss_by_its_encoder_with_other_norms(act_fn: str, norm: str, tmp_path: Path) -> None:
    foreign.llama_scope(tmp_path, W, act_fn=act_fn, norm_activation=norm, top_k=4, jump_relu_threshold=0.0)
    n = np.linalg.norm(W.W_dec, axis=1)
    scale = np.linalg.norm(X, axis=1, keepdims=True) / D_IN**0.5 if norm == "token-wise" else 1
    pre = plain(x=X / scale) * n
    acts = top(pre, 4) if act_fn == "topk" else np.maximum(pre, 0)
    check(tmp_path, acts, ((acts / n) @ W.W_dec + W.b_dec) * scale)


@pytest.mark.parametrize("name", ["layers.10", "model.layers.10", "model.language_model.layers.10"])
def test_a_folder_of_sparsify_names_the_module_however_deep_it_lies(name: str, tmp_path: Path) -> None:
    assert open_local(foreign.sparsify(tmp_path / name, W)).sae.hook_point == "layers.10"


@pytest.mark.parametrize("width", [{"num_latents": 0}, {"num_latents": 24, "expansion_factor": 99}])
def test_sparsify_is_centred_and_its_width_may_be_a_factor(width: dict[str, int], tmp_path: Path) -> None:
    acts = top(centred(), 4)
    foreign.put_json(tmp_path / "config.json", model="EleutherAI/pythia-160m")
    sae = check(foreign.sparsify(tmp_path / "layers.10", W, **width), acts, decoded(acts))
    assert sae.declared == Declared("EleutherAI/pythia-160m", "layers.10", 4)
    assert "taken from the name 'layers.10'" in sae.notes[0]


def test_sparsify_groupmax_keeps_the_best_of_each_group(tmp_path: Path) -> None:
    pre = np.maximum(centred(), 0).reshape(len(X), 4, 6)
    acts = np.where(pre == pre.max(2, keepdims=True), pre, 0).reshape(len(X), 24)
    folder = foreign.sparsify(tmp_path / "h.3.mlp" / "seed1", W, activation="groupmax")
    assert check(folder, acts, decoded(acts)).hook_point == "h.3.mlp"


@pytest.mark.parametrize(
    ("dict_class", "tensors", "reference"),
    [
        ("AutoEncoder", {**linear(W), "bias": W.torch("b_dec")}, lambda: np.maximum(centred(), 0)),
        ("AutoEncoderNew", {**linear(W), "decoder.bias": W.torch("b_dec")}, lambda: np.maximum(plain(), 0)),
        ("AutoEncoderTopK",
         {**linear(W), "b_dec": W.torch("b_dec"), "k": torch.tensor(5), "threshold": torch.tensor(0.7)},
         lambda: top(centred(), 5)),
        ("BatchTopKSAE",
         {**linear(W), "b_dec": W.torch("b_dec"), "k": torch.tensor(5), "threshold": torch.tensor(0.7)},
         lambda: jump(centred(), 0.7)),
        ("MatryoshkaBatchTopKSAE",
         {**{key: W.torch(key) for key in ("W_enc", "b_enc", "W_dec", "b_dec")}, "threshold": torch.tensor(0.7),
          "k": torch.tensor(5), "group_sizes": torch.tensor([8, 16])},
         lambda: jump(centred(), 0.7)),
        ("JumpReluAutoEncoder", {key: W.torch(key) for key in vars(W)}, lambda: jump(plain(), W.threshold)),
    ],
)  # fmt: skip
def test_dictionary_learning(
    dict_class: str, tensors: dict[str, torch.Tensor], reference: Callable[[], Array], tmp_path: Path
) -> None:
    foreign.put(tmp_path / "ae.pt", tensors)
    trainer = {"dict_class": dict_class, "layer": 12, "lm_name": "google/gemma-2-2b", "activation_dim": 8}
    foreign.put_json(
        tmp_path / "config.json", trainer={**trainer, "dict_size": 24, "submodule_name": "resid_post_layer_12"},
        buffer={"ctx_len": 128, "io": "out"},
    )  # fmt: skip
    foreign.put_json(tmp_path / "eval_results.json", l0=5.5, frac_variance_explained=0.75)
    acts = reference()
    sae = check(tmp_path, acts, decoded(acts))
    k = 5 if dict_class == "AutoEncoderTopK" else None
    assert sae.declared == Declared("google/gemma-2-2b", "layers.12", k, 5.5, 0.75)
    assert ["decoder rows are" in note for note in sae.notes] == [True] * (dict_class == "AutoEncoder")


def test_dictionary_learning_gated(tmp_path: Path) -> None:
    theirs = foreign.gate(W)
    state = {key: tensor for key, tensor in linear(W).items() if key != "encoder.bias"}
    state |= {"decoder_bias": W.torch("b_dec"), "r_mag": theirs["r_mag"], "gate_bias": theirs["b_gate"],
              "mag_bias": theirs["b_mag"]}  # fmt: skip
    u = (X.astype(np.float64) - W.b_dec) @ W.W_enc
    magnitude = np.maximum(u * np.exp(theirs["r_mag"].numpy()) + theirs["b_mag"].numpy(), 0)
    acts = np.where(u + theirs["b_gate"].numpy() > 0, magnitude, 0)
    check(foreign.put(tmp_path / "ae.pt", state), acts, decoded(acts))


def test_qwen_scope_is_known_by_its_names(tmp_path: Path) -> None:
    acts = top(plain(), 5)
    sae = check(foreign.qwen_scope(tmp_path / "SAE-Res-Qwen3-8B-Base-W64K-L0_5", W), acts, decoded(acts))
    assert sae.declared == Declared("Qwen/Qwen3-8B-Base", "layers.3", 5)
    assert len(sae.notes) == 3
    assert "k = 5 is taken from the name 'L0_5'; --sae-k says otherwise" in sae.notes[0]


def test_goodfire_is_not_centred(tmp_path: Path) -> None:
    state = {key.replace(".", "_linear."): tensor for key, tensor in linear(W).items()}
    state["decoder_linear.bias"] = W.torch("b_dec")
    acts = np.maximum(plain(), 0)
    sae = check(foreign.put(tmp_path / "Llama-3.1-8B-Instruct-SAE-l19.pth", state), acts, decoded(acts))
    assert (sae.hook_point, sae.model_name) == ("layers.19", "Llama-3.1-8B-Instruct")


@pytest.mark.parametrize(
    ("name", "config", "k"),
    [("TopK7_l16_h65536_epoch3.pth", {"topK": 6}, 6), ("SAE_l1_h4096.pth", {}, 0), ("ae_l16_x.pth", {}, 0)],
)
def test_the_papers_checkpoints_are_tied_and_count_layers_from_1(
    name: str, config: dict[str, int], k: int, tmp_path: Path
) -> None:
    pre = centred()
    acts = top(pre, k) if k else np.maximum(pre, 0)
    sae = check(foreign.fac(tmp_path / name, W, **config), acts, acts @ W.W_enc.T + W.b_dec)
    assert sae.hook_point == ("layers.0" if "l1_" in name else "layers.15")
    assert "layers count from 1" in sae.notes[-1]


def test_orientation_comes_from_the_format_where_both_fit(tmp_path: Path) -> None:
    w, x = foreign.weights(16, 16), foreign.activations(16)
    pre = x.astype(np.float64) @ w.W_enc + w.b_enc
    acts = top(pre, 5)
    check(foreign.qwen_scope(tmp_path / "L0_5", w), acts, decoded(acts, w), x=x)
    acts = np.maximum((x.astype(np.float64) - w.b_dec) @ w.W_enc + w.b_enc, 0)
    check(foreign.put(tmp_path / "ae.pt", {**linear(w), "bias": w.torch("b_dec")}), acts, decoded(acts, w), x=x)
    check(foreign.saelens(tmp_path / "saelens", w, "standard"), acts, decoded(acts, w), x=x)


def test_half_precision_weights_are_used_in_float32(tmp_path: Path) -> None:
    rounded = {key: value.to(torch.bfloat16) for key, value in linear(W).items()}
    path = foreign.put(tmp_path / "ae.pt", {**rounded, "bias": W.torch("b_dec").to(torch.bfloat16)})
    sae = open_local(path).sae
    assert sae.W_enc.dtype == torch.float32
    torch.testing.assert_close(sae.W_enc, W.torch("W_enc").to(torch.bfloat16).float())
