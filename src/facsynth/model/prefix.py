"""What all sequences begin with, a chat template's header above all, is run once and not with each of them.

Before: `features.encode` sees what a shard's sequences share. Inside `model.backbone`. A causal model's keys and values
of a prefix do not depend on what follows, so activations are the same within rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache

FEWEST = 8
"""Shared tokens that are worth it."""
ATTENTION = {"full_attention", "sliding_attention"}
"""Layers whose state is keys and values, and nothing that depends on where a sequence began."""
ROPE_OF_LENGTH = {"dynamic", "longrope"}
"""Angles that depend on the whole length."""
Ids = npt.NDArray[np.int32]


def shared_prefix(ids: Sequence[Ids], keep: Sequence[npt.NDArray[np.bool_]]) -> int:
    """How many tokens all sequences begin with, none of them kept or a sequence's last; 0 where it is not worth it."""
    if len(ids) < 2:
        return 0
    n = min(int(mask.argmax()) if mask.any() else len(mask) - 1 for mask in keep)
    if n < FEWEST:
        return 0
    differs = (np.stack([row[:n] for row in ids]) != ids[0][:n]).any(axis=0)
    n = int(differs.argmax()) if differs.any() else n
    return n if n >= FEWEST else 0


class PrefixCache:
    """Keys and values of the last prefix that was asked for."""

    def __init__(self, config: Any, run: Callable[[torch.Tensor, DynamicCache], Any]) -> None:
        """Fill caches by `run`: ids [1, n] and an empty cache."""
        self._config, self._run = config, run
        self._key, self._filled = b"", DynamicCache(config=config)

    def repeated(self, ids: Ids, n: int) -> DynamicCache | None:
        """Of a prefix [n_tokens], for a batch of `n`: a copy to be added to; None where it may not be right."""
        if not _is_kept_apart(self._config.get_text_config(), len(ids)):
            return None
        if self._key != ids.tobytes():
            filled = DynamicCache(config=self._config)
            self._run(torch.from_numpy(ids).long()[None], filled)
            self._key, self._filled = ids.tobytes(), filled  # both, or of a run that failed neither
        if self._filled.get_seq_length() != len(ids):
            return None
        found = copy.deepcopy(self._filled)
        found.batch_repeat_interleave(n)
        return found


def _is_kept_apart(config: Any, n_tokens: int) -> bool:
    """Whether keys and values of a beginning of `n_tokens` are all that what follows needs of it, and always the same.

    Not where layers keep another state, where angles of positions depend on how long a sequence becomes, and where a
    window is shorter: not every model that has one in its config uses it, and the cache would drop what it needs.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {rope.get("rope_type"), *(kind.get("rope_type") for kind in rope.values() if isinstance(kind, dict))}
    window = getattr(config, "sliding_window", None) or n_tokens + 1
    return (
        set(getattr(config, "layer_types", None) or ()) <= ATTENTION
        and not kinds & ROPE_OF_LENGTH
        and n_tokens < window
    )
