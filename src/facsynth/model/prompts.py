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
    """float32[d_model] on the CPU, added from the position on whose next token is the message's first."""

    @property
    def key(self) -> tuple[bytes, int, bytes]:
        """Of equal ones."""
        return self.ids.tobytes(), self.start, self.delta.numpy().tobytes()


class Read(NamedTuple):
    """Where writing goes on from."""

    logits: torch.Tensor
    """[n, n_vocab] of the next token."""
    cache: DynamicCache
    attention: torch.Tensor
    """[n, longest], 0 where there is padding, on the left."""
    position: torch.Tensor
    """[n, 1], id of the last one."""


def read_prompts(backbone: Backbone, module: Any, prompts: Sequence[Prompt]) -> Read:
    """Read prompts, of like length together; in one pass a third of the places would be padding (docs/LOG.md).

    A cache that slides, as some families have, cannot be put together from parts: its prompts are read in one pass.

    Args:
        backbone: the model, head included.
        module: whose output `delta` is added to.
        prompts: none empty.
    """
    device, config = backbone.device, backbone.model.config
    different = {prompt.key: prompt for prompt in prompts}
    place = {key: n for n, key in enumerate(different)}
    read = [*different.values()]
    ids, attention, position = (tensor.to(device) for tensor in pad_left([prompt.ids for prompt in read]))
    start = torch.tensor([prompt.start for prompt in read], device=device)
    delta = torch.stack([prompt.delta for prompt in read]).to(device, backbone.dtype)[:, None]
    delta = ((attention == 1) & (position >= start[:, None] - 1))[..., None] * delta
    lengths, longest = [len(prompt.ids) + 1 for prompt in read], ids.shape[1]  # with a column of padding
    in_parts = can_join(growing_cache(config))
    groups = [*batches(lengths, backbone.token_budget)] if in_parts else [[*range(len(read))]]
    logits, parts = list[torch.Tensor](), list[DynamicCache]()
    for group in groups:
        there, part = slice(longest - max(lengths[n] for n in group), None), growing_cache(config)
        with steered(module, delta[group, there]):
            logits.append(
                last_logits(backbone.model, ids[group, there], attention[group, there], position[group, there], part)
            )
        parts.append(part)
    cache = parts[0] if len(parts) == 1 else join(parts, config, longest)
    order = {n: row for row, n in enumerate(n for group in groups for n in group)}
    rows = torch.tensor([place[prompt.key] for prompt in prompts], device=device)
    as_read = torch.tensor([order[place[prompt.key]] for prompt in prompts], device=device)
    cache.batch_select_indices(as_read)
    return Read(torch.cat(logits)[as_read], cache, attention[rows], position[rows, -1:])
