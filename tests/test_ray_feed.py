"""The feed of shards, without Ray: who waits, who asks twice, who dies."""

from __future__ import annotations

import asyncio
import contextlib

from facsynth.features.ray_feed import Feed
from tiny import chats

SHARD = chats(2)


def test_whoever_asks_early_waits_and_the_next_after_a_dead_one_gets_the_same() -> None:
    async def work() -> None:
        feed = Feed[str](1, 3)
        dead, early = (asyncio.ensure_future(feed.take(3)) for _ in range(2))
        await asyncio.sleep(0)
        dead.cancel()
        await feed.offer(3, 70, SHARD)
        with contextlib.suppress(asyncio.CancelledError):
            await dead
        assert dead.cancelled()
        assert await early == await feed.take(3) == (70, SHARD)

    asyncio.run(asyncio.wait_for(work(), 5))


def test_a_shard_that_is_brought_is_held_no_longer_and_nobody_waits_for_it() -> None:
    async def work() -> None:
        feed = Feed[str](1, 3)
        await feed.offer(0, 5, SHARD)
        await feed.bring(0, "result")
        assert await feed.take(0) is None
        await feed.bring(0, "of one that was slow to die")
        assert not feed._shards
        assert await feed.collect(0) == "result"
        assert await feed.take(0) is None
        assert not feed._results

    asyncio.run(asyncio.wait_for(work(), 5))


def test_actors_may_start_so_often_without_a_shard_that_is_brought_between() -> None:
    async def work() -> None:
        feed = Feed[str](2, 3)
        assert [await feed.begin() for _ in range(3)] == [True, True, False]
        await feed.bring(0, "result")
        assert await feed.begin()

    asyncio.run(asyncio.wait_for(work(), 5))


def test_a_shard_that_is_taken_and_never_brought_is_given_up_and_the_next_is_not() -> None:
    async def work() -> None:
        feed = Feed[str](1, 2)
        await feed.offer(0, 5, SHARD)
        await feed.offer(1, 6, SHARD)
        assert [await feed.take(0) for _ in range(3)] == [(5, SHARD), (5, SHARD), None]
        assert await feed.collect(0) is None
        assert await feed.take(1) == (6, SHARD)

    asyncio.run(asyncio.wait_for(work(), 5))
