"""Where memory does not suffice for weights: what they need, and what to do, in place of whatever the reader said.

Before: `model.backbone` and `model.sae_formats` load inside `enough_memory`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from facsynth.errors import ModelError

WORDS = ("can't allocate memory", "cannot allocate memory", "out of memory")
"""Of torch on a CPU, of the system for a mapped file, of a driver."""


def is_out_of_memory(err: BaseException) -> bool:
    """Whether `err` says that memory did not suffice."""
    if isinstance(err, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(err).lower()
    return any(words in said for words in WORDS)


@contextmanager
def enough_memory(what: str, files: Sequence[Path], *, dtype: torch.dtype, way_out: str) -> Iterator[None]:
    """Load weights inside.

    Args:
        what: that holds them, for the message.
        files: theirs.
        dtype: that they are loaded in.
        way_out: what else could be taken.

    Raises:
        ModelError: memory did not suffice, with what is needed. Other errors come through.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as err:
        if not is_out_of_memory(err):
            raise
        name = str(dtype).removeprefix("torch.")
        raise ModelError(
            f"out of memory: {what} takes {weights_need(files)}, up to twice that while it is read; loaded as {name}\n"
            f"Take {way_out}, or a machine or --device with more memory."
        ) from err


def weights_need(files: Sequence[Path]) -> str:
    """How much memory the numbers in .safetensors files take, by dtype; of other files how much they take on disk."""
    counts = [_n_numbers(file) for file in files]
    if counts and all(counts):
        n = sum(counts)
        return f"{_size(4 * n)} in float32, {_size(2 * n)} in bfloat16 or float16"
    return f"{_size(sum(file.stat().st_size for file in files))} as stored"


def _n_numbers(file: Path) -> int:
    """By its header, which is JSON behind its own length; 0 where there is none to be read."""
    if file.suffix != ".safetensors":
        return 0
    try:
        with file.open("rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    except (OSError, ValueError, OverflowError, KeyError, AttributeError, TypeError):
        return 0


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"
