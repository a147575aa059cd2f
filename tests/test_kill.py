"""Real processes, really killed: the same command goes on and ends in the same samples, byte for byte."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny_run
from facsynth.lock import locked
from fault_server import EVERY_FAULT, MODEL, Act, FaultServer, seeded

AT_ONCE = 2
"""Runs that are killed beside each other."""
N_SLOTS = 8
N_OUT = N_SLOTS + N_SLOTS // 4 + 1
"""Requests that may be out, or answered and not yet written down."""
COMMAND = [sys.executable, "-m", "facsynth", "run"]


def long_parts(folder: Path) -> dict[str, Any]:
    """Parts of a run that takes long enough to be stopped many times."""
    parts = tiny_run.parts(folder, n_latents=128)
    parts["budget"] |= {"features": 12}
    parts["writer"] |= {"max_tokens": 40}
    return parts


def start(folder: Path, out: Path, cache: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "FACSYNTH_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*COMMAND, str(folder / "run.yaml"), "-o", str(out)],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=folder,
    )  # fmt: skip


def finish(folder: Path, out: Path, cache: Path) -> None:
    process = start(folder, out, cache)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()


def kept(out: Path) -> dict[str, bytes]:
    names = ("samples.jsonl", "provenance.jsonl", "rejected.jsonl", "gave_up.jsonl", "targets.json", "plan.csv")
    return {name: (out / name).read_bytes() for name in names}


def kill_often(folder: Path, n_kills: int, rng_seed: int, settings: dict[str, Any] | None = None) -> int:
    """Kill a run again and again, and compare what it ends in with an unbroken one; how often it was killed."""
    (folder / "run.yaml").write_text(yaml.safe_dump(settings or long_parts(folder)), encoding="utf-8")
    whole = folder / "whole"
    began = time.monotonic()
    finish(folder, whole, folder / "cache-whole")
    lasts = time.monotonic() - began
    expected = kept(whole)
    assert expected["samples.jsonl"]

    def run_killed_twice(number: int) -> int:
        """How often it was killed: not at all, where it ended first."""
        out, cache, rng = folder / f"killed-{number}", folder / f"cache-{number}", random.Random(f"{rng_seed} {number}")
        n = 0
        for signal_number in (signal.SIGKILL, rng.choice([signal.SIGKILL, signal.SIGINT])):
            process = start(folder, out, cache)
            try:
                process.wait(timeout=rng.uniform(0.2, 1.0) * lasts)
            except subprocess.TimeoutExpired:
                process.send_signal(signal_number)
                n += 1
            process.communicate(timeout=60)
        finish(folder, out, cache)
        assert kept(out) == expected
        assert list(out.rglob(".*.tmp")) == [], "nothing half-written is left"
        shutil.rmtree(out)
        return n

    killed, numbers = 0, itertools.count()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        while killed < n_kills:
            killed += sum(pool.map(run_killed_twice, itertools.islice(numbers, AT_ONCE)))
    return killed


def at_endpoint(folder: Path, server: FaultServer, **budget: Any) -> dict[str, Any]:
    """A run whose writer is at an endpoint that often fails."""
    left_out = {"hang", "drip", "429 in seconds", "429 as a date", "429 in a 200"}  # they take long
    left_out |= {"empty choices", "null text"}  # two make a row, and a run beside may have had the good answer between
    quick = {name: act for name, act in EVERY_FAULT.items() if name not in left_out}
    server.script, server.latency_s = seeded(0.2, 1, quick), 0.05
    parts = long_parts(folder)
    parts["writer"] = {"endpoint": {"url": server.url, "model": MODEL, "concurrency": N_SLOTS}}
    parts["budget"] |= {"max_candidates": 12, "control": 0.3, **budget}
    return parts


def kill_at_endpoint(folder: Path, n_kills: int, rng_seed: int) -> None:
    with FaultServer() as server:
        n_killed = kill_often(folder, n_kills, rng_seed, at_endpoint(folder, server))
        n_runs = 1 + len(list(folder.glob("cache-*"))) - 1  # the unbroken one, and each that was killed and went on
        n_twice = sum(n - n_runs for n in server.answered.values() if n > n_runs)
        assert len(server.answered) > 20
        assert n_twice <= n_killed * N_OUT, "answered again: no more than was out at the kills"


def with_a_pool(folder: Path) -> dict[str, Any]:
    """A run that selects, climbs every rung, and begins again."""
    parts = tiny_run.parts(folder)
    parts["data"]["pool"] = [str(tiny_run.corpus(folder / "pool.jsonl", 40, 3))]
    parts["budget"] |= {"n_selected": 1, "rounds": 2}
    return parts


@pytest.mark.kill
def test_kills_change_nothing(tmp_path: Path) -> None:
    kill_often(tmp_path, 4, rng_seed=1, settings=with_a_pool(tmp_path))


@pytest.mark.kill
def test_ten_kills_change_nothing_and_nothing_is_paid_twice_at_an_endpoint(tmp_path: Path) -> None:
    kill_at_endpoint(tmp_path, 10, rng_seed=1)


@pytest.mark.slow
def test_many_kills_change_nothing(tmp_path: Path) -> None:
    kill_often(tmp_path, 25, rng_seed=2, settings=with_a_pool(tmp_path))


@pytest.mark.slow
def test_fifty_kills_change_nothing_and_nothing_is_paid_twice_at_an_endpoint(tmp_path: Path) -> None:
    kill_at_endpoint(tmp_path, 50, rng_seed=2)


@pytest.mark.kill
def test_a_cap_holds_across_kills_and_faults(tmp_path: Path) -> None:
    cap, rng = 20_000, random.Random(3)
    with FaultServer() as server:
        settings = at_endpoint(tmp_path, server, max_tokens=cap)
        faults = server.script

        def script(body: dict[str, Any], seen: int) -> Act:
            act = faults(body, seen)
            return Act(usage={"prompt_tokens": 600}) if act == Act() else act

        server.script = script
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        out, cache = tmp_path / "out", tmp_path / "cache"
        killed = 0
        while killed < 3 and not (out / "manifest.json").exists():
            process, before = start(tmp_path, out, cache), sum(server.seen.values())
            deadline = time.monotonic() + 60
            while sum(server.seen.values()) < before + rng.randint(4, 9) and time.monotonic() < deadline:
                time.sleep(0.01)
            process.kill()
            process.communicate(timeout=60)
            killed += 1
        finish(tmp_path, out, cache)
        assert killed >= 2
        assert cap / 4 < server.tokens <= cap
    summary = json.loads((out / "summary.json").read_text("utf-8"))
    assert summary["stop_reason"] == f"the cap on tokens ({cap:,}) is reached"


@pytest.mark.kill
def test_a_second_process_on_the_same_folder_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tiny_run.parts(tmp_path)), encoding="utf-8")
    out = tmp_path / "run"
    with locked(out):  # by this process; a run would be over too soon on a fast machine
        second = start(tmp_path, out, tmp_path / "cache")
        _, errors = second.communicate(timeout=60)
    assert second.returncode == 1
    assert f"in use by process {os.getpid()}" in errors.decode()
    finish(tmp_path, out, tmp_path / "cache")
