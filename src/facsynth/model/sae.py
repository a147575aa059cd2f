"""A sparse autoencoder over the residual stream, in the SAELens folder layout.

Before: `model.backbone` gives activations. After: `features.encode` pools the codes. Codes come out sparse, as
(token, feature, value) triples, whatever the architecture: a dense [n_tokens, d_sae] array is made only block by
block. The decoder is needed for steering, FVU and training, never for coverage.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from facsynth.errors import ModelError, SettingsError
from facsynth.store import write_atomic, write_json

ARCHITECTURES = ("topk", "jumprelu", "standard")
CODES = ("native", "relu")
BLOCK_TOKENS = 1024
"""Tokens encoded at once: [1024, 65536] in float32 is 268 MB, the largest buffer there is."""


@dataclass(frozen=True)
class Codes:
    """Sparse latent activations of `n_tokens` tokens; only those above zero are listed, by token, then feature."""

    token: torch.Tensor
    """[nnz] int64, index of the token."""
    feature: torch.Tensor
    """[nnz] int64, 0 ≤ feature < d_sae."""
    act: torch.Tensor
    """[nnz] float32, > 0, in units of the SAE's own training."""
    n_tokens: int


@dataclass(frozen=True, eq=False)
class Sae:
    """pre_acts = (x - b_dec·centred) W_enc + b_enc;  x̂ = latent_acts W_dec + b_dec."""

    W_enc: torch.Tensor
    """[d_in, d_sae] float32"""
    b_enc: torch.Tensor
    """[d_sae]"""
    W_dec: torch.Tensor
    """[d_sae, d_in]"""
    b_dec: torch.Tensor
    """[d_in]"""
    architecture: str
    """topk (k largest, then ReLU) · jumprelu (kept where > threshold) · standard (ReLU)."""
    hook_point: str
    model_name: str
    k: int = 0
    threshold: torch.Tensor | None = None
    """[d_sae], of jumprelu: also how a BatchTopK SAE is used after training."""
    centred: bool = True
    """Whether b_dec is subtracted from the input (SAELens: apply_b_dec_to_input)."""
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if self.W_enc.dim() != 2:
            raise ModelError(f"the SAE's W_enc has the shape {tuple(self.W_enc.shape)}; it must be [d_in, d_sae]")
        if self.architecture not in ARCHITECTURES:
            raise ModelError(f"no SAE architecture {self.architecture!r}; known are {', '.join(ARCHITECTURES)}")
        shapes = [tuple(t.shape) for t in (self.W_enc, self.b_enc, self.W_dec, self.b_dec)]
        if shapes != [(self.d_in, self.d_sae), (self.d_sae,), (self.d_sae, self.d_in), (self.d_in,)]:
            raise ModelError(f"the SAE's tensors do not fit each other: W_enc, b_enc, W_dec, b_dec are {shapes}")
        if self.architecture == "topk" and not 0 < self.k <= self.d_sae:
            raise ModelError(f"the SAE is a topk one with k = {self.k}; k must lie between 1 and d_sae ({self.d_sae})")
        limits = None if self.threshold is None else tuple(self.threshold.shape)
        if limits != ((self.d_sae,) if self.architecture == "jumprelu" else None):
            raise ModelError(f"the {self.architecture} SAE of {self.d_sae} features has a threshold of shape {limits}")
        for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"):
            tensor = getattr(self, name)
            if tensor is not None and not bool(torch.isfinite(tensor).all()):
                raise ModelError(f"the SAE's {name} holds NaN or infinity; get the file again")

    @property
    def d_in(self) -> int:
        """Width of the activations it reads."""
        return int(self.W_enc.shape[0])

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return int(self.W_enc.shape[1])

    def check_model(self, d_model: int, model_name: str) -> None:
        """Refuse a model of another width.

        Raises:
            ModelError: naming both widths.
        """
        if self.d_in != d_model:
            raise ModelError(
                "the SAE does not fit the model\n"
                f"  SAE    reads activations of width {self.d_in}, from {self.hook_point} of {self.model_name}\n"
                f"  model  {model_name} has width {d_model}\nUse the model that the SAE was trained on."
            )

    def pre_acts(self, activations: torch.Tensor) -> torch.Tensor:
        """[n, d_in] → [n, d_sae], before any nonlinearity, with the centring folded into the bias."""
        bias = self.b_enc - self.b_dec @ self.W_enc if self.centred else self.b_enc
        return torch.addmm(bias, activations.to(self.W_enc.dtype), self.W_enc)

    @torch.inference_mode()
    def encode(self, activations: torch.Tensor, codes: str = "native") -> Codes:
        """Sparse codes of [n_tokens, d_in] activations.

        Args:
            activations: raw residual stream, any float dtype; the products are float32.
            codes: native, as the SAE was trained; relu, every positive pre-activation, as the paper's scripts measured.

        Raises:
            SettingsError: another word for `codes`.
        """
        if codes not in CODES:
            raise SettingsError(f"no codes {codes!r}; known are {', '.join(CODES)}")
        parts = [self._encode_block(block, codes) for block in activations.split(BLOCK_TOKENS)]
        starts = range(0, max(len(activations), 1), BLOCK_TOKENS)
        token = torch.cat([token + start for (token, _, _), start in zip(parts, starts, strict=True)])
        return Codes(
            token, torch.cat([part[1] for part in parts]), torch.cat([part[2] for part in parts]), len(activations)
        )

    def _encode_block(self, block: torch.Tensor, codes: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        pre = self.pre_acts(block)
        if codes == "native" and self.architecture == "topk":
            act, feature = pre.topk(self.k, dim=1, sorted=False)
            feature, order = feature.sort(dim=1)
            act = act.gather(1, order)
            token = torch.arange(len(block), device=block.device)[:, None].expand_as(feature)
            fires = act > 0
            return token[fires], feature[fires], act[fires]
        limit = self.threshold.clamp(min=0) if codes == "native" and self.threshold is not None else 0.0
        token, feature = (pre > limit).nonzero(as_tuple=True)
        return token, feature, pre[token, feature]

    @torch.inference_mode()
    def decode(self, codes: Codes) -> torch.Tensor:
        """x̂ [n_tokens, d_in]."""
        starts = torch.searchsorted(codes.token, torch.arange(codes.n_tokens, device=codes.token.device))
        summed = torch.nn.functional.embedding_bag(
            codes.feature, self.W_dec, starts, mode="sum", per_sample_weights=codes.act.to(self.W_dec.dtype)
        )
        return summed + self.b_dec


@dataclass(frozen=True)
class Reconstruction:
    """How well an SAE rebuilds activations. Lower `fvu` is better; 1 is as bad as the mean."""

    fvu: float
    """Fraction of variance unexplained, over all tokens and coordinates."""
    l0: float
    """Mean number of latents above zero a token."""
    dead_share: float
    """Share of features that fire on none of the tokens."""
    n_tokens: int


@torch.inference_mode()
def reconstruction(sae: Sae, blocks: Iterator[torch.Tensor]) -> Reconstruction:
    """Measure an SAE on blocks of activations [n, d_in], in one pass and float64 sums.

    Raises:
        ModelError: no tokens.
    """
    squares = torch.zeros((), dtype=torch.float64)
    total, errors = torch.zeros(sae.d_in, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    fired = torch.zeros(sae.d_sae, dtype=torch.bool)
    n_tokens, n_codes = 0, 0
    for block in blocks:
        x = block.float()
        codes = sae.encode(x)
        errors += (sae.decode(codes) - x).double().square().sum().cpu()
        squares += x.double().square().sum().cpu()
        total += x.double().sum(0).cpu()
        fired[codes.feature.cpu()] = True
        n_tokens, n_codes = n_tokens + len(x), n_codes + len(codes.act)
    if n_tokens == 0:
        raise ModelError("an SAE cannot be measured on no tokens")
    variance = squares - total.square().sum() / n_tokens
    return Reconstruction(
        fvu=float(errors / variance),
        l0=n_codes / n_tokens,
        dead_share=float((~fired).float().mean()),
        n_tokens=n_tokens,
    )


def save_sae(sae: Sae, folder: Path, *, metadata: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> None:
    """Write `cfg.json` and `sae_weights.safetensors` as SAELens 6 reads them.

    Args:
        sae: what to write.
        folder: made if needed.
        metadata: more keys for the config's `metadata` (training figures, corpora).
        dtype: of the weights on disk; they are float32 again after loading.
    """
    tensors = {"W_enc": sae.W_enc, "b_enc": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    if sae.threshold is not None:
        tensors["threshold"] = sae.threshold
    stored = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()}
    write_atomic(folder / "sae_weights.safetensors", lambda path: save_file(stored, path))
    config: dict[str, Any] = {
        "architecture": sae.architecture,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": sae.centred,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "model_name": sae.model_name,
            "hook_name": sae.hook_point,
            "hf_hook_name": f"model.{sae.hook_point}",
        }
        | dict(metadata),
    }
    if sae.architecture == "topk":
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    write_json(folder / "cfg.json", config)


def load_sae(folder: Path, *, device: str = "cpu", fingerprint: str = "") -> Sae:
    """Read a SAELens folder (layout of version 6).

    Raises:
        ModelError: no such files, a missing tensor, or a setting that changes activations and is not supported.
    """
    try:
        config = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "sae_weights.safetensors", device=device)
    except (OSError, ValueError, SafetensorError) as err:
        raise ModelError(f"{folder} is not a SAELens folder (cfg.json and sae_weights.safetensors)\n{err}") from err
    if not isinstance(config, dict):
        raise ModelError(f"{folder}/cfg.json holds no settings of an SAE")
    for key, plain in (("normalize_activations", "none"), ("reshape_activations", "none")):
        if config.get(key, plain) not in (plain, None):
            raise ModelError(f"{folder}: {key} is {config[key]!r}; only {plain!r} is read so far")
    if config.get("rescale_acts_by_decoder_norm"):
        raise ModelError(f"{folder}: rescale_acts_by_decoder_norm is set; fold it into the weights and save again")
    if config.get("activation_fn_str", config.get("activation_fn", "relu")) not in ("relu", None):
        raise ModelError(
            f"{folder}: activation_fn is {config.get('activation_fn_str', config.get('activation_fn'))!r}, as SAELens "
            "wrote before version 6\nLoad it with SAELens 6 and save it again."
        )
    missing = {"W_enc", "b_enc", "W_dec", "b_dec"} - tensors.keys()
    if missing:
        raise ModelError(f"{folder}/sae_weights.safetensors lacks {', '.join(sorted(missing))}")
    metadata, k = config.get("metadata") or {}, config.get("k", 0)
    if not isinstance(metadata, dict) or not isinstance(k, int):
        raise ModelError(f"{folder}/cfg.json holds no settings of an SAE: metadata {metadata!r}, k {k!r}")
    return Sae(
        **{
            name: tensor.float()
            for name, tensor in tensors.items()
            if name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
        },
        architecture=str(config.get("architecture", "standard")),
        hook_point=hook_point_of(str(metadata.get("hf_hook_name") or metadata.get("hook_name", ""))),
        model_name=str(metadata.get("model_name", "")),
        k=k,
        centred=bool(config.get("apply_b_dec_to_input", True)),
        fingerprint=fingerprint,
    )


def hook_point_of(name: str) -> str:
    """A module path from 0, as in `layers.14`, whatever names it: a module of the whole model, or TransformerLens."""
    name = name.removeprefix("model.")
    if found := re.fullmatch(r"blocks\.(\d+)\.hook_resid_(post|pre)", name):
        block = int(found[1]) - (found[2] == "pre")  # before a block is after the one before it
        return f"layers.{block}" if block >= 0 else name
    return name
