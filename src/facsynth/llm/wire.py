"""What is sent to an OpenAI-compatible endpoint and what comes back, told apart: pure, nothing here uses the network.

Before: `llm.endpoint` has a status, headers and bytes. After: a `Reply`, or a `Fault` whose kind says what to do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from facsynth.llm.limiter import retry_after_s
from facsynth.records import Reply, Request

RAW_CHARS = 4000
"""Of a body that is no reply, kept for whoever looks into it."""
SEED_RANGE, MOST_TOKENS = 1 << 31, 1 << 31
_THINK = re.compile(r"(?:\s*<think>)?(?:(?!<think>).)*?</think>\s*|\s*<think>.*\Z", re.DOTALL)
"""The tag that opens it may stand in the template, behind the prompt."""


NO_CREDIT = ("insufficient_quota", "credit balance", "billing_hard_limit")
LATER = ("retry in", "resource_exhausted")
"""A quota that fills up again."""
FLAGGED = ("content_filter", "content_policy", "moderation", "flagged")
BROKEN_OFF = ("abort", "error", "cancel", "insufficient", "fail", "timeout")
"""Parts of a finish_reason by which an endpoint says that the text is not whole."""
TOO_LONG = ("context_length_exceeded", "maximum context length", "request too large", "prompt is too long")


class Kind(StrEnum):
    """What went wrong; the word is what the ledger keeps."""

    RATE_LIMIT = "rate limit"
    CONNECTION = "connection"
    UNAVAILABLE = "unavailable"
    SERVER = "server error"
    TIMEOUT = "timeout"
    RESET = "reset"
    EMPTY = "empty"
    MALFORMED = "malformed"
    TOO_LARGE = "too large"
    FILTER = "content filter"
    REFUSAL = "refusal"
    REQUEST = "bad request"
    KEY = "key"
    MODEL = "model"
    QUOTA = "quota"
    ADDRESS = "address"


COUNTED = frozenset({Kind.FILTER, Kind.REFUSAL, Kind.TOO_LARGE})
"""The endpoint did what it does with such a request, and paid it is like a reply."""
RETRIED = frozenset({Kind.UNAVAILABLE, Kind.SERVER, Kind.TIMEOUT, Kind.RESET, Kind.EMPTY, Kind.MALFORMED})
"""May go well the next time; after `max_attempts` a row of the ledger."""
PASSING = frozenset({Kind.CONNECTION, Kind.UNAVAILABLE, Kind.SERVER, Kind.TIMEOUT, Kind.RESET, Kind.MALFORMED})
"""Says more of the endpoint than of the request: a later command may ask again."""
STOPPING = frozenset({Kind.KEY, Kind.MODEL, Kind.QUOTA, Kind.ADDRESS})
"""Every other request would end the same way."""
FREE = frozenset({Kind.RATE_LIMIT, Kind.CONNECTION, Kind.REQUEST, *STOPPING})
"""Nothing was written for it. Of all others, but for replies, what was reserved counts as spent."""


@dataclass(frozen=True)
class Fault:
    """A response that is no reply, or none at all."""

    kind: Kind
    message: str
    retry_after_s: float | None = None
    raw: str = ""
    counts: tuple[int, int] | None = None
    """Prompt and written tokens, where the endpoint counted them."""

    def as_reply(self, latency_s: float) -> Reply:
        """The row of the ledger for a call that stays without text."""
        error, raw = f"{self.kind}: {self.message}", {"body": self.raw} if self.raw else {}
        return Reply("", "error", *(self.counts or (0, 0)), latency_s, error, raw)


@dataclass(frozen=True)
class Answered:
    """A reply as the endpoint counted it."""

    text: str
    finish_reason: str
    prompt_tokens: int | None
    """None where it did not say."""
    written_tokens: int | None
    raw: dict[str, Any]


def body_of(
    request: Request,
    model: str,
    api: Literal["chat", "completions"],
    extra: Mapping[str, Any],
    *,
    schemas: bool = True,
    limit_field: str = "max_tokens",
) -> bytes:
    """The JSON of one request.

    The seed differs by `sample_index`, so that equal requests are answered differently by a server that keeps to seeds.

    Args:
        request: what is asked.
        model: its name at the endpoint.
        api: which route it goes to.
        extra: further fields, or other values for these; None leaves one out.
        schemas: ask for JSON by schema, where the request has one.
        limit_field: what the endpoint calls the most tokens it may write.
    """
    body: dict[str, Any] = {
        "model": model,
        limit_field: request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": (request.rng_seed * 1_000_003 + request.sample_index) % SEED_RANGE,
    }
    if api == "chat":
        body["messages"] = [{"role": message.role, "content": message.content} for message in request.messages]
    else:
        body["prompt"] = "\n\n".join([*(message.content for message in request.messages), request.prefix])
    if request.stop:
        body["stop"] = [request.stop]
    if request.json_schema and schemas:
        schema = {"name": "answer", "strict": True, "schema": json.loads(request.json_schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    body.update(extra)
    text = json.dumps({key: value for key, value in body.items() if value is not None}, ensure_ascii=False)
    return text.encode("utf-8", "replace")  # a lone surrogate becomes ?


def read_response(status: int, headers: Mapping[str, str], data: bytes) -> Answered | Fault:
    """Tell a response apart; a 200 that carries an error counts as that error."""
    try:
        body: Any = json.loads(data.decode("utf-8"), parse_constant=lambda name: None)  # NaN and Infinity are no JSON
    except (UnicodeDecodeError, ValueError, RecursionError) as err:
        if status == 200:
            what = "UTF-8" if isinstance(err, UnicodeDecodeError) else "JSON"
            return Fault(Kind.MALFORMED, f"the body is not {what}", raw=_shown(data))
        return _fault(status, headers, "", " ".join(_shown(data).split())[:300], data)
    error = (body.get("error") or _first_choice(body).get("error")) if isinstance(body, dict) else None
    if status != 200 or error:
        code, message = _code_and_message(error if error else body)
        return _fault(_inner_status(code, status), headers, code, message, data)
    return _of_choice(body, _shown(data))


def models_in(status: int, headers: Mapping[str, str], data: bytes) -> list[dict[str, Any]] | Fault:
    """The entries of /v1/models."""
    if status != 200:
        found = read_response(status, headers, data)
        assert isinstance(found, Fault), "only a 200 can be a reply"
        return found
    try:
        body = json.loads(data)
    except ValueError:
        return Fault(Kind.MALFORMED, "the list of models is not JSON")
    listed = body.get("data") if isinstance(body, dict) else None
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []


def refuses_schemas(found: Fault) -> bool:
    """Whether a request was refused for the JSON Schema in it."""
    words = found.message.lower()
    return found.kind is Kind.REQUEST and any(word in words for word in ("response_format", "json_schema", "schema"))


def _shown(data: bytes) -> str:
    return data[:RAW_CHARS].decode("utf-8", "replace")


def is_too_long(found: Fault) -> bool:
    """Whether a request was refused for its length."""
    return any(word in found.message.lower() for word in TOO_LONG)


def _fault(status: int, headers: Mapping[str, str], code: str, message: str, data: bytes) -> Fault:
    to = f", which points to {headers['location'].partition('?')[0]}" if "location" in headers else ""
    words, after = f"{code} {message}".lower(), retry_after_s(headers)
    if after is None and (told := re.search(r"retry in (\d+(?:\.\d+)?) ?s", words)):
        after = float(told[1])
    return Fault(_kind_of(status, words, after), f"{status} {message}".strip() + to, after, _shown(data))


def _code_and_message(error: Any) -> tuple[str, str]:
    """The code of an error body, in whatever layout, and its words."""
    if not isinstance(error, dict):
        return "", str(error)[:300]
    code = error.get("code") or error.get("type") or ""
    message = error.get("message") or error.get("detail") or error
    return str(code), " ".join(str(message).split())[:300]


def _inner_status(code: str, status: int) -> int:
    """The status that a 200 with an error inside should have had; of proxies that pass a status on as the code."""
    if re.fullmatch(r"[45]\d\d", code):
        return int(code)
    named = {"api_key": 401, "rate_limit": 429, "invalid": 400}
    return status if status != 200 else next((inner for word, inner in named.items() if word in code), 500)


def _kind_of(status: int, words: str, after_s: float | None) -> Kind:
    """What a status and the words of its body mean; words come first, since proxies change statuses."""
    about_model = "model" in words and (status == 404 or "not_found" in words or "does not exist" in words)
    is_later = after_s is not None or any(word in words for word in LATER)
    no_credit = any(word in words for word in NO_CREDIT) or ("exceeded your current quota" in words and not is_later)
    kinds = {
        Kind.QUOTA: no_credit or status == 402,
        Kind.FILTER: any(word in words for word in FLAGGED) and status in {400, 403, 422},
        Kind.REQUEST: any(word in words for word in TOO_LONG) and status in {400, 413, 422, 429},
        Kind.RATE_LIMIT: status == 429,
        Kind.KEY: status in {401, 403},
        Kind.MODEL: about_model and status in {400, 404},
        Kind.ADDRESS: status == 404 or 300 <= status < 400,
        Kind.TIMEOUT: status in {408, 504},
        Kind.UNAVAILABLE: status in {502, 503, 529},
        Kind.SERVER: status >= 500,
    }
    other = Kind.REQUEST if status >= 400 else Kind.MALFORMED
    return next((kind for kind, is_so in kinds.items() if is_so), other)


def _of_choice(body: Any, shown: str) -> Answered | Fault:
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list):
        found = ", ".join(map(str, list(body)[:8])) if isinstance(body, dict) else f"a {type(body).__name__}"
        return Fault(Kind.MALFORMED, f"there are no choices in it, as that API has: it holds {found}", raw=shown)
    choice = _first_choice(body)
    message = choice["message"] if isinstance(choice.get("message"), dict) else {}
    text = _joined(message.get("content") if message else choice.get("text"))
    reason = str(choice.get("finish_reason") or "stop")
    finish_reason = "length" if reason in {"length", "max_tokens"} else "stop"
    written = _without_thoughts(text) if isinstance(text, str) else ""
    refusal = " ".join(str(message.get("refusal") or "").split())[:300]
    is_broken = any(word in reason.lower() for word in BROKEN_OFF)
    faults = {
        Kind.FILTER: "the endpoint stopped the text" if reason == "content_filter" else "",
        Kind.SERVER: f"broken off, finish_reason {reason}" if is_broken else "",
        Kind.REFUSAL: refusal,
        Kind.MALFORMED: "" if isinstance(text, str | None) else f"its text is {type(text).__name__}",
        Kind.EMPTY: "" if written.strip() or finish_reason == "length" else f"no text, finish_reason {reason}",
    }
    prompt, tokens = _counts(body.get("usage"))
    if written and not prompt and not tokens:  # a text that cost nothing was not counted
        prompt = tokens = None
    for kind, why in faults.items():
        if why:
            is_known = kind in COUNTED and prompt is not None and tokens is not None
            return Fault(kind, why, raw=shown, counts=(prompt or 0, tokens or 0) if is_known else None)
    return Answered(written, finish_reason, prompt, tokens, body)


def _first_choice(body: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = body.get("choices")
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}


def _joined(content: Any) -> Any:
    """The text of a content, of one in parts too."""
    if not isinstance(content, list):
        return content
    return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))


def _counts(usage: Any) -> tuple[int | None, int | None]:
    """Prompt and written tokens; None where it does not say, or what cannot be; some count thoughts in the total."""
    usage = usage if isinstance(usage, dict) else {}
    found = (usage.get(f"{name}_tokens") for name in ("prompt", "completion", "total"))
    prompt, written, total = (n if type(n) is int and 0 <= n < MOST_TOKENS else None for n in found)
    if prompt is not None and written is not None and total is not None:
        written = max(written, total - prompt)
    return prompt, written


def _without_thoughts(text: str) -> str:
    """What stands behind a <think> block that a model begins with."""
    found = _THINK.match(text)
    return text[found.end() :] if found else text
