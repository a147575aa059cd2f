"""The endpoint client, ledger included, against a server on loopback that answers after a second and does no work.

Beside it the same requests by a plain httpx client with a semaphore and no ledger, which is what most scripts do.
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from figures import CheckError, Row, peak_mb

from facsynth.llm import Ledger
from facsynth.llm.address import EndpointSettings
from facsynth.llm.budget import FREE, NO_CAPS, Budget
from facsynth.llm.endpoint import Endpoint
from facsynth.llm.endpoint_writer import EndpointWriter
from facsynth.llm.wire import body_of
from facsynth.records import Message, Request

SERVER = Path(__file__).resolve().parent.parent / "tests" / "fault_server.py"
LATENCY_S, ROUNDS = 1.0, 10
MODEL = "scripted"


def rows(quick: bool) -> list[Row]:
    """Share of what the server can give at several concurrencies, CPU a call, memory with many queued."""
    latency, rounds = (0.1, 3) if quick else (LATENCY_S, ROUNDS)
    found = []
    for at_once in (1, 8) if quick else (1, 8, 64, 256):
        if at_once == 256:  # to send the first ones takes a third of a second: a part of 10 rounds, not of a long run
            rounds *= 3
        with server(latency) as url:
            ours, cpu = _ours(url, at_once, rounds)
            plain, client = _plain(url, at_once, rounds), _openai(url, at_once, rounds)
            given = _bare(url, at_once, rounds)
        note = f"endpoint: replies after {latency:g} s, {at_once * rounds} requests after as many to warm up"
        found += [
            Row(f"endpoint, {at_once} at once: share of what the server can give", "", (ours / given,),
                at_least=0.95, note=note),
            Row(f"endpoint, {at_once} at once: given to bare sockets, of one reply a second each", "",
                (given * latency / at_once,)),
            Row(f"endpoint, {at_once} at once", "replies/s", (ours,), "httpx with a semaphore, no ledger", (plain,)),
            Row(f"endpoint, {at_once} at once", "replies/s", (ours,), "openai's client with a semaphore", client),
            Row(f"endpoint, {at_once} at once: CPU a call", "ms", (1000 * cpu,)),
        ]  # fmt: skip
    return [*found, *_memory(1_000 if quick else 10_000)]


@contextmanager
def server(latency_s: float, burst: tuple[float, float] | None = None) -> Iterator[str]:
    """The address of one in a process of its own; `burst`: seconds until it refuses everything, and how long."""
    command = [sys.executable, str(SERVER), "--latency", str(latency_s)]
    command += ["--burst", *map(str, burst)] if burst else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert process.stdout and process.stdin
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.terminate()
        process.wait(10)


def requests(n: int, start: int = 0) -> list[Request]:
    """As they are sent for a candidate, by length."""
    text = "Write one more message like these.\n" + "an example of a message that is shown to the writer\n" * 8
    return [Request((Message("user", text),), 64, 0.8, 0.95, 0, sample_index=i) for i in range(start, start + n)]


def _bare(url: str, at_once: int, rounds: int) -> float:
    """Replies a second to sockets that stay open, and send bytes that were made before: what the server can give."""
    where = httpx.URL(url)
    sent = []
    for request in requests(at_once * rounds):
        body = body_of(request, MODEL, "chat", {})
        head = (
            f"POST {where.path}/chat/completions HTTP/1.1\r\nhost: {where.host}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        sent.append(head.encode() + body)

    async def ask() -> float:
        connections = [await asyncio.open_connection(where.host, where.port) for _ in range(at_once)]
        left = iter(sent)

        async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for data in left:
                writer.write(data)
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                assert length
                await reader.readexactly(int(length[1]))

        started = time.perf_counter()
        await asyncio.gather(*(one(*connection) for connection in connections))
        seconds = time.perf_counter() - started
        for _, writer in connections:
            writer.close()
        return seconds

    return len(sent) / asyncio.run(ask())


def _ours(url: str, at_once: int, rounds: int) -> tuple[float, float]:
    """Replies a second, and CPU seconds a reply."""
    n = at_once * rounds
    with (
        tempfile.TemporaryDirectory() as folder,
        Ledger.open(Path(folder, "ledger.sqlite")) as ledger,
        Endpoint(EndpointSettings(url, MODEL, concurrency=at_once)) as endpoint,
    ):
        writer = EndpointWriter(endpoint, ledger, Budget(NO_CAPS, FREE), identity="bench")
        writer.write(requests(n, start=n))
        started, cpu = time.perf_counter(), _cpu_s()
        replies = writer.write(requests(n))
        seconds, cpu = time.perf_counter() - started, _cpu_s() - cpu
        if len({reply.text for reply in replies}) < n * 0.9 or ledger.totals().answered != 2 * n:
            raise CheckError("endpoint: a request has no reply of its own, or the ledger lacks one")
    return n / seconds, cpu / n


def _plain(url: str, at_once: int, rounds: int) -> float:
    """Replies a second."""
    bodies = [body_of(request, MODEL, "chat", {}) for request in requests(at_once * rounds)]

    async def ask() -> float:
        slots = asyncio.Semaphore(at_once)
        async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=at_once)) as client:

            async def one(body: bytes) -> str:
                async with slots:
                    response = await client.post(f"{url}/chat/completions", content=body)
                    return str(response.json()["choices"][0]["message"]["content"])

            await asyncio.gather(*(one(body) for body in bodies))
            started = time.perf_counter()
            await asyncio.gather(*(one(body) for body in bodies))
            return time.perf_counter() - started

    return len(bodies) / asyncio.run(ask())


def _openai(url: str, at_once: int, rounds: int) -> tuple[float, ...]:
    """Replies a second; nothing where the client is not installed."""
    try:
        from openai import AsyncOpenAI  # noqa: PLC0415  (a peer, not a part)
    except ImportError:
        return ()
    asked = [json.loads(body_of(request, MODEL, "chat", {})) for request in requests(at_once * rounds)]

    async def ask() -> float:
        slots = asyncio.Semaphore(at_once)
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

            async def one(body: dict[str, Any]) -> str:
                async with slots:
                    return str((await client.chat.completions.create(**body)).choices[0].message.content)

            await asyncio.gather(*map(one, asked))
            started = time.perf_counter()
            await asyncio.gather(*map(one, asked))
            return time.perf_counter() - started

    return (len(asked) / asyncio.run(ask()),)


def _memory(n: int) -> Sequence[Row]:
    """Peak of a process that queues n, and ten times n, requests and gets them answered."""
    peaks = []
    for n_queued in (n, 10 * n):
        with server(0.0) as url:
            done = subprocess.run(
                [sys.executable, __file__, url, str(n_queued)], capture_output=True, text=True, check=False
            )
        if done.returncode:
            raise CheckError(f"endpoint: {n_queued} queued requests failed\n{done.stderr}")
        peaks.append(json.loads(done.stdout.splitlines()[-1]))
    each = (peaks[1] - peaks[0]) * 1e6 / (9 * n)
    note = f"endpoint: {each:.0f} bytes for each queued request, with the request itself and its reply"
    return [Row(f"endpoint, {10 * n:,} queued: peak", "MB", (peaks[1],), f"{n:,} queued", (peaks[0],), note=note)]


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _child(url: str, n: int) -> float:
    """Peak memory of asking for n replies at once."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Ledger.open(Path(folder, "ledger.sqlite")) as ledger,
        Endpoint(EndpointSettings(url, MODEL, concurrency=64)) as endpoint,
    ):
        EndpointWriter(endpoint, ledger, Budget(NO_CAPS, FREE), identity="bench").write(requests(n))
    return peak_mb()


if __name__ == "__main__":
    print(json.dumps(_child(sys.argv[1], int(sys.argv[2]))))
