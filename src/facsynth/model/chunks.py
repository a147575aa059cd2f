"""Activations of a corpus in numbered chunks, and which of their rows an SAE is trained and measured on.

Before: `features.harvest` computes them. After: `model.sae_train` reads them, in another order every epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from facsynth.store import write_atomic

SINK_NORM = 10
"""Rows longer than so many medians are attention sinks. SmolLM2 has some at the second position of plain texts:
norm 9,000 against 110, enough for a handful to rule mean, scale and FVU."""


class Chunks:
    """Kept on disk in bfloat16 up to a size, computed again beyond it; the same numbers either way."""

    def __init__(self, folder: Path, compute: Callable[[int], torch.Tensor], n_chunks: int, keep_gb: float) -> None:
        """Take how to compute chunk i, an [n, d_in] tensor, and where and how much to keep."""
        self.folder, self.n_chunks, self._compute, self._keep = folder, n_chunks, compute, keep_gb * 1e9

    def get(self, index: int) -> torch.Tensor:
        """Activations of one chunk, [n, d_in] bfloat16, sinks among them."""
        path = self.folder / f"{index:05d}.safetensors"
        if path.exists():
            return load_file(path)["activations"]
        activations = self._compute(index).to(torch.bfloat16)
        kept = sum(file.stat().st_size for file in self.folder.glob("*.safetensors"))
        if kept + activations.numel() * 2 <= self._keep:
            write_atomic(path, lambda temporary: save_file({"activations": activations}, temporary))
        return activations

    def without_sinks(self, index: int) -> tuple[torch.Tensor, int]:
        """The rows of a chunk that count, and how many were dropped: those above 10 times the median norm."""
        return without_sinks(self.get(index))


def without_sinks(activations: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The rows of [n, d_in] that count, and how many were dropped: those above 10 times the median norm."""
    norms = torch.linalg.vector_norm(activations, dim=1, dtype=torch.float32)
    counts = norms <= SINK_NORM * norms.median()
    return activations[counts], int((~counts).sum())
