"""The endpoint client under a burst of 429s; and a whole run at an endpoint, whose samples are encoded beside it."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
import yaml
from demo import facsynth, warm_cache
from endpoint import MODEL, requests, server
from figures import CheckError, Row
from parts import open_embedded

from facsynth.demo import example_file
from facsynth.llm.address import EndpointSettings
from facsynth.llm.endpoint import Endpoint
from facsynth.llm.wire import Answered, Fault

AT_ONCE, FULL = 256, 0.95


def rows(quick: bool) -> list[Row]:
    """Seconds to recover, and how busy the writer is."""
    return [*_burst(quick), *_run(quick)]


class _Times:
    """A `Desk` that keeps when replies came, and nothing else."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.n_sent = 0

    async def intend(self, number: int) -> None:
        self.n_sent += 1

    async def settle(self, number: int, found: Answered | Fault, latency_s: float) -> None:
        if isinstance(found, Answered):
            self.at.append(time.monotonic())

    def lose(self, number: int) -> None:
        pass

    def spare(self, number: int) -> None:
        pass


def _burst(quick: bool) -> list[Row]:
    """Everything is refused for some seconds while all slots are in use."""
    latency, at_once, before_s, burst_s = (0.1, 16, 1.0, 0.5) if quick else (1.0, AT_ONCE, 12.0, 5.0)
    n, desk = int(at_once / latency * (before_s + (3 if quick else 30))), _Times()
    with server(latency, burst=(before_s, burst_s)) as url:
        with Endpoint(EndpointSettings(url, MODEL, concurrency=at_once)) as endpoint:
            started = time.monotonic()
            endpoint.ask(requests(n), desk)
        n_limited = httpx.get(url.removesuffix("v1") + "stats").json()["n_limited"]
    if len(desk.at) != n:
        raise CheckError(f"endpoint: {n - len(desk.at)} of {n} requests have no reply after a burst of 429s")
    at = np.sort(np.array(desk.at)) - started
    gap = int(np.argmax(np.diff(at)))
    again = at[gap + 1 :]
    ends = np.searchsorted(again, again + latency)
    rates = (ends - np.arange(len(again))) / latency
    full = np.flatnonzero(rates >= FULL * at_once / latency)
    if not len(full):
        raise CheckError("endpoint: it does not come back to its rate after a burst of 429s")
    note = f"endpoint: all refused for {burst_s:g} s with 'Retry-After: 0.2', {n_limited} requests meanwhile"
    return [
        Row("endpoint, after a burst of 429s: until a first reply", "s",
            (float(again[0]) - before_s - burst_s,), note=note),
        Row(f"endpoint, after a burst of 429s: from there until {FULL:.0%} of {at_once} at once", "s",
            (float(again[full[0]] - again[0]),)),
    ]  # fmt: skip


def _run(quick: bool) -> list[Row]:
    """Of the time from the first request of a run to its last reply, how much the endpoint had something to do."""
    open_embedded()  # or it is skipped
    at_once, latency = (16, 0.5) if quick else (AT_ONCE, 4.0)
    with tempfile.TemporaryDirectory() as folder, server(latency) as url:
        config, out = Path(folder, "run.yaml"), Path(folder, "run")
        config.write_text(yaml.safe_dump({
            "data": {"seed": [str(example_file("seed.jsonl"))], "anchor": [str(example_file("anchor.jsonl"))]},
            "writer": {"endpoint": {"url": url, "model": MODEL, "concurrency": at_once}},
            "budget": {"features": at_once // 4, "per_wave": 4, "max_candidates": 16},
        }), encoding="utf-8")  # fmt: skip
        facsynth("run", str(config), "-o", str(out), env=warm_cache(Path(folder)))
        ledger = json.loads(facsynth("ledger", str(out), "--json", env={}))
        stats = httpx.get(url.removesuffix("v1") + "stats").json()
    if len(stats["answered"]) != ledger["calls"]:
        raise CheckError(f"endpoint: {ledger['calls']} calls in the ledger, {len(stats['answered'])} at the server")
    span = stats["span_s"]
    note = f"endpoint: a run of {ledger['calls']} calls, replies after {latency:g} s, encoded on this machine's CPU"
    return [
        Row("endpoint, a whole run: share of the time that it has something to write", "", (stats["busy_s"] / span,),
            at_least=0.9, note=note),
        Row("endpoint, a whole run: requests out, of as many as may be", "", (stats["work_s"] / span / at_once,)),
    ]  # fmt: skip
