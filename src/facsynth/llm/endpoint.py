"""Any OpenAI-compatible endpoint, as fast as it answers: many requests at once, each until it is answered or given up.

Before: `llm.endpoint_writer` knows what was answered before. Inside: `llm.limiter` says how many may be out, `llm.wire`
tells responses apart. After: each reply goes to a `Desk` as it comes, so that a kill costs what is in flight.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, Self, TypeGuard

import anyio.from_thread
import httpx

from facsynth.errors import FacsynthError, IncompleteError, ModelError, SettingsError
from facsynth.llm.address import EndpointSettings, headers_of, not_working, path_of
from facsynth.llm.connections import Connections
from facsynth.llm.limiter import Limiter
from facsynth.llm.wire import (
    COUNTED,
    FREE,
    PASSING,
    RETRIED,
    STOPPING,
    Answered,
    Fault,
    Kind,
    body_of,
    is_too_long,
    models_in,
    read_response,
    refuses_schemas,
)
from facsynth.records import Request

FIRST_RETRY_S, LONGEST_RETRY_S, TOLD_S = 0.5, 30.0, 5.0
OUTAGE_S = 300.0
"""So long a proxy may say that there is nothing behind it before a request is given up."""
FIRST_TRIES, FEW_TRIES = 3, 2
"""So often an endpoint that never answered is tried; and so often what will hardly end in another way."""


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
            tell: called with seconds and reason before a long wait, and after an attempt that was one.

        Raises:
            SettingsError: the address is none, or the key cannot be sent.
        """
        self.settings = settings
        self._path = path_of(settings)
        self._headers = headers_of(settings)
        self._tell = tell or (lambda seconds, why: None)
        self._began_at = 0.0
        """When the first request went out."""
        self.takes_schemas = True
        """Until it refuses one."""
        self.has_answered = False
        """Ever; whoever knows it from before may say so."""
        self._answered_here = False
        self._n_refused = 0
        """Requests, before anything was answered here."""
        self._held: list[tuple[Desk, int, Fault, float]] = []
        """Those of them that are out: whether they are at fault, or the endpoint, is not known yet."""
        self._asking: dict[asyncio.Task[None], list[FacsynthError]] = {}
        """What is at work, each with what makes it stop."""

    def __enter__(self) -> Self:
        self._context = anyio.from_thread.start_blocking_portal()
        self._portal = self._context.__enter__()
        try:
            self._portal.call(self._open)
        except (ImportError, OSError, ValueError, httpx.InvalidURL) as err:
            # Of a proxy or certificates that the environment names.
            self._context.__exit__(None, None, None)
            found = f"{self.settings.url} cannot be connected to: {err}"
            raise SettingsError(f"{found}\nSee ALL_PROXY, SSL_CERT_FILE and the like in the environment.") from err
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let go of the connections. After an error elsewhere what is out is waited for and kept; not after Ctrl-C."""
        self._portal.call(self._close, kind is None or issubclass(kind, Exception))
        self._context.__exit__(None, None, None)

    async def _close(self, is_orderly: bool) -> None:
        for task, stop in self._asking.items():
            if is_orderly:
                stop.append(IncompleteError("the endpoint is let go of"))
            else:
                task.cancel()
        self._limiter.wake_all()
        await asyncio.gather(*self._asking, return_exceptions=True)
        await self._connections.close()

    async def _open(self) -> None:
        s = self.settings
        self._limiter = Limiter(s.concurrency, s.max_wait_s, self._tell)
        self._connections = Connections(s, self._headers)

    def described(self) -> dict[str, Any] | None:
        """What the endpoint says of the model; None where it does not say what it has.

        Raises:
            ModelError: it does not answer, refuses the key, or has other models only.
            IncompleteError: it limits.
        """
        found = self._portal.call(self._models)
        if isinstance(found, Fault):
            if found.kind in {Kind.ADDRESS, Kind.MODEL, Kind.REQUEST}:
                return None
            raise not_working(self.settings, found)
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

    async def _models(self) -> list[dict[str, Any]] | Fault:
        """The entries of /v1/models; a fault that passes has some time to."""
        waits = _waits()
        for n_left in reversed(range(FIRST_TRIES)):
            response = await self._connections.fetch("GET", "models")
            found = response if isinstance(response, Fault) else models_in(*response)
            if not n_left or not isinstance(found, Fault) or found.kind not in RETRIED | {Kind.RATE_LIMIT}:
                return found
            await asyncio.sleep(self._pause(next(waits), found))
        raise AssertionError

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
        self._asking.update(dict.fromkeys(workers, stop))
        try:
            await asyncio.gather(*workers)
        finally:  # after a bug, the others would go on
            for worker in workers:
                worker.cancel()
                del self._asking[worker]
        for held in [held for held in self._held if held[0] is desk]:
            self._held.remove(held)
            desk.spare(held[1])
            if not stop:
                await desk.settle(*held[1:])
        if stop:
            raise stop[0]

    async def _answer(self, number: int, request: Request, desk: Desk, stop: Sequence[FacsynthError]) -> None:
        """One request to its end; left open where another one found that all are to stop."""
        waits, attempts, away_since = _waits(), 0, 0.0
        while (sent := await self._attempt(number, request, desk, stop)) is not None:
            found, latency_s, with_schema = sent
            if isinstance(found, Answered) or found.kind in COUNTED:
                return await desk.settle(number, found, latency_s)
            is_schema = with_schema and refuses_schemas(found)
            if found.kind is Kind.REQUEST and not (is_schema or self._answered_here or is_too_long(found)):
                self._n_refused += 1
                self._held.append((desk, number, found, latency_s))
                if self._n_refused < FEW_TRIES:
                    return None
                raise not_working(self.settings, found)
            (desk.spare if found.kind in FREE else desk.lose)(number)
            if self._is_waited_for(found):
                continue
            if is_schema:
                self.takes_schemas = False
                continue
            attempts += 1
            if self._stops_all(found, attempts):
                raise not_working(self.settings, found)
            if found.kind is Kind.UNAVAILABLE:
                away_since = away_since or time.monotonic()
            if self._is_given_up(found, attempts, time.monotonic() - away_since):
                return await desk.settle(number, found, latency_s)
            await self._limiter.sleep(self._pause(next(waits), found, latency_s))
        return None

    def _is_given_up(self, found: Fault, attempts: int, seconds: float) -> bool:
        """Whether a request stays without a reply; one that meets an outage has some minutes."""
        if found.kind is Kind.UNAVAILABLE and self.has_answered and seconds < min(OUTAGE_S, self.settings.max_wait_s):
            return False
        most = FEW_TRIES if found.kind is Kind.EMPTY else self.settings.max_attempts
        return found.kind not in RETRIED | {Kind.CONNECTION} or attempts >= most

    def _pause(self, seconds: float, found: Fault, waited_s: float = 0.0) -> float:
        """Before the next attempt; a long one is told, and one after a fault that was waited for."""
        seconds = max(seconds, min(found.retry_after_s or 0.0, self.settings.max_wait_s))
        if max(seconds, waited_s) > TOLD_S:
            self._tell(seconds, found.message)
        return seconds

    async def _attempt(
        self, number: int, request: Request, desk: Desk, stop: Sequence[FacsynthError]
    ) -> tuple[Answered | Fault, float, bool] | None:
        """Send it once, as soon as there is a slot: what came, when, and whether it was asked to hold to a schema.

        None where all are to stop by then.
        """
        slot_at = await self._limiter.acquire(stop)
        if slot_at is None:
            return None
        try:
            s, with_schema = self.settings, bool(request.json_schema) and self.takes_schemas
            body = body_of(request, s.model, s.api, s.extra, schemas=with_schema, limit_field=s.limit_field)
            await desk.intend(number)
            started = time.monotonic()
            self._began_at = self._began_at or started
            response = await self._connections.fetch("POST", self._path, body)
            found = response if isinstance(response, Fault) else read_response(*response)
            if self._is_waited_for(found):
                self._limiter.limited(slot_at, found.retry_after_s, found.message, cut=found.kind is Kind.RATE_LIMIT)
            elif isinstance(found, Answered) or found.kind not in PASSING:
                self._limiter.succeeded(slot_at)
            self._answered_here |= isinstance(found, Answered)
            self.has_answered |= self._answered_here or (isinstance(found, Fault) and found.kind in COUNTED)
            return found, time.monotonic() - started, with_schema
        finally:
            self._limiter.release()

    def _is_waited_for(self, found: Answered | Fault) -> TypeGuard[Fault]:
        """No request's fault: a limit, or an endpoint that went away."""
        if isinstance(found, Answered):
            return False
        return found.kind is Kind.RATE_LIMIT or (found.kind is Kind.CONNECTION and self.has_answered)

    def _stops_all(self, found: Fault, attempts: int) -> bool:
        """Whether every other request would end the same way; of what never answered, what the first ones show."""
        if found.kind in STOPPING:
            return True
        if self.has_answered:
            return False
        if found.kind in RETRIED and time.monotonic() - self._began_at > self.settings.max_wait_s:
            return True
        return found.kind in {Kind.CONNECTION, Kind.UNAVAILABLE} and attempts >= FIRST_TRIES


def _waits() -> Iterator[float]:
    """Seconds before the next attempts, jittered so that requests that failed together do not come together."""
    wait = FIRST_RETRY_S
    while True:
        yield wait * random.uniform(0.5, 1.5)
        wait = min(LONGEST_RETRY_S, 2 * wait)
