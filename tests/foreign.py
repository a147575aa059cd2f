"""Files as other libraries leave them, with random weights, and slow references to compare with: numpy in float64."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from facsynth.model.sae import Codes, Sae
from facsynth.model.sae_formats import open_local

Array = Any
D_IN, D_SAE = 8, 24


@dataclass(frozen=True)
class Weights:
    """The same numbers for every format, [d_in, d_sae] and so on."""

    W_enc: Array
    b_enc: Array
    W_dec: Array
    b_dec: Array
    threshold: Array

    def torch(self, name: str, *, transposed: bool = False) -> torch.Tensor:
        found = getattr(self, name)
        return torch.from_numpy(np.ascontiguousarray(found.T if transposed else found))


def weights(d_in: int = D_IN, d_sae: int = D_SAE, *, rng_seed: int = 0) -> Weights:
    """Decoder rows of unequal lengths, biases that matter."""
    rng = np.random.default_rng(rng_seed)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return Weights(
        draw(d_in, d_sae), 0.5 * draw(d_sae), draw(d_sae, d_in), 0.5 * draw(d_in),
        (0.3 + rng.random(d_sae)).astype(np.float32),
    )  # fmt: skip


def activations(d_in: int = D_IN, n: int = 40, rng_seed: int = 1) -> Array:
    return (3 * np.random.default_rng(rng_seed).normal(size=(n, d_in)) + 1).astype(np.float32)


def top(pre: Array, k: int) -> Array:
    """ReLU of the k largest."""
    kept = np.zeros_like(pre)
    for row, out in zip(pre, kept, strict=True):
        best = np.argsort(row)[-k:]
        out[best] = np.maximum(row[best], 0)
    return kept


def jump(pre: Array, limit: Array) -> Array:
    return np.where(pre > limit, np.maximum(pre, 0), 0)


def dense(codes: Codes, d_sae: int) -> Array:
    out = np.zeros((codes.n_tokens, d_sae))
    out[codes.token.numpy(), codes.feature.numpy()] = codes.act.numpy()
    return out


W, X = weights(), activations()


def check(path: Path, acts: Array, rebuilt: Array, *, x: Array = X, **more: Any) -> Sae:
    """What is opened gives these codes [n, d_sae] and this x̂ [n, d_in]."""
    sae = open_local(path, **more).sae
    codes = sae.encode(torch.from_numpy(x))
    np.testing.assert_allclose(dense(codes, sae.d_sae), acts, rtol=1e-4, atol=1e-5)
    assert 0.02 < (acts > 0).mean() < 0.9, "a reference of all or nothing tests nothing"
    np.testing.assert_allclose(sae.decode(codes).numpy(), rebuilt, rtol=1e-4, atol=1e-4)
    return sae


def centred(w: Weights = W, x: Array = X) -> Array:
    return (x.astype(np.float64) - w.b_dec) @ w.W_enc + w.b_enc


def plain(w: Weights = W, x: Array = X) -> Array:
    return x.astype(np.float64) @ w.W_enc + w.b_enc


def decoded(acts: Array, w: Weights = W) -> Array:
    return acts @ w.W_dec + w.b_dec


def put(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """A .safetensors or torch file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


def put_json(path: Path, **config: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config), "utf-8")
    return path


def saelens(folder: Path, w: Weights, architecture: str, **config: Any) -> Path:
    """A SAELens 6 folder; more tensors as `tensors`."""
    tensors = {"W_enc": w.torch("W_enc"), "W_dec": w.torch("W_dec"), "b_dec": w.torch("b_dec")}
    if architecture != "gated":
        tensors["b_enc"] = w.torch("b_enc")
    if architecture == "jumprelu":
        tensors["threshold"] = w.torch("threshold")
    tensors |= config.pop("tensors", {})
    put(folder / "sae_weights.safetensors", tensors)
    d_in, d_sae = w.W_enc.shape
    defaults = {
        "architecture": architecture, "d_in": d_in, "d_sae": d_sae, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.54.12", "model_name": "gpt2", "hook_name": "blocks.3.hook_resid_post"},
    }  # fmt: skip
    put_json(folder / "cfg.json", **{**defaults, **config})
    return folder


def gate(w: Weights) -> dict[str, torch.Tensor]:
    """What a gated SAE has beside, in SAELens' names."""
    return {"b_gate": w.torch("b_enc"), "b_mag": 0.3 - w.torch("b_enc"), "r_mag": 0.4 * w.torch("threshold") - 0.2}


