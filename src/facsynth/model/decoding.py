"""What writing token by token takes: a cache that grows, a hook that steers, sampling, the tokens that end a message.

`model.writer` puts them together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from facsynth.model.backbone import Backbone
from facsynth.model.batching import pad

CACHE_GROWTH = 256
"""Positions added to the cache at a time. `DynamicCache` adds one and copies all: two thirds of a step, measured."""
N_CANDIDATES = 64
"""Tokens sorted at first; the few rows whose nucleus is larger sort eight times as many, and again."""

LAST = torch.tensor([-1])
"""The last position, as an index: as a slice it makes torch copy the head's weights once for every row."""
STEERED_SHARE = 0.5
"""Of a residual's norm, that steering by all features together may add: more breaks the text."""


def pad_left(ids: Sequence[npt.NDArray[np.int32]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, attention mask and position ids as `pad` gives them, with one column of padding more than needed.

    Without any padding transformers leaves the mask out, and attention for one token a row takes another way on a
    CPU, four times slower: 15 against 3.5 ms a layer for 64 rows of 250 tokens.
    """
    padded, attention, position = (torch.nn.functional.pad(tensor, (1, 0)) for tensor in pad(ids, side="left"))
    return padded, attention, position


def last_logits(
    model: Any, ids: torch.Tensor, attention: torch.Tensor, position: torch.Tensor, cache: DynamicCache
) -> torch.Tensor:
    """Logits [n, n_vocab] after the last of `ids` [n, n_tokens], at `position` [n, n_tokens]; the cache has them then.

    `attention` [n, n_cached] is of all that it has then.
    """
    output = model(
        input_ids=ids, attention_mask=attention, position_ids=position, past_key_values=cache, use_cache=True,
        logits_to_keep=LAST,
    )  # fmt: skip
    found: torch.Tensor = output.logits[:, -1]
    return found


def growing_cache(config: Any) -> DynamicCache:
    """An empty cache for a model; its full-attention layers grow in place, any others are as transformers has them."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def can_join(cache: DynamicCache) -> bool:
    """Whether `join` knows all its layers."""
    return all(type(layer) is GrowingLayer for layer in cache.layers)


def join(parts: Sequence[DynamicCache], config: Any, length: int) -> DynamicCache:
    """One cache of the rows of several, in their order, with `length` positions; theirs are freed layer by layer.

    Rows of shorter ones have zeros on their left, which attention is to leave out.
    """
    cache = growing_cache(config)
    for n, layer in enumerate(cache.layers):
        layer.take([part.layers[n] for part in parts], length)
    return cache


class GrowingLayer(DynamicLayer):
    """A cache layer with room at its end, so that a token is written in place instead of copying all before it."""

    keys: torch.Tensor | None
    values: torch.Tensor | None
    _room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write [n, n_heads, n_tokens, d_head] states in place; gives all so far, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._room is None or end > self._room[0].shape[-2]:
            self._room = (_roomier(self.keys, key_states, end), _roomier(self.values, value_states, end))
        keys, values = self._room
        keys[..., start:end, :], values[..., start:end, :] = key_states, value_states
        self.keys, self.values = keys[..., :end, :], values[..., :end, :]
        return self.keys, self.values

    def take(self, others: Sequence[GrowingLayer], length: int) -> None:
        """Be the rows of others, in their order, which have none then."""
        keys = _one_below_the_other([other.keys for other in others if other.keys is not None], length)
        values = _one_below_the_other([other.values for other in others if other.values is not None], length)
        self.lazy_initialization(keys, values)
        self._room = (keys, values)
        self.keys, self.values = keys[..., :length, :], values[..., :length, :]
        for other in others:
            other._room, other.keys, other.values = None, None, None

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep or repeat rows, row by row: fewer of them, in their order, move up in the memory there is."""
        if self._room is None:
            return
        kept, length = indices.tolist(), self.get_seq_length()
        self._room = (_selected(self._room[0], kept, length), _selected(self._room[1], kept, length))
        self.keys, self.values = (room[..., :length, :] for room in self._room)


def _roomier(old: torch.Tensor | None, states: torch.Tensor, end: int) -> torch.Tensor:
    """A tensor like `states` with room beyond `end`, that starts with `old`."""
    new = states.new_empty((*states.shape[:-2], end + CACHE_GROWTH, states.shape[-1]))
    if old is not None and old.numel():
        new[..., : old.shape[-2], :] = old
    return new


def _one_below_the_other(parts: Sequence[torch.Tensor], length: int) -> torch.Tensor:
    """[n, n_heads, length and room beyond it, d_head] of [n_part, n_heads, at most length, d_head]."""
    n, shape = sum(len(part) for part in parts), parts[0].shape
    found, row = parts[0].new_zeros((n, shape[1], length + CACHE_GROWTH, shape[-1])), 0
    for part in parts:
        found[row : row + len(part), :, length - part.shape[-2] : length] = part
        row += len(part)
    return found


def _selected(room: torch.Tensor, kept: list[int], length: int) -> torch.Tensor:
    in_place = kept == sorted(set(kept))
    new = room[: len(kept)] if in_place else room.new_empty((len(kept), *room.shape[1:]))
    for row, source in enumerate(kept):
        if not in_place or row != source:
            new[row, ..., :length, :] = room[source, ..., :length, :]
    return new


@contextmanager
def steered(module: Any, delta: torch.Tensor) -> Iterator[None]:
    """Add `delta` [n, 1 or n_tokens, d_model] to the module's output while inside; nothing is hooked if it is zero.

    At no position more than `STEERED_SHARE` of the residual's own norm: a longer one is brought to that length.
    """
    length = torch.linalg.vector_norm(delta.float(), dim=-1, keepdim=True)

    def bounded(residual: torch.Tensor) -> torch.Tensor:
        most = STEERED_SHARE * torch.linalg.vector_norm(residual.float(), dim=-1, keepdim=True)
        return residual + delta * (most / length).clamp(max=1.0).nan_to_num(1.0).to(delta.dtype)

    def hook(module: Any, inputs: Any, output: Any) -> Any:
        return (bounded(output[0]), *output[1:]) if isinstance(output, tuple) else bounded(output)

    handle = module.register_forward_hook(hook) if bool(delta.any()) else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def sample_nucleus(
    logits: torch.Tensor, temperature: torch.Tensor, top_p: torch.Tensor, uniform: torch.Tensor
) -> torch.Tensor:
    """Invert the distribution function at `uniform`, tokens sorted by falling probability, within the nucleus.

    The nucleus is the fewest tokens that together have at least `top_p` (Holtzman et al., arXiv 1904.09751, 3.1).

    Args:
        logits: [n, n_vocab], finite.
        temperature: [n] float64 on the CPU, like the next two; above 0.
        top_p: [n], in (0, 1].
        uniform: [n], in [0, 1).

    Returns:
        [n] int64 token ids, on the CPU.
    """
    scaled = logits.float() / temperature.to(logits.device, torch.float32)[:, None]
    total = scaled.logsumexp(dim=-1, keepdim=True)
    tokens = torch.empty(len(logits), dtype=torch.int64)
    rest, n_sorted = torch.arange(len(logits)), N_CANDIDATES
    while len(rest):
        n_sorted = min(n_sorted, logits.shape[-1])
        top, ids = scaled[rest.to(scaled.device)].topk(n_sorted)
        mass = (top - total[rest.to(scaled.device)]).exp().cpu().double().cumsum(dim=-1)
        full, wanted = top_p[rest] >= 1, uniform[rest]
        size = torch.where(full, n_sorted, (mass < top_p[rest, None]).sum(dim=-1) + 1).clamp(max=n_sorted)
        target = wanted * torch.where(full, 1.0, mass.gather(1, size[:, None] - 1)[:, 0])
        rank = torch.minimum((mass <= target[:, None]).sum(dim=-1), size - 1)
        done = (mass[:, -1] > torch.where(full, wanted, top_p[rest])) | (n_sorted == logits.shape[-1])
        tokens[rest[done]] = ids.cpu().gather(1, rank[:, None])[done, 0]
        rest, n_sorted = rest[~done], n_sorted * 8
    return tokens


def stop_ids(backbone: Backbone) -> frozenset[int]:
    """Special tokens (end of turn, end of text, padding, a new turn), and what the generation config adds."""
    config = getattr(backbone.model, "generation_config", None)
    ends = getattr(config, "eos_token_id", None)
    extra = ends if isinstance(ends, list) else [ends]
    named = [backbone.tokenizer.eos_token_id, backbone.tokenizer.pad_token_id]
    return frozenset(i for i in [*backbone.tokenizer.all_special_ids, *extra, *named] if i is not None)


def ending_ids(backbone: Backbone, stop: str) -> frozenset[int]:
    """Tokens that hold what stops a request."""
    texts = backbone.tokenizer.batch_decode([[index] for index in range(len(backbone.tokenizer))])
    return frozenset(index for index, text in enumerate(texts) if stop in text)
