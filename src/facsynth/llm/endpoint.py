"""Any OpenAI-compatible endpoint, as fast as it answers: many requests at once, each until it is answered or given up.

Before: `llm.endpoint_writer` knows what was answered before. Inside: `llm.limiter` says how many may be out, `llm.wire`
tells responses apart. After: each reply goes to a `Desk` as it comes, so that a kill costs what is in flight.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

import anyio.from_thread
import httpx

from facsynth.errors import FacsynthError, ModelError
from facsynth.llm.address import EndpointSettings, headers_of, not_working, path_of
from facsynth.llm.limiter import Limiter
from facsynth.llm.wire import FREE, RETRIED, WAITED_FOR, Answered, Fault, Kind, body_of, read_response
from facsynth.records import Request

MAX_BODY = 16 << 20
"""Bytes, unpacked. A reply of 100,000 tokens has half a megabyte."""
FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 30.0
FIRST_CONNECTIONS = 3
"""So often an endpoint that never answered is tried."""
Response = tuple[int, Mapping[str, str], bytes]
"""Status, headers and body."""


class Desk(Protocol):
    """Who keeps what is asked and answered."""

    async def intend(self, number: int) -> None:
        """Before request `number` is sent, each time; raises where it may not be."""

    async def settle(self, number: int, found: Answered | Fault, latency_s: float) -> None:
        """What became of it in the end."""

    def lose(self, number: int) -> None:
        """It was sent, may have been written and paid for, and no reply came."""

    def spare(self, number: int) -> None:
        """It was sent, and nothing was written for it."""


class Endpoint:
    """A connection to an endpoint, used as a context; its event loop runs in a thread of its own."""

    def __init__(self, settings: EndpointSettings, tell: Callable[[float, str], None] | None = None) -> None:
        """Nothing is sent yet.

        Args:
            settings: which, and how.
            tell: called with seconds and reason when everything waits.

        Raises:
            SettingsError: the address is none, or the key cannot be sent.
        """
        self.settings = settings
        self._path = path_of(settings)
        self._headers = headers_of(settings)
        self._tell = tell or (lambda seconds, why: None)
        self._ever_answered = False
        self.takes_schemas = True
        """Until it refuses one."""
        self._asking: set[asyncio.Task[Any]] = set()

    def __enter__(self) -> Self:
        self._context = anyio.from_thread.start_blocking_portal()
        self._portal = self._context.__enter__()
        self._portal.call(self._open)
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the connections; what is still out, after an error elsewhere, is not waited for."""
        self._portal.call(self._close)
        self._context.__exit__(None, None, None)

    async def _close(self) -> None:
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)
        await self._client.aclose()

    async def _open(self) -> None:
        s = self.settings
        self._limiter = Limiter(s.concurrency, s.max_wait_s, self._tell)
        self._client = httpx.AsyncClient(
            base_url=s.url, headers=self._headers, timeout=s.timeout_s,
            limits=httpx.Limits(max_connections=s.concurrency, max_keepalive_connections=s.concurrency),
        )  # fmt: skip

    def described(self) -> dict[str, Any] | None:
        """What the endpoint says of the model; None where it does not say what it has.

        Raises:
            ModelError: it does not answer, refuses the key, or has other models only.
        """
        response = self._portal.call(self._fetch, "GET", "models")
        found = response if isinstance(response, Fault) else _models_in(*response)
        if isinstance(found, Fault):
            if found.kind in {Kind.KEY, Kind.CONNECTION, Kind.TIMEOUT, Kind.RESET}:
                raise not_working(self.settings, found)
            return None
        entry = next((entry for entry in found if entry.get("id") == self.settings.model), None)
        if found and entry is None:
            names = ", ".join(str(entry.get("id")) for entry in found[:8]) + " …" * (len(found) > 8)
            raise ModelError(f"{self.settings.url} has no model {self.settings.model!r}\nIt has {names}.")
        return entry

    def ask(self, requests: Sequence[Request], desk: Desk) -> None:
        """Send all requests and hand what comes back to `desk`, in any order.

        Raises:
            ModelError: every request would fail; those that are out are waited for and kept.
            IncompleteError: the endpoint let nothing through for `max_wait_s`, or the desk takes no more.
        """
        self._portal.call(self._ask, requests, desk)

    async def _ask(self, requests: Sequence[Request], desk: Desk) -> None:
        numbers = iter(range(len(requests)))
        stop: list[FacsynthError] = []

        async def work() -> None:
            for number in numbers:
                if stop:
                    return
                try:
                    await self._answer(number, requests[number], desk, stop)
                except FacsynthError as err:
                    stop.append(err)
                    self._limiter.wake_all()

        n = self.settings.concurrency
        # A few more than there are slots: a reply is written down while the next request goes out.
        workers = [asyncio.create_task(work()) for _ in range(min(len(requests), n + n // 4 + 1))]
        self._asking.update(workers)
        try:
            await asyncio.gather(*workers)
        finally:  # after a bug, the others would go on
            for worker in workers:
                worker.cancel()
            self._asking.difference_update(workers)
        if stop:
            raise stop[0]

    async def _answer(self, number: int, request: Request, desk: Desk, stop: Sequence[FacsynthError]) -> None:
        """One request to its end; left open where another one found that all are to stop."""
        waits, attempts = _waits(), 0
        while (sent := await self._attempt(number, request, desk, stop)) is not None:
            found, latency_s, with_schema = sent
            if isinstance(found, Answered):
                self._ever_answered = True
                return await desk.settle(number, found, latency_s)
            (desk.spare if found.kind in FREE else desk.lose)(number)
            if self._is_waited_for(found):
                continue
            if with_schema and _refuses_schemas(found):
                self.takes_schemas = False
                continue
            attempts += 1
            if self._stops_all(found, attempts):
                raise not_working(self.settings, found)
            if found.kind not in RETRIED | {Kind.CONNECTION} or attempts >= self.settings.max_attempts:
                return await desk.settle(number, found, latency_s)
            asked_for = found.retry_after_s or 0.0
            await asyncio.sleep(max(next(waits), min(asked_for, self.settings.max_wait_s)))
        return None

    async def _attempt(
        self, number: int, request: Request, desk: Desk, stop: Sequence[FacsynthError]
    ) -> tuple[Answered | Fault, float, bool] | None:
        """Send it once, as soon as there is a slot: what came, when, and whether it was asked to hold to a schema.

        None where all are to stop by then.
        """
        if stop:
            return None
        slot_at = await self._limiter.acquire()
        try:
            if stop:
                return None
            s, with_schema = self.settings, bool(request.json_schema) and self.takes_schemas
            body = body_of(request, s.model, s.api, s.extra, schemas=with_schema)
            await desk.intend(number)
            started = time.monotonic()
            response = await self._fetch("POST", self._path, body)
            found = response if isinstance(response, Fault) else read_response(*response)
            if isinstance(found, Answered):
                self._limiter.succeeded()
            elif self._is_waited_for(found):
                cut = found.kind is Kind.RATE_LIMIT
                self._limiter.limited(slot_at, found.retry_after_s, found.message, cut=cut)
            return found, time.monotonic() - started, with_schema
        finally:
            self._limiter.release()

    def _is_waited_for(self, found: Fault) -> bool:
        """No request's fault: a limit, or an endpoint that went away."""
        return found.kind in WAITED_FOR and (self._ever_answered or found.kind is Kind.RATE_LIMIT)

    def _stops_all(self, found: Fault, attempts: int) -> bool:
        """Whether every other request would end the same way; of what never answered, what the first ones show."""
        if found.kind in {Kind.KEY, Kind.MODEL, Kind.QUOTA, Kind.ADDRESS}:
            return True
        if self._ever_answered:
            return False
        return found.kind is Kind.REQUEST or (found.kind is Kind.CONNECTION and attempts >= FIRST_CONNECTIONS)

    async def _fetch(self, method: str, path: str, body: bytes | None = None) -> Response | Fault:
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                async with self._client.stream(method, path, content=body) as response:
                    data = bytearray()
                    async for part in response.aiter_bytes():
                        data += part
                        if len(data) > MAX_BODY:
                            return Fault(Kind.TOO_LARGE, f"the body has more than {MAX_BODY >> 20} MB")
                    return response.status_code, response.headers, self._without_key(bytes(data))
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as err:
            return Fault(Kind.CONNECTION, str(err) or type(err).__name__)
        except (TimeoutError, httpx.TimeoutException):
            return Fault(Kind.TIMEOUT, f"no whole response in {self.settings.timeout_s:g} s")
        except httpx.DecodingError as err:
            return Fault(Kind.MALFORMED, f"the body cannot be unpacked: {err}")
        except httpx.HTTPError as err:
            return Fault(Kind.RESET, str(err) or type(err).__name__)

    def _without_key(self, data: bytes) -> bytes:
        """Endpoints repeat keys in their errors; from here on, it is nowhere."""
        key = self._headers.get("authorization", "").removeprefix("Bearer ").encode()
        return data.replace(key, b"***") if key else data


def _models_in(status: int, headers: Mapping[str, str], data: bytes) -> list[dict[str, Any]] | Fault:
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


def _refuses_schemas(found: Fault) -> bool:
    """Whether a request was refused for the JSON Schema in it."""
    words = found.message.lower()
    return found.kind is Kind.REQUEST and any(word in words for word in ("response_format", "json_schema", "schema"))


def _waits() -> Iterator[float]:
    """Seconds before the next attempts, jittered so that requests that failed together do not come together."""
    wait = FIRST_RETRY_S
    while True:
        yield wait * random.uniform(0.5, 1.5)
        wait = min(LONGEST_RETRY_S, 2 * wait)
