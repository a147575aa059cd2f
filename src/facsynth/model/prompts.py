"""Prompts, read before writing: equal ones once, and those of like length together.

Before: `model.writer` has token ids. After: it goes on from the logits and the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache

from facsynth.model.backbone import Backbone
from facsynth.model.batching import batches
from facsynth.model.decoding import can_join, growing_cache, join, last_logits, pad_left, steered


class Prompt(NamedTuple):
    """What is read before a message is written."""

    ids: npt.NDArray[np.int32]
    """[n_tokens]"""
    start: int
    """Where the message starts, of which the first tokens may be given."""
    delta: torch.Tensor
    """[d_model], added from the position on whose next token is the message's first."""

    @property
    def key(self) -> tuple[bytes, int, bytes]:
        """Of equal ones."""
        return self.ids.tobytes(), self.start, self.delta.numpy().tobytes()


def read_prompts(
    backbone: Backbone, module: Any, prompts: Sequence[Prompt]
) -> tuple[torch.Tensor, DynamicCache, torch.Tensor, torch.Tensor]:
    """Logits [n, n_vocab] of the next token, cache, attention mask [n, longest] and last position id [n, 1] of each.

    In one pass a third of the places would be padding; a cache that slides, as of some families, is not put together
    from parts, and is read so.

    Args:
        backbone: the model, head included.
        module: whose output `delta` is added to.
        prompts: none empty.
    """
    device, of_key = backbone.device, {prompt.key: prompt for prompt in prompts}
    place = {key: n for n, key in enumerate(of_key)}
    rows, read = torch.tensor([place[prompt.key] for prompt in prompts], device=device), [*of_key.values()]
    ids, attention, position = (tensor.to(device) for tensor in pad_left([prompt.ids for prompt in read]))
    start = torch.tensor([prompt.start for prompt in read], device=device)
    delta = torch.stack([prompt.delta for prompt in read]).to(device, backbone.dtype)[:, None]
    delta = ((attention == 1) & (position >= start[:, None] - 1))[..., None] * delta
    lengths, longest = [len(prompt.ids) + 1 for prompt in read], ids.shape[1]  # with a column of padding
    cache = growing_cache(backbone.model.config)
    groups = [*batches(lengths, backbone.token_budget)] if can_join(cache) else [[*range(len(read))]]
    logits, parts = list[torch.Tensor](), list[tuple[list[int], DynamicCache]]()
    for group in groups:
        there, part = slice(longest - max(lengths[n] for n in group), None), growing_cache(backbone.model.config)
        with steered(module, delta[group, there]):
            logits.append(
                last_logits(backbone.model, ids[group, there], attention[group, there], position[group, there], part)
            )
        parts.append((group, part))
    if can_join(cache):
        join(cache, parts, longest)
    else:
        cache = parts[0][1]
    cache.batch_select_indices(rows)
    read_as = torch.tensor([n for group in groups for n in group], device=device).argsort()
    return torch.cat(logits)[read_as][rows], cache, attention[rows], position[rows, -1:]
