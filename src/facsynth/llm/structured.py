"""Answers as JSON of a given form: strictly read, else repaired, else asked for once more; what fails is never a value.

Before: a stage has requests and the form of an answer, a pydantic model. After: answers, or failures with the raw text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import json_repair
from pydantic import BaseModel, ConfigDict, ValidationError

from facsynth import prompts
from facsynth.llm.longer import write_to_end
from facsynth.protocols import Writer
from facsynth.records import Failure, Message, Reply, Request
from facsynth.store import canonical_json

REPAIRED_CHARS = 20_000
"""Of a longer reply nothing is repaired: it is no answer of a small form, and repair takes time."""
RAW_CHARS = 2000
SHOWN_CHARS = 300
N_TRIES = 2
"""Of an answer that its `max_tokens` cut."""


class Answer(BaseModel):
    """Base of the forms of answers: no key that was not asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_A = TypeVar("_A", bound=Answer)


def ask_json(writer: Writer, requests: Sequence[Request], form: type[_A]) -> list[_A | Failure]:
    """Ask, read the answers as `form`, and ask once more what could not be read, saying why.

    Args:
        writer: answers; one that can hold to a JSON Schema is given that of `form`.
        requests: whose prompts say in words which JSON they want.
        form: what an answer is.

    Returns:
        For each request its answer, or a failure with the number of the request, the reason and the raw text.
    """
    schema = canonical_json(form.model_json_schema())
    asked = [replace(request, json_schema=schema) for request in requests]
    replies = write_to_end(writer, asked, N_TRIES)
    found = [_read(reply, form) for reply in replies]
    again = [i for i, answer in enumerate(found) if isinstance(answer, str) and not replies[i].error]
    retried = write_to_end(writer, [_asked_again(asked[i], replies[i].text, str(found[i])) for i in again], N_TRIES)
    for i, reply in zip(again, retried, strict=True):
        if reply.error:  # what it did say stays
            found[i] = f"{reply.error}; asked because of the first answer: {found[i]}"
        else:
            replies[i], found[i] = reply, _read(reply, form)
    return [
        Failure(f"request {i}", answer, replies[i].text[:RAW_CHARS]) if isinstance(answer, str) else answer
        for i, answer in enumerate(found)
    ]


def _read(reply: Reply, form: type[_A]) -> _A | str:
    """The answer, or why there is none."""
    if reply.error:
        return reply.error
    try:
        return form.model_validate(json.loads(reply.text))
    except ValidationError as err:
        strict = _told(err)
    except (ValueError, RecursionError) as err:
        strict = f"it is not JSON: {err}"
    if len(reply.text) > REPAIRED_CHARS or reply.finish_reason == "length":  # repair would end a cut answer somehow
        return strict
    try:
        return form.model_validate(_repaired(reply.text))
    except (ValidationError, ValueError, RecursionError):
        return strict


def _repaired(text: str) -> Any:
    """What stands between the outermost braces, mended: fences, trailing commas, missing quotes."""
    start = text.find("{")
    return json_repair.loads(text[start:]) if start >= 0 else None


def _told(err: ValidationError) -> str:
    """The first things that are wrong, by their names."""
    parts = [f"{'.'.join(map(str, e['loc'])) or 'the answer'}: {e['msg']}" for e in err.errors()[:3]]
    return "; ".join(parts)[:SHOWN_CHARS]


def _asked_again(request: Request, text: str, error: str) -> Request:
    again = (Message("assistant", text[:RAW_CHARS]), Message("user", prompts.fill("answer_again", error=error)))
    return replace(request, messages=(*request.messages, *again))
