"""What some SAEs do to each token's activation before they read it. It depends on the token, so it cannot be folded.

As in SAELens (saes/sae.py), formula by formula: its decoder undoes `layer_norm` without the epsilon. `centred` is what
TransformerLens does to the stream of a model with LayerNorm (center_writing_weights), before an SAE sees it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

CENTRED = "centred"
INPUT_NORMS = ("none", CENTRED, "layer_norm", "constant_norm_rescale")
EPSILON = 1e-5


class Normed(NamedTuple):
    """Activations as the SAE reads them, and what undoes it: x = normed · scale + shift."""

    x: torch.Tensor
    """[n, d_in] float32"""
    scale: torch.Tensor
    """[n]"""
    shift: torch.Tensor
    """[n]"""


def normed(x: torch.Tensor, input_norm: str) -> Normed:
    """Bring each row of x [n, d_in] to mean 0 (centred), and to deviation 1 (layer_norm); or to length sqrt(d_in).

    A row of equal numbers stays finite, where SAELens' constant_norm_rescale of zeros is NaN.
    """
    if input_norm == CENTRED:
        shift = x.mean(dim=1)
        return Normed(x - shift[:, None], torch.ones_like(shift), shift)
    if input_norm == "layer_norm":
        shift = x.mean(dim=1)
        centred = x - shift[:, None]
        scale = centred.std(dim=1)
        return Normed(centred / (scale + EPSILON)[:, None], scale, shift)
    scale = (x.norm(dim=1) / x.shape[1] ** 0.5).clamp(min=torch.finfo(x.dtype).tiny)
    return Normed(x / scale[:, None], scale, torch.zeros_like(scale))
