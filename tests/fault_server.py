"""An endpoint on loopback that speaks the protocol and misbehaves on order; counts every request by its hash.

    python tests/fault_server.py [--port 0] [--latency 0.5] [--limit 32] [--faults 0.2] [--rng-seed 0] [--burst 5 2]

prints its address. Replies are a function of the request, so they are the same in every run. What goes wrong comes from
a script: a function of the request and of how often it was seen. GET /stats gives what was counted.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import hashlib
import json
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from time import monotonic, time
from typing import Any

MODEL = "scripted"
WORDS = (
    "river", "field", "oven", "flour", "salt", "train", "ticket", "garden", "bank", "letter", "music", "dog", "doctor",
    "party", "school", "number",
)  # fmt: skip
Headers = Mapping[str, str]


@dataclass(frozen=True)
class Act:
    """What the server does with one request."""

    what: str = "answer"
    """answer, status, hang, reset, bytes, huge or drip."""
    text: str | None = None
    """Of an answer; None: words that depend on the request."""
    status: int = 200
    body: Any = None
    """JSON, or bytes as they are sent."""
    headers: Headers = field(default_factory=dict)
    choice: Mapping[str, Any] = field(default_factory=dict)
    """Laid over the choice of an answer."""
    usage: Mapping[str, int] | None = field(default_factory=dict)
    """Laid over the counts of an answer; None: it does not count."""


Script = Callable[[dict[str, Any], int], Act]
"""(body of the request, how often it was seen before) → what is done."""


def refused(status: int, message: str = "", code: str = "", **headers: str) -> Act:
    """An error in OpenAI's layout."""
    body = {"error": {"message": message, "type": code, "code": code}}
    return Act("status", status=status, body=body, headers={key.replace("_", "-"): v for key, v in headers.items()})


def http_date(seconds_from_now: float) -> str:
    """As a Retry-After header has it."""
    return formatdate(time() + seconds_from_now, usegmt=True)


EVERY_FAULT: Mapping[str, Act] = {
    "429": refused(429, "slow down", "rate_limit_exceeded"),
    "429 in seconds": refused(429, "slow down", retry_after="1"),
    "429 as a date": refused(429, "slow down", retry_after="date"),
    "429 in a 200": Act("status", body={"error": {"message": "slow", "code": "rate_limit_exceeded"}}),
    "500": refused(500, "oops"),
    "503": Act("status", status=503, body=b"<html>unavailable</html>"),
    "hang": Act("hang"),
    "drip": Act("drip"),
    "reset": Act("reset"),
    "error in a 200": Act("status", body={"error": {"message": "the engine died", "code": 500}}),
    "empty choices": Act("status", body={"choices": [], "usage": {}}),
    "null text": Act(choice={"message": {"role": "assistant", "content": None}}),
    "not JSON": Act("bytes", body=b'{"choices": [{"message": {"content": "cut'),
    "not UTF-8": Act("bytes", body=b'{"choices": [{"message": {"content": "caf\xe9"}}]}'),
    "gzip that is none": Act("bytes", body=b"plain", headers={"content-encoding": "gzip"}),
}
"""Each passes: the next time the same request is answered."""
FINAL_FAULTS: Mapping[str, Act] = {
    "content filter": Act(choice={"finish_reason": "content_filter", "message": {"role": "assistant", "content": ""}}),
    "refusal": Act(choice={"message": {"role": "assistant", "content": None, "refusal": "I cannot help with that."}}),
    "huge": Act("huge"),
    "packed and huge": Act(
        "bytes", body=gzip.compress(b"[" + b" " * (20 << 20) + b"]"), headers={"content-encoding": "gzip"}
    ),
}
"""Each ends a request: a row of the ledger and no text."""


