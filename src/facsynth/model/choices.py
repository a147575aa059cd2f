"""What a model makes of a question with lettered answers: its state at each letter, and its logits steered.

Before: `text.template` gives prompt ids. After: `tasks.steering` takes directions and accuracies from them. A question
is read once; all that differs, letters or vectors, differs at its last token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from transformers import DynamicCache

from facsynth.bins import Floats
from facsynth.errors import ModelError
from facsynth.model.backbone import Backbone, hooked_module
from facsynth.model.batching import batches
from facsynth.model.decoding import LAST, pad_left, steered
from facsynth.records import Progress, no_progress

VECTORS_AT_ONCE = 16
"""Vectors a pass: the cache of a question is copied for each."""


class Question(NamedTuple):
    """A prompt up to where its answer's letter comes next, and the token of each of the two letters."""

    ids: tuple[int, ...]
    """Of the prompt and of what opens the answer; at least 2."""
    letters: tuple[int, int]


def question(ids: Callable[[str], Sequence[int]], letters: tuple[str, str]) -> Question:
    """Find where the two answers part.

    Args:
        ids: token ids of the prompt with the answer begun as given.
        letters: of the two answers.

    Raises:
        ModelError: the tokenizer makes no difference of them.
    """
    one, other = (tuple(ids(f"({letter}")) for letter in letters)
    apart = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
    if apart < 2:
        raise ModelError(f"the tokenizer gives no token of its own to ({letters[0]}) and ({letters[1]})")
    return Question(one[:apart], (one[apart], other[apart]))


@torch.inference_mode()
def letter_states(backbone: Backbone, questions: Sequence[Question], progress: Progress = no_progress) -> Floats:
    """float32[n, 2, d_model]: the state at the hook point at each letter, as if it were the answer."""
    found = np.empty((len(questions), 2, backbone.d_model), np.float32)
    module = hooked_module(backbone.model, backbone.hook_point)
    for batch, read in _read(backbone, [q.ids for q in questions], progress):
        last = torch.tensor([questions[n].letters for n in batch]).flatten()
        caught: list[torch.Tensor] = []
        handle = module.register_forward_hook(
            lambda _m, _i, out, caught=caught: caught.append(out[0] if isinstance(out, tuple) else out)
        )
        try:
            read.go_on(last, 2)
        finally:
            handle.remove()
        found[batch] = caught[0][:, -1].float().cpu().numpy().reshape(len(batch), 2, -1)
    return _finite(found, backbone)


@torch.inference_mode()
def letter_logits(
    backbone: Backbone, questions: Sequence[Question], vectors: Floats, progress: Progress = no_progress
) -> Floats:
    """float32[n, n_vectors, 2]: logits of the two letters, each vector added at the hook point before the letter.

    Args:
        backbone: hooked where the vectors belong.
        questions: as `question` gives them.
        vectors: [n_vectors, d_model], in raw residual units; zeros steer nothing.
        progress: told the questions that are done.

    Raises:
        ModelError: NaN or infinity.
    """
    found = np.empty((len(questions), len(vectors), 2), np.float32)
    module = hooked_module(backbone.model, backbone.hook_point)
    deltas = torch.from_numpy(np.ascontiguousarray(vectors)).to(backbone.device, backbone.dtype)
    for batch, read in _read(backbone, [q.ids[:-1] for q in questions], progress):
        letters = torch.tensor([questions[n].letters for n in batch], device=backbone.device)
        last = torch.tensor([questions[n].ids[-1] for n in batch])
        for first in range(0, len(vectors), VECTORS_AT_ONCE):
            some = deltas[first : first + VECTORS_AT_ONCE]
            n = len(some)
            with steered(module, some.repeat(len(batch), 1)[:, None]):
                logits = read.go_on(last.repeat_interleave(n), n)
            chosen = logits.gather(1, letters.repeat_interleave(n, dim=0))
            found[batch, first : first + n] = chosen.float().cpu().numpy().reshape(len(batch), n, 2)
    return _finite(found, backbone)


@dataclass(frozen=True)
class _Read:
    """Prompts that were read, to go on from as often as is wanted: a pass does not change them."""

    backbone: Backbone
    cache: DynamicCache
    attention: torch.Tensor
    position: torch.Tensor
    """[n, n_tokens], as is `attention`."""

    def go_on(self, last: torch.Tensor, n: int) -> torch.Tensor:
        """Logits [n_prompts * n, vocab] after one more token, of `n` rows a prompt: `last` [n_prompts * n]."""
        attention = torch.cat([self.attention, self.attention.new_ones(len(self.attention), 1)], dim=1)
        output = self.backbone.model(
            input_ids=last[:, None].to(self.backbone.device),
            attention_mask=attention.repeat_interleave(n, dim=0),
            position_ids=(self.position[:, -1:] + 1).repeat_interleave(n, dim=0),
            past_key_values=self._repeated(n),
            use_cache=True,
            logits_to_keep=LAST,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _repeated(self, n: int) -> DynamicCache:
        copied = DynamicCache(config=self.backbone.model.config)
        for index, layer in enumerate(self.cache.layers):
            copied.update(layer.keys.repeat_interleave(n, dim=0), layer.values.repeat_interleave(n, dim=0), index)
        return copied


def _read(backbone: Backbone, ids: Sequence[tuple[int, ...]], progress: Progress) -> Iterator[tuple[list[int], _Read]]:
    """Read prompts batch by batch."""
    done = 0
    for batch in batches([len(row) for row in ids], backbone.token_budget):
        padded, attention, position = (
            tensor.to(backbone.device) for tensor in pad_left([np.array(ids[n], np.int32) for n in batch])
        )
        cache = DynamicCache(config=backbone.model.config)
        backbone.model.base_model(
            input_ids=padded, attention_mask=attention, position_ids=position, past_key_values=cache, use_cache=True
        )
        yield batch, _Read(backbone, cache, attention, position)
        done += len(batch)
        progress("asking", done, len(ids))


def _finite(found: Floats, backbone: Backbone) -> Floats:
    if not np.isfinite(found).all():
        raise ModelError(f"{backbone.name} gives NaN or infinity in {backbone.dtype}\nTry float32, or steer less.")
    return found
