"""What is sent to an OpenAI-compatible endpoint and what comes back, told apart: pure, nothing here uses the network.

Before: `llm.endpoint` has a status, headers and bytes. After: a `Reply`, or a `Fault` whose kind says what to do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, Literal

from facsynth.records import Reply, Request

RAW_CHARS = 4000
"""Of a body that is no reply, kept for whoever looks into it."""
SEED_RANGE = 1 << 31
_THINK = re.compile(r"\s*<think>.*?(?:</think>\s*|\Z)", re.DOTALL)


class Kind(StrEnum):
    """What went wrong; the word is what the ledger keeps."""

    RATE_LIMIT = "rate limit"
    CONNECTION = "connection"
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


WAITED_FOR = frozenset({Kind.RATE_LIMIT, Kind.CONNECTION})
"""The endpoint's state and no request's fault: waited for, as long as `max_wait_s` allows."""
RETRIED = frozenset({Kind.SERVER, Kind.TIMEOUT, Kind.RESET, Kind.EMPTY, Kind.MALFORMED})
"""May go well the next time; after `max_attempts` a row of the ledger."""
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

    def as_reply(self, latency_s: float, prompt_tokens: int = 0, written_tokens: int = 0) -> Reply:
        """The row of the ledger for a call that stays without text."""
        error, raw = f"{self.kind}: {self.message}", {"body": self.raw} if self.raw else {}
        return Reply("", "error", prompt_tokens, written_tokens, latency_s, error, raw)


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
    request: Request, model: str, api: Literal["chat", "completions"], extra: Mapping[str, Any], *, schemas: bool = True
) -> bytes:
    """The JSON of one request.

    The seed differs by `sample_index`, so that equal requests are answered differently by a server that keeps to seeds.

    Args:
        request: what is asked.
        model: its name at the endpoint.
        api: which route it goes to.
        extra: further fields, or other values for these; None leaves one out.
        schemas: ask for JSON by schema, where the request has one.
    """
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": (request.rng_seed * 1_000_003 + request.sample_index) % SEED_RANGE,
    }
    if api == "chat":
        body["messages"] = [{"role": message.role, "content": message.content} for message in request.messages]
    else:
        body["prompt"] = "\n\n".join([*(message.content for message in request.messages), request.prefix])
    if request.one_line:
        body["stop"] = ["\n"]
    if request.json_schema and schemas:
        schema = {"name": "answer", "strict": True, "schema": json.loads(request.json_schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    body.update(extra)
    text = json.dumps({key: value for key, value in body.items() if value is not None}, ensure_ascii=False)
    return text.encode("utf-8", "replace")  # a lone surrogate becomes ?


def read_response(status: int, headers: Mapping[str, str], data: bytes) -> Answered | Fault:
    """Tell a response apart; a 200 that carries an error counts as that error."""
    try:
        body: Any = json.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as err:
        if status == 200:
            what = "UTF-8" if isinstance(err, UnicodeDecodeError) else "JSON"
            return Fault(Kind.MALFORMED, f"the body is not {what}", raw=_shown(data))
        return _fault(status, headers, "", " ".join(_shown(data).split())[:300], data)
    error = body.get("error") if isinstance(body, dict) else None
    if status != 200 or error:
        code, message = _code_and_message(error if error else body)
        return _fault(_inner_status(code, status), headers, code, message, data)
    return _of_choice(body, _shown(data))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, of a number or a date; None where nothing is said, or nothing that can be read."""
    milliseconds = headers.get("retry-after-ms", "")
    if re.fullmatch(r"\d+(\.\d*)?", milliseconds):
        return float(milliseconds) / 1000
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d*)?", value):
        return float(value)
    try:
        then = parsedate_to_datetime(value)
        now = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
        return max(0.0, (then - now).total_seconds())
    except (ValueError, TypeError):  # no date; or one of the two has a time zone and the other has none
        return None


def _shown(data: bytes) -> str:
    return data[:RAW_CHARS].decode("utf-8", "replace")


def _fault(status: int, headers: Mapping[str, str], code: str, message: str, data: bytes) -> Fault:
    to = f", which points to {headers['location']}" if "location" in headers else ""
    kind = _kind_of(status, f"{code} {message}".lower())
    return Fault(kind, f"{status} {message}".strip() + to, retry_after_s(headers), _shown(data))


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
    return status if status != 200 else 429 if "rate_limit" in code else 400 if "invalid" in code else 500


def _kind_of(status: int, words: str) -> Kind:
    """What a status and the words of its body mean; words come first, since proxies change statuses."""
    about_model = "model" in words and (status == 404 or "not_found" in words or "does not exist" in words)
    kinds = {
        Kind.QUOTA: "insufficient_quota" in words or status == 402,
        Kind.RATE_LIMIT: status == 429,
        Kind.KEY: status in {401, 403},
        Kind.MODEL: about_model,
        Kind.ADDRESS: status == 404 or 300 <= status < 400,
        Kind.FILTER: "content_filter" in words or "content_policy" in words,
        Kind.TIMEOUT: status == 408,
        Kind.SERVER: status >= 500,
        Kind.REQUEST: status >= 400,
    }
    return next((kind for kind, is_so in kinds.items() if is_so), Kind.MALFORMED)


def _of_choice(body: Any, shown: str) -> Answered | Fault:
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list):
        return Fault(Kind.MALFORMED, "there are no choices in it", raw=shown)
    choice = choices[0] if choices and isinstance(choices[0], dict) else {}
    message = choice["message"] if isinstance(choice.get("message"), dict) else {}
    text = message.get("content") if message else choice.get("text")
    reason = str(choice.get("finish_reason") or "stop")
    finish_reason = "length" if reason in {"length", "max_tokens"} else "stop"
    written = _without_thoughts(text) if isinstance(text, str) else ""
    refusal = " ".join(str(message.get("refusal") or "").split())[:300]
    faults = {
        Kind.FILTER: "the endpoint stopped the text" if reason == "content_filter" else "",
        Kind.REFUSAL: refusal,
        Kind.MALFORMED: "" if isinstance(text, str | None) else f"its text is {type(text).__name__}",
        Kind.EMPTY: "" if written.strip() or finish_reason == "length" else f"no text, finish_reason {reason}",
    }
    for kind, why in faults.items():
        if why:
            return Fault(kind, why, raw=shown)
    usage = body["usage"] if isinstance(body.get("usage"), dict) else {}
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    prompt, tokens = (n if type(n) is int and n >= 0 else None for n in counts)
    return Answered(written, finish_reason, prompt, tokens, body)


def _without_thoughts(text: str) -> str:
    """What stands behind a <think> block that a model begins with."""
    return _THINK.sub("", text, count=1) if text.lstrip().startswith("<think>") else text