class FaultServer:
    """The server in a thread of this process, for tests; `start` and `stop` it, or use it as a context."""

    def __init__(
        self, script: Script | None = None, *, latency_s: float = 0.0, limit: int = 1 << 30, port: int = 0
    ) -> None:
        self.script = script or (lambda body, seen: Act())
        self.latency_s, self.limit, self.port = latency_s, limit, port
        self.key = ""
        """Asked for, where it is set."""
        self.seen: Counter[str] = Counter()
        """Requests by hash of their body."""
        self.answered: Counter[str] = Counter()
        """Answers that were sent whole, by hash."""
        self.n_limited, self.in_flight, self.peak = 0, 0, 0
        self.busy_s, self.work_s, self.first_at, self._changed_at = 0.0, 0.0, 0.0, 0.0
        """Seconds with a request in hand; and of all of them, one by one."""
        self.tokens = 0
        """Prompt and written ones of all answers, sent whole or not."""
        self.headers: list[dict[str, str]] = []
        self.models: Any = {"data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "tests"}]}
        self.models_act: list[Act] = []
        """What is done with the next requests for the list of models, before it is given."""
        self.url = ""

    def __enter__(self) -> FaultServer:
        started = threading.Event()
        self._loop = asyncio.new_event_loop()

        def run() -> None:
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(self.listen(self.port))
            started.set()
            self._loop.run_forever()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        assert started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        def stop() -> None:
            self._server.close()
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.call_later(0.01, self._loop.stop)

        self._loop.call_soon_threadsafe(stop)
        self._thread.join(10)
        self._loop.close()

    async def listen(self, port: int = 0) -> None:
        """Take connections from now on."""
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", port, backlog=1024)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._request(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.headers.append(headers)
        if self.key and headers.get("authorization") != f"Bearer {self.key}":
            return await self._send(writer, refused(401, f"wrong key {headers.get('authorization', '')}"))
        if path == "/v1/models" and self.models_act:
            return await self._send(writer, self.models_act.pop(0))
        if method == "GET":
            found = {"/v1/models": self.models, "/stats": self.stats()}.get(path)
            act = refused(404, "nothing here") if found is None else Act("status", body=found)
            return await self._send(writer, act)
        if path not in ("/v1/chat/completions", "/v1/completions"):
            return await self._send(writer, refused(404, f"no route {path}"))
        self._count(1)
        self.peak = max(self.peak, self.in_flight)
        try:
            return await self._answer(writer, path, body)
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        seconds, self._changed_at = monotonic() - self._changed_at, monotonic()
        self.first_at = self.first_at or self._changed_at
        self.busy_s += seconds * (self.in_flight > 0)
        self.work_s += seconds * self.in_flight
        self.in_flight += change

    async def _answer(self, writer: asyncio.StreamWriter, path: str, data: bytes) -> bool:
        body = json.loads(data)
        hashed = hashlib.sha256(data).hexdigest()
        if self.in_flight > self.limit:
            self.n_limited += 1
            return await self._send(writer, refused(429, "too many at once", "rate_limit_exceeded", retry_after="0.2"))
        seen, self.seen[hashed] = self.seen[hashed], self.seen[hashed] + 1
        act = self.script(body, seen)
        if act.what == "hang":
            await asyncio.sleep(3600)
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        if act.what == "answer":
            act = completed(act, body, path, hashed)
            usage = act.body.get("usage") or {}
            self.tokens += usage.get("prompt_tokens", 0) + usage.get("completion_tokens", 0)
            whole = await self._send(writer, act)
            self.answered[hashed] += 1
            return whole
        return await self._send(writer, act)

    async def _send(self, writer: asyncio.StreamWriter, act: Act) -> bool:
        """Whether the connection is still good."""
        data = act.body if isinstance(act.body, bytes) else json.dumps(act.body or {}).encode()
        headers = {"content-type": "application/json", "content-length": str(len(data)), **act.headers}
        if headers.get("retry-after") == "date":
            headers |= {"retry-after": http_date(1.0), "date": http_date(0.0)}
        if act.what in {"reset", "huge", "drip"}:
            headers["content-length"] = str(64 << 20)
        lines = [f"HTTP/1.1 {act.status} -", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        writer.write("\r\n".join(lines).encode("latin-1"))
        if act.what == "reset":
            writer.write(b'{"choices": [')
            await writer.drain()
            writer.transport.abort()
            return False
        if act.what in {"huge", "drip"}:
            for _ in range(64):
                writer.write(b" " * (1 << 20 if act.what == "huge" else 1))
                await writer.drain()
                await asyncio.sleep(0.1 * (act.what == "drip"))
            return False
        writer.write(data)
        await writer.drain()
        return True

    def stats(self) -> dict[str, Any]:
        """What was counted."""
        return {
            "seen": dict(self.seen), "answered": dict(self.answered), "n_limited": self.n_limited,
            "peak": self.peak, "tokens": self.tokens, "busy_s": self.busy_s, "work_s": self.work_s,
            "span_s": self._changed_at - self.first_at,
        }  # fmt: skip


def completed(act: Act, body: Mapping[str, Any], path: str, hashed: str) -> Act:
    """An answer as the protocol has it."""
    prompt = body.get("prompt") or " ".join(message["content"] for message in body.get("messages", ()))
    rng = random.Random(hashed)
    text = act.text if act.text is not None else " ".join(rng.choice(WORDS) for _ in range(rng.randint(4, 12)))
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}, **act.choice}
    if path == "/v1/completions":
        choice["text"] = choice.pop("message")["content"]
    counts = {"prompt_tokens": len(prompt.split()) + 8, "completion_tokens": len(text.split())}
    usage = None if act.usage is None else {**counts, **act.usage}
    return Act("status", body={"id": hashed[:12], "model": body.get("model"), "choices": [choice], "usage": usage},
               headers=act.headers)  # fmt: skip


def seeded(share: float, rng_seed: int, faults: Mapping[str, Act] = EVERY_FAULT) -> Script:
    """A share of the requests meet a fault each time they are asked; the next attempt is answered."""

    def script(body: dict[str, Any], seen: int) -> Act:
        rng = random.Random(f"{rng_seed} {seen} {json.dumps(body, sort_keys=True)}")
        return rng.choice(list(faults.values())) if seen % 2 == 0 and rng.random() < share else Act()

    return script


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--limit", type=int, default=1 << 30)
    parser.add_argument("--faults", type=float, default=0.0)
    parser.add_argument("--rng-seed", type=int, default=0)
    parser.add_argument("--burst", type=float, nargs=2, help="seconds after the first request: 429 from then, so long")
    asked = parser.parse_args()
    quick = {name: act for name, act in EVERY_FAULT.items() if act.what not in {"hang", "drip"}}
    server = FaultServer(seeded(asked.faults, asked.rng_seed, quick), latency_s=asked.latency, limit=asked.limit)
    await server.listen(asked.port)
    print(server.url, flush=True)
    burst = asyncio.create_task(_burst(server, *asked.burst)) if asked.burst else None
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # ends with whoever started it
    if burst:
        burst.cancel()


async def _burst(server: FaultServer, after_s: float, seconds: float) -> None:
    while not server.seen:
        await asyncio.sleep(0.01)
    await asyncio.sleep(after_s)
    limit, server.limit = server.limit, 0
    await asyncio.sleep(seconds)
    server.limit = limit


if __name__ == "__main__":
    asyncio.run(main())
