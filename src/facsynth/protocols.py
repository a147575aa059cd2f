"""What a writer and an encoder are to the stages that use them. Anything of this shape can be handed in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from facsynth.records import Reply, Request


class Writer(Protocol):
    """Requests in, replies out: synchronous, same length, same order. A failed request is a Reply with `error`."""

    @property
    def identity(self) -> str:
        """Changes whenever the same request could get another reply: model, revision, precision, vectors."""

    @property
    def batch_size(self) -> int:
        """Requests per call that the writer answers best; a batch is answered and stored as a whole."""

    def write(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer every request."""