def linear(w: Weights) -> dict[str, torch.Tensor]:
    """Encoder and decoder as torch.nn.Linear holds them."""
    return {
        "encoder.weight": w.torch("W_enc", transposed=True), "encoder.bias": w.torch("b_enc"),
        "decoder.weight": w.torch("W_dec", transposed=True),
    }  # fmt: skip


def qwen_scope(folder: Path, w: Weights, *, file: str = "layer3.sae.pt") -> Path:
    """A layer's file of a Qwen-Scope repository."""
    return put(
        folder / file,
        {"W_enc": w.torch("W_enc", transposed=True), "W_dec": w.torch("W_dec", transposed=True),
         "b_enc": w.torch("b_enc"), "b_dec": w.torch("b_dec")},
    )  # fmt: skip


def sparsify(folder: Path, w: Weights, **config: Any) -> Path:
    """A hook point's folder of sparsify."""
    put(
        folder / "sae.safetensors",
        {"encoder.weight": w.torch("W_enc", transposed=True), "encoder.bias": w.torch("b_enc"),
         "W_dec": w.torch("W_dec"), "b_dec": w.torch("b_dec")},
    )  # fmt: skip
    defaults = {"activation": "topk", "d_in": D_IN, "expansion_factor": 3, "num_latents": 0, "k": 4, "transcode": False}
    put_json(folder / "cfg.json", **{**defaults, "skip_connection": False, "normalize_decoder": True, **config})
    return folder


def llama_scope(folder: Path, w: Weights, **config: Any) -> Path:
    """Llama Scope, with the settings of the published files."""
    put(folder / "checkpoints" / "final.safetensors", {**linear(w), "decoder.bias": w.torch("b_dec")})
    defaults = {
        "d_model": D_IN, "d_sae": D_SAE, "hook_point_in": "blocks.8.hook_resid_post", "act_fn": "jumprelu",
        "hook_point_out": "blocks.8.hook_resid_post", "jump_relu_threshold": 0.4, "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": 1.7, "out": 1.7}, "sparsity_include_decoder_norm": True,
        "use_decoder_bias": True, "apply_decoder_bias_to_pre_encoder": False, "top_k": 50, "expansion_factor": 3,
    }  # fmt: skip
    put_json(folder / "hyperparams.json", **{**defaults, **config})
    return folder


def gemma_scope(folder: Path, w: Weights, *, lower: bool = False) -> Path:
    """Gemma Scope 1: params.npz and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {"W_enc": "w_enc", "W_dec": "w_dec"} if lower else {}
    np.savez(folder / "params.npz", **{names.get(key, key): value for key, value in vars(w).items()})
    return folder


def fac(path: Path, w: Weights, mask: torch.Tensor | None = None, **config: Any) -> Path:
    """The paper's checkpoint; the decoder is the encoder."""
    state = {name: w.torch(name) for name in ("W_enc", "b_enc", "b_dec")}
    state["mask"] = torch.ones(w.W_enc.shape[1]) if mask is None else mask
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"weight": state, "config": {"d_inp": D_IN, "d_hide": D_SAE, **config}}, path)
    return path


def params(folder: Path) -> Path:
    """Gemma Scope 2 without its config."""
    names = {"W_enc": "w_enc", "W_dec": "w_dec"}
    return put(folder / "params.safetensors", {names.get(key, key): W.torch(key) for key in vars(W)})


FOUR = {key: W.torch(key) for key in ("W_enc", "b_enc", "W_dec", "b_dec")}
MADE: dict[str, Callable[[Path], Path]] = {
    "SAELens": lambda folder: saelens(folder, W, "standard"),
    "Gemma Scope": lambda folder: gemma_scope(folder, W),
    "Gemma Scope 2": params,
    "OpenMOSS": lambda folder: llama_scope(folder, W),
    "sparsify": lambda folder: sparsify(folder / "layers.1", W),
    "dictionary_learning": lambda folder: put(folder / "ae.pt", {**linear(W), "bias": W.torch("b_dec")}),
    "Qwen-Scope": lambda folder: qwen_scope(folder, W),
    "Goodfire": lambda folder: put(
        folder / "x.pt",
        {key.replace(".", "_linear."): value for key, value in {**linear(W), "decoder.bias": W.torch("b_dec")}.items()},
    ),
    "FAC-Synthesis": lambda folder: fac(folder / "TopK7_l16_h65536_epoch3.pth", W, topK=4),
}
"""One of each format."""
