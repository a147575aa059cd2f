"""The gradient of a text's loss, projected to a thousand numbers: which texts teach a model the same.

Before: texts as tokens. After: `baselines.prismatic` clusters them.
A layer's gradient of one text is the sum over tokens of (gradient of its output) ⊗ (its input). Both factors are
projected by random signs to 32 numbers before that product, so no gradient of the weights is ever made; layers are
added up, each with signs of its own. Inner products are kept on average, as by one matrix of random signs.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from facsynth.bins import Floats
from facsynth.errors import ModelError
from facsynth.model.backbone import Backbone
from facsynth.model.batching import batches, padded_and_kept

SIDE = 32
"""Numbers of each factor: 1,024 together, as many as in arXiv 2505.20161."""
LAYERS = ("Linear", "Conv1D")
"""Classes of layers with weights, as transformers calls them; without embeddings and head."""


def loss_gradients(
    backbone: Backbone, ids: Sequence[npt.NDArray[np.int32]], content: Sequence[npt.NDArray[np.bool_]]
) -> Floats:
    """The projected gradient of the mean loss of each sequence's content tokens, with respect to the weights.

    Args:
        backbone: the model.
        ids: token ids, one array [n_tokens] a sequence.
        content: which of them count, same shapes; never the first.

    Returns:
        float32[n_sequences, SIDE²], of any length; the same for the same text in any batch, within rounding.

    Raises:
        ModelError: a gradient is not finite.
    """
    found = np.zeros((len(ids), SIDE * SIDE), np.float32)
    for batch in batches([len(row) for row in ids], backbone.token_budget):
        padded, kept = padded_and_kept([ids[i] for i in batch], [content[i] for i in batch])
        found[batch] = _of_batch(backbone, padded.to(backbone.device), kept.to(backbone.device)).cpu().numpy()
    if not np.isfinite(found).all():
        raise ModelError(f"gradients of {backbone.name} are not finite in {backbone.dtype}\nTry float32.")
    return found


@torch.enable_grad()
def _of_batch(backbone: Backbone, padded: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """[n, SIDE²] of sequences that are padded on the right, where a causal model never looks from a real token."""
    summed = torch.zeros((len(padded), SIDE, SIDE), device=padded.device)
    with ExitStack() as hooks:
        begin = backbone.model.get_input_embeddings().register_forward_hook(lambda _, __, out: out.requires_grad_())
        hooks.callback(begin.remove)
        for index, layer in enumerate(_layers(backbone)):
            hooks.callback(layer.register_forward_hook(partial(_watch, summed, index)).remove)
        logits = backbone.model(input_ids=padded, use_cache=False).logits[:, :-1].float()
        told = logits.gather(2, padded[:, 1:, None])[:, :, 0] - logits.logsumexp(dim=2)
        is_kept = kept[:, 1:].float()
        # Each sequence has a loss of its own, so the gradient of the sum is that of each.
        loss = -(told * is_kept).sum(dim=1) / is_kept.sum(dim=1).clamp(min=1)
        loss.sum().backward()
    return summed.flatten(1)


def _layers(backbone: Backbone) -> list[Any]:
    return [m for m in backbone.model.base_model.modules() if type(m).__name__ in LAYERS]


def _watch(summed: torch.Tensor, index: int, _: Any, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
    """Wait for the gradient of a layer's output, and add its product with the layer's input."""
    seen = given[0].detach()

    def add(gradient: torch.Tensor) -> None:
        one, other = (x.float() @ signs(x.shape[-1], 2 * index + k, x.device) for k, x in enumerate((gradient, seen)))
        summed.add_(torch.einsum("nts,ntr->nsr", one, other))

    out.register_hook(add)


def signs(width: int, rng_seed: int, device: torch.device) -> torch.Tensor:
    """[width, SIDE] of 1 and -1, over √SIDE; drawn on the CPU, so that they are the same everywhere."""
    rng = torch.Generator().manual_seed(rng_seed)
    drawn = torch.randint(0, 2, (width, SIDE), generator=rng, dtype=torch.int8)
    return ((2 * drawn - 1).float() / SIDE**0.5).to(device)
