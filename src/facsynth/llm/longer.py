"""Replies that did not end are asked for again, with room for more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from facsynth.protocols import Writer
from facsynth.records import Reply, Request

LONGER = 2
"""Times its `max_tokens`, with which a reply that did not end is asked for once more."""


def write_to_end(writer: Writer, requests: Sequence[Request], n_tries: int) -> list[Reply]:
    """As `writer.write`, but a reply that ends with its `max_tokens` is asked for again, up to `n_tries` times in all.

    A reply counts what all its tries cost. Where the last try fails, the one before stays.
    """
    replies, asked = writer.write(requests), list(requests)
    for _ in range(n_tries - 1):
        cut = [i for i, reply in enumerate(replies) if reply.finish_reason == "length"]
        if not cut:
            break
        for i in cut:
            asked[i] = replace(asked[i], max_tokens=LONGER * asked[i].max_tokens)
        for i, again in zip(cut, writer.write([asked[i] for i in cut]), strict=True):
            replies[i] = replies[i].with_cost_of(again) if again.error else again.with_cost_of(replies[i])
    return replies
