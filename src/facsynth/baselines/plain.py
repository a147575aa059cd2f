"""The control: a message is asked for, and nothing more, with the request that gives the chance level of a run."""

from __future__ import annotations

from collections.abc import Generator

from facsynth.baselines.given import WAVE, Draft, Given, Scribe
from facsynth.synthesis.requests import plain_request


def waves(given: Given, scribe: Scribe) -> Generator[list[Draft], list[str], None]:
    """Plain requests, as `synthesis.requests` has them."""
    index = 0
    while True:
        requests = [plain_request(index + i, given.settings) for i in range(WAVE)]
        index += WAVE
        replies = scribe.answers(requests)
        yield [Draft(r, q.messages[-1].content) for q, r in zip(requests, replies, strict=True)]
