"""Blocks of a settings file that say who is asked: a model in this process, or one at an endpoint."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from facsynth.blocks import Block
from facsynth.llm.address import check_extra, parsed
from facsynth.llm.budget import Price
from facsynth.meaning.asking import USUAL
from facsynth.synthesis.ladder import STRONGEST
from facsynth.synthesis.requests import SynthesisSettings


class PriceBlock(Block):
    """What a million tokens cost, in whatever currency `budget.max_money` is."""

    prompt: float = Field(ge=0)
    written: float = Field(ge=0)


class EndpointBlock(Block):
    """A model at an OpenAI-compatible endpoint. Keys come from the environment alone."""

    url: str
    """As http://localhost:8000/v1."""
    model: str
    api: Literal["chat", "completions"] = "chat"
    key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key."""
    concurrency: int = Field(default=64, ge=1, le=4096)
    """Never more requests at once; how many there are is found out."""
    timeout_s: float = Field(default=300.0, gt=0)
    """For a whole response."""
    max_attempts: int = Field(default=5, ge=1)
    """Of one request, where the endpoint fails."""
    max_wait_s: float = Field(default=3600.0, ge=0)
    """For a first reply after the endpoint began to limit, or went away."""
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls the most tokens it may write."""
    extra: dict[str, Any] = Field(default={})
    """Further fields of the body of a request."""
    price: PriceBlock | None = None
    allow_spans_to_endpoint: bool = False
    """Pieces of the anchor go into prompts; an address that is not private has to be allowed to see them."""

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        parsed(self.url)
        check_extra(self.extra)
        return self


class WriterBlock(Block):
    """Who writes: the model above, steered, or a model at an endpoint."""

    endpoint: EndpointBlock | None = None
    draft: Literal["", "local"] = ""
    """local: before an endpoint writes with steering, the model above drafts, steered, and the endpoint rewrites."""
    batch_size: int = Field(default=64, ge=1)
    """Of the local writer."""
    rungs: tuple[Literal["plain", "spans", "steered"], ...] | None = None
    """What is tried, one after the other. Where nothing is said: steered by the model above, spans at an endpoint, and
    with drafts both."""
    strength: float = Field(default=SynthesisSettings.strength, gt=0, le=2 * STRONGEST)
    """Of steering: half of it is tried first, then a search goes on from there."""
    temperature: float = Field(default=SynthesisSettings.temperature, ge=0)
    top_p: float = Field(default=SynthesisSettings.top_p, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=4)
    """Of a message: 64 where nothing is said, 256 at an endpoint."""
    reply_tokens: int | None = Field(default=None, ge=4)
    """Of a reply, where samples have one: 96 where nothing is said, 512 at an endpoint."""
    turns: int = Field(default=1, ge=1, le=3)
    """Of the user, in a written sample; not of A/B questions."""
    n_spans: int = Field(default=SynthesisSettings.n_spans, ge=1)
    steps: Literal[1, 2] = 1
    """2: prompts after the first wave show the candidates that fired the feature most and least."""

    @model_validator(mode="after")
    def _can_write(self) -> Self:
        if self.rungs == ():
            raise ValueError("rungs is empty; name some of plain, spans, steered")
        if self.endpoint and not self.draft and "steered" in (self.rungs or ()):
            raise ValueError(
                "an endpoint cannot be steered; leave steered out of writer.rungs, or set writer.draft to local"
            )
        if self.draft and not self.endpoint:
            raise ValueError("writer.draft is for endpoints; the model above writes by itself")
        return self


class JudgeBlock(Block):
    """Who explains features and judges them: the model above, or a model at an endpoint."""

    endpoint: EndpointBlock | None = None
    batch_size: int = Field(default=32, ge=1)
    """Of the model above."""
    n_spans: int = Field(default=USUAL.n_spans, ge=1)
    """Shown to explain a feature."""
    n_texts: int = Field(default=USUAL.n_texts, ge=4)
    """That an explanation is tested on."""
    texts_per_call: int = Field(default=USUAL.texts_per_call, ge=2)
    max_tokens: int = Field(default=USUAL.max_tokens, ge=8)
    """Of an answer."""


def price_of(endpoint: EndpointBlock | None) -> Price:
    """Of a model's tokens; one in this process costs none."""
    asked = endpoint.price if endpoint else None
    return Price(asked.prompt, asked.written) if asked else Price()
