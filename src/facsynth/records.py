"""The frozen things that travel between stages. No behaviour beyond what their names promise."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Progress = Callable[[str, int, int | None], None]
"""`progress(what, done, total)`: how a long stage reports; `cli/` draws it. `total` None: unknown."""


def no_progress(what: str, done: int, total: int | None) -> None:
    """The library is quiet unless somebody listens."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `role` is system, user, assistant, tool …, or `text` for a text outside any chat."""

    role: str
    content: str


@dataclass(frozen=True)
class Sample:
    """One piece of training data, already cut to the encoded part of its form."""

    messages: tuple[Message, ...]
    sample_id: str = ""
    """First 16 hex digits of the sha256 of the messages: equal content, equal id, in any file."""
    where: str = field(default="", compare=False, repr=False)
    """File and line it was read from, for messages; empty where it was read from nowhere."""

    def __post_init__(self) -> None:
        if not self.sample_id:
            object.__setattr__(self, "sample_id", content_id(self.messages))

    @property
    def text(self) -> str:
        """The contents alone, blank line between messages."""
        return "\n\n".join(m.content for m in self.messages)


def content_id(messages: tuple[Message, ...]) -> str:
    """16 hex digits that depend on roles and contents only."""
    canonical = json.dumps([[m.role, m.content] for m in messages], ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True)
class Failure:
    """Something that could not be used, as a row of `failures.jsonl`; never a value."""

    where: str
    """File and line, or sample id."""
    reason: str
    raw: str = ""
    """The start of what was found."""


@dataclass(frozen=True)
class Span:
    """The tokens of one sample up to and including the one that fires, with its activation."""

    feature_id: int
    text: str
    token: str
    """The firing token: the end of `text`."""
    activation: float
    sample_id: str
    position: int
    """Index of the firing token in the encoded sequence."""
    context: str = ""
    """The span and how its sentence goes on: an example for a writer."""


@dataclass(frozen=True)
class Task:
    """What a data set is for, as far as a judge of features has to know it."""

    name: str
    definition: str
    rubric: tuple[str, ...]
    """What belongs to it, a line each."""
    form: str = "message"
    """Of its samples."""
    asks_for: str = ""
    """What a writer is to write, as several are called."""
    labels: tuple[tuple[str, str], ...] = ()
    """Of written messages, each with what a writer is then to write; the first is the one that is looked for."""


@dataclass(frozen=True)
class Interval:
    """95 %."""

    low: float
    high: float


@dataclass(frozen=True)
class Measurement:
    """What a text was found to fire, by encoding it."""

    maxima: Mapping[int, tuple[float, int]]
    """feature_id → (activation, position), over all content tokens."""
    span: Callable[[int], str]
    """The text that ends at a position."""


ASSISTANT = "assistant"
"""The role of who answers."""


@dataclass(frozen=True, slots=True)
class Request:
    """One thing asked of a writer."""

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float
    top_p: float
    rng_seed: int
    sample_index: int = 0
    """Tells apart requests that are equal in everything else."""
    steering: tuple[tuple[int, float], ...] = ()
    """(feature_id, strength s) pairs; local writers only. DESIGN: h ← h + s·a_i·d_i."""
    prefix: str = ""
    """Text the reply starts with; part of the returned text."""
    stop: str = ""
    """What ends the reply, and is no part of it: a line break, say."""
    json_schema: str = ""
    """JSON Schema that the reply is to follow, as JSON; for endpoints that can hold to one."""
    role: str = ASSISTANT
    """Whose turn is written; another than the assistant's by local writers only."""

    def as_json(self) -> dict[str, Any]:
        """What the reply depends on, the writer's identity excepted; key order fixed by canonical JSON."""
        found = {
            "messages": [[m.role, m.content] for m in self.messages],
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "rng_seed": self.rng_seed,
            "steering": [list(pair) for pair in self.steering],
            "prefix": self.prefix,
            "stop": self.stop,
        }
        more = {"json_schema": self.json_schema} if self.json_schema else {}
        return found | more | ({"role": self.role} if self.role != ASSISTANT else {})


NON_FINITE = "non-finite"
"""The kind of error of a model that was steered too strongly to go on."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. `error` set means: no text, and why."""

    text: str
    finish_reason: str
    """stop, length or error."""
    prompt_tokens: int
    written_tokens: int
    latency_s: float
    error: str = ""
    raw: dict[str, Any] = field(default_factory=dict)
    """The reply as the writer gave it, where there is more than text; kept in the ledger, and not handed on by it."""
    n_calls: int = 1
    """That were needed; the counts are of all of them."""

    def with_cost_of(self, other: Reply) -> Reply:
        """The same, counting what another one took too."""
        return replace(
            self,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            written_tokens=self.written_tokens + other.written_tokens,
            latency_s=self.latency_s + other.latency_s,
            n_calls=self.n_calls + other.n_calls,
        )
