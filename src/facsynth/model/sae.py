"""A sparse autoencoder over the residual stream: activations in, sparse codes out, and back.

Before: `model.backbone` gives activations, `model.sae_formats` opens files. After: `features.encode` pools the codes.
Codes come out sparse, as (token, feature, value) triples, whatever the architecture: a dense [n_tokens, d_sae] array
is made only block by block. The decoder is needed for steering, FVU and training, never for coverage.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from facsynth.errors import ModelError, SettingsError
from facsynth.model.input_norm import INPUT_NORMS, normed
from facsynth.model.screen import Firing, Products, above_limits, can_screen, group_maxima, k_largest

ARCHITECTURES = ("topk", "jumprelu", "standard", "groupmax")
CODES = ("native", "relu")
BLOCK_TOKENS = 1024
"""Tokens encoded at once; of products, as many of them by 8,192 features are there."""


@dataclass(frozen=True)
class Codes:
    """Sparse latent activations of `n_tokens` tokens; only those above zero are listed, by token, then feature."""

    token: torch.Tensor
    """[nnz] int64, index of the token."""
    feature: torch.Tensor
    """[nnz] int64, 0 ≤ feature < d_sae."""
    act: torch.Tensor
    """[nnz] float32, > 0, in the units that `docs/saes.md` gives for its format."""
    n_tokens: int
    scale: torch.Tensor | None = None
    """[n_tokens], of an SAE with an input norm: x̂ = decoded · scale + shift."""
    shift: torch.Tensor | None = None
    """[n_tokens]"""


@dataclass(frozen=True)
class Declared:
    """What an SAE's file says of itself, for a check against what it does; None where it says nothing."""

    model_name: str | None = None
    hook_point: str | None = None
    k: int | None = None
    l0: float | None = None
    """Mean number of latents above zero a token, on its training data or by its file's name."""
    explained_variance: float | None = None
    """1 - FVU, as measured by whoever trained it."""


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
    """topk (k largest, then ReLU) · jumprelu (kept where > threshold) · standard (ReLU) · groupmax (one of each of k
    groups of neighbours)."""
    hook_point: str
    model_name: str
    k: int = 0
    threshold: torch.Tensor | None = None
    """[d_sae], of jumprelu: also how a BatchTopK SAE is used after training."""
    centred: bool = True
    """Whether b_dec is subtracted from the input, after its norm."""
    input_norm: str = "none"
    """What each token's activation is brought to first, kept exact because it cannot be folded: see `input_norm`."""
    fingerprint: str = ""
    notes: tuple[str, ...] = ()
    """What was taken from names instead of the file, and which units activations are in; for people."""
    declared: Declared = Declared()

    def __post_init__(self) -> None:
        if self.W_enc.dim() != 2:
            raise ModelError(f"the SAE's W_enc has the shape {tuple(self.W_enc.shape)}; it must be [d_in, d_sae]")
        # One feature's weights side by side: single entries of the product then cost a fifth.
        object.__setattr__(self, "W_enc", self.W_enc.T.contiguous().T)
        if self.architecture not in ARCHITECTURES:
            raise ModelError(f"no SAE architecture {self.architecture!r}; known are {', '.join(ARCHITECTURES)}")
        if self.input_norm not in INPUT_NORMS:
            raise ModelError(f"no input norm {self.input_norm!r} of an SAE; known are {', '.join(INPUT_NORMS)}")
        shapes = [tuple(t.shape) for t in (self.W_enc, self.b_enc, self.W_dec, self.b_dec)]
        if shapes != [(self.d_in, self.d_sae), (self.d_sae,), (self.d_sae, self.d_in), (self.d_in,)]:
            raise ModelError(f"the SAE's tensors do not fit each other: W_enc, b_enc, W_dec, b_dec are {shapes}")
        if self.architecture in ("topk", "groupmax") and not 0 < self.k <= self.d_sae:
            raise ModelError(
                f"the SAE is a {self.architecture} one with k = {self.k}; k must lie between 1 and d_sae ({self.d_sae})"
            )
        if self.architecture == "groupmax" and self.d_sae % self.k:
            raise ModelError(f"the SAE is a groupmax one of {self.d_sae} features, which k = {self.k} does not divide")
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

    def dense_blocks(self, activations: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """(first feature, float32 pre-activations [n, up to 8,192]) of [n, d_in] activations, block by block."""
        x = activations
        if self.input_norm != "none":
            x = normed(x.to(self.W_enc.dtype), self.input_norm).x
        return self.products.blocks(x)

    @cached_property
    def products(self) -> Products:
        """The encoder in float32; centring is in the bias."""
        return Products(self.W_enc, self.b_enc - self.b_dec @ self.W_enc if self.centred else self.b_enc)

    @cached_property
    def rough_products(self) -> Products:
        """The same in bfloat16, made at its first use."""
        return Products.rough(*self.products[:2])

    @torch.inference_mode()
    def encode(self, activations: torch.Tensor, codes: str = "native") -> Codes:
        """Sparse codes of [n_tokens, d_in] activations.

        Args:
            activations: raw residual stream, any float dtype; for bfloat16 the products are screened in bfloat16, and
                codes are those of float32 all the same.
            codes: native, as the SAE was trained; relu, every positive pre-activation, as the paper's scripts measured.

        Raises:
            SettingsError: another word for `codes`.
        """
        if codes not in CODES:
            raise SettingsError(f"no codes {codes!r}; known are {', '.join(CODES)}")
        parts: list[Firing] = []
        scales: list[torch.Tensor] = []
        shifts: list[torch.Tensor] = []
        for start in range(0, max(len(activations), 1), BLOCK_TOKENS):
            x = activations[start : start + BLOCK_TOKENS]
            if self.input_norm != "none":
                x, scale, shift = normed(x.to(self.W_enc.dtype), self.input_norm)
                scales.append(scale)
                shifts.append(shift)
            token, feature, act = self._firing(x, codes)
            parts.append((token + start, feature, act))
        token, feature, act = (torch.cat(column) for column in zip(*parts, strict=True))
        if self.input_norm == "none":
            return Codes(token, feature, act, len(activations))
        return Codes(token, feature, act, len(activations), torch.cat(scales), torch.cat(shifts))

    def _firing(self, x: torch.Tensor, codes: str) -> Firing:
        """The rule of the architecture, or ReLU, on a block of tokens."""
        exact = self.products
        rough = self.rough_products if x.dtype == torch.bfloat16 and can_screen(x.device) else exact
        if codes == "native" and self.architecture == "topk":
            return k_largest(exact, rough, x, self.k)
        if codes == "native" and self.threshold is not None:
            return above_limits(exact, rough, x, self.threshold.clamp(min=0))
        if codes == "native" and self.architecture == "groupmax":
            return group_maxima(exact, x, self.k)
        return above_limits(exact, rough, x, torch.zeros_like(self.b_enc))

    @torch.inference_mode()
    def decode(self, codes: Codes) -> torch.Tensor:
        """x̂ [n_tokens, d_in] in raw units, of codes that `encode` gave."""
        starts = torch.searchsorted(codes.token, torch.arange(codes.n_tokens, device=codes.token.device))
        summed = torch.nn.functional.embedding_bag(
            codes.feature, self.W_dec, starts, mode="sum", per_sample_weights=codes.act.to(self.W_dec.dtype)
        )
        if codes.scale is None or codes.shift is None:
            return summed + self.b_dec
        return (summed + self.b_dec) * codes.scale[:, None] + codes.shift[:, None]


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

    @property
    def explained_variance(self) -> float:
        """1 - FVU: 1 is perfect, 0 as bad as the mean, below 0 worse."""
        return 1 - self.fvu


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


def hook_point_of(name: str) -> str:
    """A module path from 0, as in `layers.14`, whatever names it: a module of the whole model, or TransformerLens."""
    name = re.sub(r"^(model\.|language_model\.|text_model\.)+", "", name)
    if found := re.fullmatch(r"blocks\.(\d+)\.hook_resid_(post|pre)", name):
        block = int(found[1]) - (found[2] == "pre")  # before a block is after the one before it
        return f"layers.{block}" if block >= 0 else name
    return name
