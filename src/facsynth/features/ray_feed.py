"""Shards on their way to the actors on Ray and back, so few at a time that memory does not grow with the corpus.

Before: `features.encoded` walks through them. After: `features.ray`. Plain asyncio: nothing here knows Ray. It lives
beside the process that writes, so what an actor has brought is not lost with the actor or its node.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Generic, TypeVar

from facsynth.records import Sample

_R = TypeVar("_R")


class Feed(Generic[_R]):
    """Tickets stand for shards: each is offered, taken (by whoever takes up that of a dead actor too) and brought."""

    def __init__(self, n_starts: int) -> None:
        """Empty; so often actors may start without a shard that is brought between."""
        self._n_starts, self._begun = n_starts, 0
        self._shards: defaultdict[int, asyncio.Future[tuple[int, list[Sample]]]] = defaultdict(asyncio.Future)
        self._results: dict[int, _R] = {}
        self._brought: set[int] = set()

    async def begin(self) -> bool:
        """An actor asks whether it may start, for the first time or after it died: not without end."""
        self._begun += 1
        return self._begun <= self._n_starts

    async def offer(self, ticket: int, number: int, samples: list[Sample]) -> None:
        """Put a shard in."""
        self._shards[ticket].set_result((number, samples))

    async def take(self, ticket: int) -> tuple[int, list[Sample]] | None:
        """Wait for a shard. None where it is done: its actor died after it had brought it, and Ray repeats the task."""
        if ticket in self._brought:
            return None
        return await asyncio.shield(self._shards[ticket])  # whoever gives up waiting, the next one still gets it

    async def bring(self, ticket: int, result: _R) -> None:
        """What became of it; the first counts."""
        if ticket not in self._brought:
            self._brought.add(ticket)
            self._results[ticket] = result
            self._shards.pop(ticket, None)
            self._begun = 0

    async def collect(self, ticket: int) -> _R:
        """Hand it over, once."""
        return self._results.pop(ticket)
