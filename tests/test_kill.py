"""Real processes, really killed: the same command goes on and ends in the same samples, byte for byte."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import tiny_run
from facsynth.lock import locked

COMMAND = [sys.executable, "-m", "facsynth", "run"]


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


def kill_often(folder: Path, n_kills: int, rng_seed: int) -> None:
    (folder / "run.yaml").write_text(yaml.safe_dump(tiny_run.parts(folder)), encoding="utf-8")
    whole = folder / "whole"
    began = time.monotonic()
    finish(folder, whole, folder / "cache-whole")
    lasts = time.monotonic() - began
    expected = kept(whole)
    assert expected["samples.jsonl"]
    rng = random.Random(rng_seed)
    killed, number = 0, 0
    while killed < n_kills:
        out, cache = folder / f"killed-{number}", folder / f"cache-{number}"
        for signal_number in (signal.SIGKILL, rng.choice([signal.SIGKILL, signal.SIGINT])):
            process = start(folder, out, cache)
            try:
                process.wait(timeout=rng.uniform(0.2, 1.0) * lasts)
            except subprocess.TimeoutExpired:
                process.send_signal(signal_number)
                killed += 1
            process.communicate(timeout=60)
        finish(folder, out, cache)
        assert kept(out) == expected
        assert list(out.rglob(".*.tmp")) == [], "nothing half-written is left"
        shutil.rmtree(out)
        number += 1


@pytest.mark.kill
def test_ten_kills_change_nothing(tmp_path: Path) -> None:
    kill_often(tmp_path, 10, rng_seed=1)


@pytest.mark.slow
def test_fifty_kills_change_nothing(tmp_path: Path) -> None:
    kill_often(tmp_path, 50, rng_seed=2)


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
