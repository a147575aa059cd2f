"""What a rival method is given, how it asks, and what it gives back.

Before: anchor texts and a writer. After: `baselines.frame` decides on drafts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from facsynth.bins import Doubles, Floats
from facsynth.errors import IncompleteError, InputError, ModelError, SettingsError
from facsynth.llm.endpoint_writer import ENOUGH, is_passing
from facsynth.llm.longer import write_to_end
from facsynth.protocols import Writer
from facsynth.records import Message, Reply, Request
from facsynth.synthesis.accept import clean_text
from facsynth.synthesis.requests import FEATURE_STRIDE, SynthesisSettings

VERDICT = 8
"""Tokens of a word or two."""
WAVE = 16
"""Drafts that are decided on together, in most methods. What a wave cost counts before its first sample."""
Embed = Callable[[Sequence[str]], Floats]
"""Texts in, vectors [n, d] of length 1 out, as `model.encoder.open_encoder` gives it."""
Gradients = Callable[[Sequence[str]], Floats]
"""Texts in, a projected loss gradient [n, d] of each out, of any length."""
Reward = Callable[[str, str], float]
"""A message and a reply to it in, a mark out; more is better."""


@dataclass(frozen=True)
class Given:
    """What a method may know."""

    settings: SynthesisSettings
    """What is wanted, its longest message, temperature and random numbers: those of samples written for features."""
    shown: tuple[str, ...]
    """Messages of the anchor that a prompt may show."""
    embed: Embed | None = None
    gradients: Gradients | None = None
    reward: Reward | None = None

    def __post_init__(self) -> None:
        if not self.shown:
            raise InputError("there are no anchor texts that a prompt may show\nGive an anchor with messages of users.")

    @property
    def what(self) -> dict[str, str]:
        """What is asked for, as prompts name it."""
        return {"many": self.settings.wanted.many, "one": self.settings.wanted.one}

    @property
    def goes_on(self) -> bool:
        """Whether the writer can be given the beginning of its reply."""
        return self.settings.asks == "continue"

    @property
    def rng(self) -> np.random.Generator:
        """Random numbers from their beginning."""
        return np.random.default_rng(self.settings.rng_seed)


class Draft(NamedTuple):
    """What a method wrote. What the sample's form has besides is asked for as for any sample."""

    message: Reply
    shown: str = ""
    """What the writer was shown, to tell copies."""
    reply: Reply | None = None
    worse: Reply | None = None
    """Of a pair, the rejected reply."""
    reason: str = ""
    """Why the method itself drops it; empty where it does not."""


@dataclass
class Scribe:
    """The writer in a method's hands: it counts all that is asked for, drafts, judgements and replies alike."""

    writer: Writer
    settings: SynthesisSettings
    notes: list[str] = field(default_factory=list)
    """What a method says of itself, for the manifest."""
    spent: Counter[str] = field(default_factory=Counter)
    """calls, prompt_tokens and written_tokens so far."""
    n_failed: int = 0
    _n_requests: int = 0

    @property
    def identity(self) -> str:
        """The writer's."""
        return self.writer.identity

    @property
    def batch_size(self) -> int:
        """The writer's."""
        return self.writer.batch_size

    def write(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer every request, as any writer.

        Raises:
            IncompleteError: some were not answered, and may be when they are asked for again.
            ModelError: none was answered, ever.
        """
        replies = self.writer.write(requests)
        for reply in replies:
            self.spent.update(calls=reply.n_calls, prompt_tokens=reply.prompt_tokens)
            self.spent.update(written_tokens=reply.written_tokens)
        errors = [reply.error for reply in replies if reply.error]
        if passing := [error for error in errors if is_passing(error)]:
            raise IncompleteError(
                f"the writer left {len(passing)} of {len(replies)} requests: {passing[0]}\nThe same command asks again."
            )
        self.n_failed += len(errors)
        if self.n_failed >= max(self.spent["calls"], ENOUGH):
            raise ModelError(f"the writer answered none of {self.n_failed} requests: {errors[-1]}")
        return replies

    def request(self) -> Request:
        """The next request, without messages; no two are the same call."""
        self._n_requests += 1
        s = self.settings
        return Request((), s.max_tokens, s.temperature, s.top_p, s.rng_seed * FEATURE_STRIDE, self._n_requests)

    def ask(self, prompts: Sequence[str], **changes: Any) -> list[Reply]:
        """A reply to each prompt; `changes` are values that its request has instead of the settings'."""
        return self.answers([replace(self.request(), messages=(Message("user", p),), **changes) for p in prompts])

    def verdicts(self, prompts: Sequence[str], begin: str, temperature: float = 0.0) -> list[str]:
        """The word or two that each prompt asks for; a writer whose reply can be begun goes on from `begin`."""
        prefix = begin if self.settings.asks == "continue" else ""
        return [r.text for r in self.ask(prompts, max_tokens=VERDICT, temperature=temperature, prefix=prefix)]

    def answers(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies without the prefix that they were given."""
        replies = write_to_end(self, requests, self.settings.n_tries) if requests else []
        return [replace(r, text=r.text.removeprefix(q.prefix)) for q, r in zip(requests, replies, strict=True)]

    def note(self, text: str) -> None:
        """Say something of the method, once."""
        if text not in self.notes:
            self.notes.append(text)


Method = Callable[[Given, Scribe], Generator[list[Draft], list[str], None]]
"""Gives drafts, a wave at a time, and is told what became of them: the message of each, empty where it is not accepted.
What it gives depends on nothing but replies and random numbers."""


def part_of(reply: Reply, text: str) -> Reply:
    """A reply with a piece of its text, which ends where it is to end."""
    return replace(reply, text=text, finish_reason="stop")


def cleaned(replies: Iterable[Reply]) -> list[Reply]:
    """Replies that are to be messages, without what writers put around them."""
    return [replace(r, text=clean_text(r.text, unfinished=r.finish_reason == "length")) for r in replies]


def needed(found: Embed | Gradients | None, what: str) -> Callable[[Sequence[str]], Doubles]:
    """Vectors of texts as unit vectors [n, d], float64.

    Raises:
        SettingsError: the method needs what is not given.
    """
    if found is None:
        raise SettingsError(f"this method needs {what}, and none is given\nGive it, or leave the method out.")

    def vectors(texts: Sequence[str]) -> Doubles:
        x: Doubles = np.asarray(found(texts), np.float64)
        return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))

    return vectors
