"""Sequences of different lengths, run together: which, and how they are laid side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch


def token_budget(device: torch.device) -> int:
    """Padded tokens a forward pass: on a CPU as many as its caches hold (8,192 are a third slower), see LOG.

    What a local writer gives depends on it (`writer.LOOP_VERSION`).
    """
    return 1024 if device.type == "cpu" else 16_384


def batches(lengths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Indices of sequences to run together: longest first, padded size at most `token_budget` (one always fits)."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > token_budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def pad(ids: Sequence[npt.NDArray[np.int32]], *, side: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids [n, longest], attention mask and position ids, padded with 0 on `side` (left for writing)."""
    longest = max(len(row) for row in ids)
    padded = torch.zeros((len(ids), longest), dtype=torch.long)
    attention = torch.zeros_like(padded)
    for index, row in enumerate(ids):
        where = slice(longest - len(row), longest) if side == "left" else slice(0, len(row))
        padded[index, where] = torch.from_numpy(row).long()
        attention[index, where] = 1
    return padded, attention, (attention.cumsum(1) - 1).clamp_(min=0)


def padded_and_kept(
    ids: Sequence[npt.NDArray[np.int32]], keep: Sequence[npt.NDArray[np.bool_]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids padded on the right, and which places of that are kept, [n, longest] both."""
    padded, _, _ = pad(ids, side="right")
    kept = torch.zeros(padded.shape, dtype=torch.bool)
    for row, mask in enumerate(keep):
        kept[row, : len(mask)] = torch.from_numpy(mask)
    return padded, kept
