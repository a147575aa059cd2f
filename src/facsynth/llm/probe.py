"""Whether an endpoint does what it will be asked for: model and key, a text, JSON by schema; one request each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from facsynth.errors import FacsynthError
from facsynth.llm.address import EndpointSettings
from facsynth.llm.endpoint import Endpoint
from facsynth.llm.structured import Answer
from facsynth.llm.wire import Answered, Fault
from facsynth.records import Message, Request
from facsynth.store import canonical_json

MAX_TOKENS, MAX_WAIT_S = 64, 20.0


class Ready(Answer):
    """What the probe asks for as JSON."""

    ready: bool


@dataclass(frozen=True)
class Probed:
    """One thing that was tried."""

    what: str
    works: bool
    found: str


class _Noted:
    """A `Desk` for one request that is kept nowhere."""

    def __init__(self) -> None:
        self.found: Answered | Fault | None = None
        self.latency_s = 0.0

    async def intend(self, number: int) -> None:
        pass

    async def settle(self, number: int, found: Answered | Fault, latency_s: float) -> None:
        self.found, self.latency_s = found, latency_s

    def lose(self, number: int) -> None:
        pass

    def spare(self, number: int) -> None:
        pass


def probe(settings: EndpointSettings) -> list[Probed]:
    """Try an endpoint; what cannot be tried after a failure is left out."""
    rows: list[Probed] = []
    try:
        with Endpoint(replace(settings, max_wait_s=min(settings.max_wait_s, MAX_WAIT_S))) as endpoint:
            entry = endpoint.described()
            rows.append(Probed("model", True, _known(entry) if entry else "it does not list its models"))
            rows.append(_text(endpoint))
            if settings.api == "chat":
                rows.append(_json(endpoint))
    except FacsynthError as err:
        rows.append(Probed("model" if not rows else "text", False, " ".join(str(err).split())))
    return rows


def _known(entry: dict[str, Any]) -> str:
    shown = {key: entry[key] for key in ("id", "owned_by", "max_model_len") if entry.get(key)}
    return ", ".join(f"{key} {value}" for key, value in shown.items())


def _text(endpoint: Endpoint) -> Probed:
    desk = _Noted()
    endpoint.ask([_request("Write the word ready and nothing more.")], desk)
    if not isinstance(desk.found, Answered):
        return Probed("text", False, _why(desk.found))
    counts = (
        "its tokens are not counted" if desk.found.written_tokens is None else f"{desk.found.written_tokens} tokens"
    )
    return Probed("text", True, f"{desk.latency_s:.2f} s, {counts}")


def _json(endpoint: Endpoint) -> Probed:
    desk, schema = _Noted(), canonical_json(Ready.model_json_schema())
    endpoint.ask([_request('Answer with the JSON {"ready": true} and nothing more.', schema)], desk)
    if not isinstance(desk.found, Answered):
        return Probed("JSON by schema", False, _why(desk.found))
    if not endpoint.takes_schemas:
        return Probed("JSON by schema", True, "it is not offered; answers are read and repaired here")
    try:
        Ready.model_validate_json(desk.found.text)
    except ValueError:
        return Probed("JSON by schema", True, "offered, and not kept to; answers are read and repaired here")
    return Probed("JSON by schema", True, "kept to")


def _request(text: str, schema: str = "") -> Request:
    return Request((Message("user", text),), MAX_TOKENS, 0.0, 1.0, 0, json_schema=schema)


def _why(found: Fault | None) -> str:
    return f"{found.kind}: {found.message}" if found else "no reply"
