"""The door: closed and full streams, pipes that nobody reads on, and a Ctrl-C before anything is loaded."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tiny_cli import Parts, facsynth

FACSYNTH = shlex.join([sys.executable, "-m", "facsynth"])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return Parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def planned(tiny: Parts) -> Path:
    out = tiny.folder / "planned"
    assert facsynth("missing", tiny.seed, *tiny.options, "-o", out).code == 0
    return out


def shell(words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", words], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("words", [f"{FACSYNTH} --help", f"{FACSYNTH} show --help", f"{FACSYNTH} --version"])
def test_a_full_disk_behind_stdout_is_told_even_of_help(words: str) -> None:
    done = shell(f"{words} > /dev/full")
    assert done.returncode == 1
    assert done.stderr.startswith("facsynth: the disk is full (No space left on device)\n")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.slow
def test_closed_streams_stop_nothing_and_take_nothing_from_the_others(tiny: Parts, planned: Path) -> None:
    measure = shlex.join(["coverage", str(tiny.seed), *tiny.options, "-o", str(planned), "--json"])
    quiet = shell(f"{FACSYNTH} {measure} 2>&-")
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert 0 < json.loads(quiet.stdout)["value"] < 1
    for words in (f"show {planned}", measure):
        done = shell(f"{FACSYNTH} {words} >&-")
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    done = shell(f"{FACSYNTH} coverage - {shlex.join(tiny.options)} <&-")
    assert (done.returncode, "stdin is empty" in done.stderr) == (1, True), done.stderr


def test_a_pipe_that_nobody_reads_on_is_no_error(planned: Path) -> None:
    for words in (f"show {planned}", "--help"):
        done = shell(f"{FACSYNTH} {words} | sleep 0; exit ${{PIPESTATUS[0]}}")
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


def test_ctrl_c_while_the_rest_is_loaded_ends_as_it_does_later(tmp_path: Path) -> None:
    slow = f"import pathlib, time\npathlib.Path({str(tmp_path / 'here')!r}).touch()\ntime.sleep(60)\n"
    (tmp_path / "typer.py").write_text(slow, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "facsynth", "--help"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        while not (tmp_path / "here").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr.startswith("facsynth: stopped"), "Traceback" in stderr) == (130, True, False)
