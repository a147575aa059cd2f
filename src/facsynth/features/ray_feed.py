"""Shards on their way to the actors on Ray and back, so few at a time that memory does not grow with the corpus.

Before: `features.encoded` walks through them. After: `features.ray`. Plain asyncio: nothing here knows Ray. It lives
beside the process that writes, so what an actor has brought is not lost with the actor or its node.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import Generic, TypeVar

from facsynth.records import Sample

_R = TypeVar("_R")


class Feed(Generic[_R]):
    """Tickets stand for shards: each is offered, taken (by whoever takes up that of a dead actor too) and brought."""

    def __init__(self, n_starts: int, n_takes: int) -> None:
        """Empty.

        Args:
            n_starts: so often actors may start without a shard that is brought between.
            n_takes: so often a shard may be taken and not brought; then it is given up, and the others go on.
        """
        self._n_starts, self._begun = n_starts, 0
        self._n_takes, self._taken = n_takes, Counter[int]()
        self._shards: defaultdict[int, asyncio.Future[tuple[int, list[Sample]]]] = defaultdict(asyncio.Future)
        self._results: dict[int, _R | None] = {}
        self._brought: set[int] = set()

    async def begin(self) -> bool:
        """An actor asks whether it may start, for the first time or after it died: not without end."""
        self._begun += 1
        return self._begun <= self._n_starts

    async def offer(self, ticket: int, number: int, samples: list[Sample]) -> None:
        """Put a shard in."""
        self._shards[ticket].set_result((number, samples))

    async def take(self, ticket: int) -> tuple[int, list[Sample]] | None:
        """Wait for a shard. None where it is done: it is given up, or its actor died after it had brought it."""
        if ticket in self._brought:
            return None
        shard = await asyncio.shield(self._shards[ticket])  # whoever gives up waiting, the next one still gets it
        self._taken[ticket] += 1
        if self._taken[ticket] <= self._n_takes:
            return shard
        await self.bring(ticket, None)
        return None

    async def bring(self, ticket: int, result: _R | None) -> None:
        """What became of it, None where it was given up; the first counts."""
        if ticket not in self._brought:
            self._brought.add(ticket)
            self._results[ticket] = result
            self._shards.pop(ticket, None)
            self._begun = 0

    async def collect(self, ticket: int) -> _R | None:
        """Hand it over, once; None where it was given up."""
        return self._results.pop(ticket)
