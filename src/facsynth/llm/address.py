"""Which model at which address, what goes into every request's headers, and what is said where it does not work."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

from facsynth import __version__
from facsynth.errors import FacsynthError, IncompleteError, ModelError, SettingsError
from facsynth.llm.wire import Fault, Kind


@dataclass(frozen=True)
class EndpointSettings:
    """A model at an endpoint, and how hard it is asked."""

    url: str
    """As `https://api.example.org/v1`: what the OpenAI client calls base_url."""
    model: str
    api: Literal["chat", "completions"] = "chat"
    key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; without it none is sent."""
    concurrency: int = 64
    """Never more requests at once."""
    timeout_s: float = 300.0
    """For a whole response."""
    max_attempts: int = 5
    """Of one request, where the endpoint fails."""
    max_wait_s: float = 3600.0
    """For a first reply after the endpoint began to limit, or went away."""
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls the most tokens it may write."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of a request's body, as `check_extra` allows; null leaves one out."""


KEPT = {
    "model", "messages", "prompt", "stream", "n", "best_of", "echo", "max_tokens", "max_completion_tokens", "n_predict",
    "num_predict", "max_new_tokens", "options",
}  # fmt: skip
"""Fields of a request that `extra` may not change: replies could not be read, or not be paid within a cap."""


def check_extra(extra: Mapping[str, Any]) -> None:
    """Refuse further fields that cannot be sent, or would make a cap untrue.

    Raises:
        SettingsError: naming them.
    """
    if taken := sorted(KEPT & set(extra)):
        raise SettingsError(
            f"endpoint.extra sets {', '.join(taken)}, which facsynth sets itself\n"
            "Leave it out; writer.max_tokens says how long a reply may be, endpoint.limit_field what that is called."
        )
    try:
        json.dumps(dict(extra), allow_nan=False)
    except (TypeError, ValueError) as err:
        raise SettingsError(f"endpoint.extra cannot be sent as JSON: {err}\nGive text and numbers alone.") from err


def parsed(url: str) -> SplitResult:
    """The parts of an address.

    Raises:
        SettingsError: it is none.
    """
    with suppress(ValueError):  # brackets, a port, a name that cannot be
        parts = urlsplit(url)
        if parts.scheme in {"http", "https"} and parts.port != 0 and (parts.hostname or "").encode("idna"):
            return parts
    raise SettingsError(f"{url!r} is no address of an endpoint\nGive one as http://localhost:8000/v1.")


def path_of(settings: EndpointSettings) -> str:
    """The route that requests go to, behind the address."""
    return "chat/completions" if settings.api == "chat" else "completions"


def headers_of(settings: EndpointSettings) -> dict[str, str]:
    """Of every request, the key among them where the environment holds one.

    Raises:
        SettingsError: the address is none, or holds a key; the key is none; `extra` is not allowed.
    """
    check_extra(settings.extra)
    parts = parsed(settings.url)
    if parts.username or parts.password or parts.query:
        raise SettingsError(
            "the address of the endpoint holds more than an address\n"
            f"Keys come from the environment alone: set {settings.key_env}, and give http://host/v1."
        )
    headers = {"content-type": "application/json", "user-agent": f"facsynth/{__version__}"}
    key = os.environ.get(settings.key_env, "").strip()
    if not key.isascii() or not key.isprintable():
        raise SettingsError(f"the key in ${settings.key_env} holds characters that no key has\nSet it again.")
    return headers | ({"authorization": f"Bearer {key}"} if key else {})


def not_working(settings: EndpointSettings, found: Fault) -> FacsynthError:
    """A fault that stops everything, with the way out."""
    is_set = bool(os.environ.get(settings.key_env, "").strip())
    key = f"See the key in ${settings.key_env}." if is_set else f"Give it a key: ${settings.key_env} is not set."
    ways = {
        Kind.KEY: key,
        Kind.MODEL: f"Give a model that it has (asked for {settings.model!r}).",
        Kind.RATE_LIMIT: "The same command goes on, later.",
        Kind.QUOTA: "See the account. What was answered is kept; the same command goes on.",
        Kind.ADDRESS: f"Give the address that ends before /{path_of(settings)}, often in /v1.",
        Kind.CONNECTION: "Is the server running, and is this its address?",
        Kind.TIMEOUT: "Is it loading the model, or busy? The same command goes on; endpoint.timeout_s waits longer.",
        Kind.REQUEST: "Change or leave out fields of the request (endpoint.extra).",
    }
    kind = IncompleteError if found.kind in {Kind.QUOTA, Kind.RATE_LIMIT, Kind.TIMEOUT} else ModelError
    return kind(f"{settings.url} does not work: {found.message}\n{ways.get(found.kind, 'Try again.')}")
