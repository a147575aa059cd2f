"""Whether a text says what another one says, in other words: by the angle between vectors of a sentence encoder.

Before: `model.encoder` gives vectors. After: `synthesis.seen` rejects what is there already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Encode = Callable[[Sequence[str]], Vectors]
"""Texts in, vectors [n, d] of length 1 out."""
BATCH = 256


class Meanings:
    """The vectors of many texts, 1.5 KB each with 384 dimensions."""

    def __init__(self, encode: Encode) -> None:
        """Begin with none."""
        self.encode = encode
        self._parts: list[Vectors] = []

    def nearest(self, text: str) -> float:
        """Cosine of the angle to the nearest of them; -1 where there is none."""
        if not self._parts:
            return -1.0
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        return float(np.max(self._parts[0] @ self.encode([text])[0]))

    def add(self, *texts: str) -> None:
        """Take in some more; they are not kept."""
        self._parts.append(self.encode(texts))
