"""Folders and files that are damaged, taken or full end in a message, and the same command goes on later."""

from __future__ import annotations

import contextlib
import gzip
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from facsynth.lock import locked
from test_bad_input import GOOD, told
from tiny_cli import Parts, facsynth


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return Parts(tmp_path_factory.mktemp("parts"))


def test_a_cache_that_cannot_be_written_is_named_with_the_way_out(tiny: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name) / "cache"
        cache.mkdir()
        for folder in (cache.parent, cache):
            folder.chmod(0o555)
        monkeypatch.setenv("FACSYNTH_CACHE", str(cache))
        with not_as_root():
            done = facsynth("coverage", tiny.seed, *tiny.options)
        cache.parent.chmod(0o755)
    told(done, 1, f"the cache folder {cache} cannot be written: Permission denied", "export FACSYNTH_CACHE=")


@pytest.mark.parametrize("command", ["synthesize", "verify", "show", "report"])
def test_a_folder_that_is_no_run(tiny: Parts, command: str) -> None:
    told(facsynth(command, tiny.folder / "no"), 1, f"{tiny.folder / 'no'} is no run folder: there is no such folder")
    told(facsynth(command, tiny.sae), 1, f"{tiny.sae} is no run folder", "facsynth missing")


def test_a_plan_that_was_spoilt_and_a_run_that_is_not_finished(tiny: Parts) -> None:
    out = tiny.folder / "spoilt"
    assert facsynth("missing", tiny.seed, *tiny.options, "-o", out).code == 0
    told(facsynth("verify", out), 1, "no accepted samples to verify", f"facsynth synthesize {out}")
    plan = (out / "plan.csv").read_text("utf-8")
    for content, *words in (
        ("nonsense", "no column feature_id"),
        (f"{plan}1,missing,1,0.1,0.1,yes,{'x' * 11_000_000}\n", "a cell has more than", "Shorten it"),
        (f'{plan}1,missing,1,0.1,0.1,no,"fires\n', "a quote is never closed", "take it out"),
    ):
        (out / "plan.csv").write_text(content, encoding="utf-8")
        told(facsynth("synthesize", out), 1, out / "plan.csv", *words, measured=True)


def test_a_provenance_that_was_spoilt(tiny: Parts) -> None:
    out = tiny.folder / "proven"
    assert facsynth("run", tiny.write("p.yaml", tiny.changed("budget", "features", 6)), "-o", out).code == 0
    kept = (out / "provenance.jsonl").read_text("utf-8")
    (out / "provenance.jsonl").write_text(kept.replace('"threshold"', '"limit"', 1), encoding="utf-8")
    told(facsynth("verify", out), 1, out / "provenance.jsonl", "row 1: there is no threshold", "restore it")
    told(facsynth("show", out, "--feature", "999"), 1, "feature 999 is not in the plan", "There: ")


def test_a_result_cannot_go_where_a_file_or_another_result_is(tiny: Parts) -> None:
    measure = ("coverage", tiny.seed, *tiny.options, "-o")
    told(facsynth(*measure, tiny.seed), 1, f"the folder {tiny.seed} cannot be made", "-o")
    told(facsynth(*measure, tiny.folder / ("x" * 300)), 1, "File name too long")
    encoded = tiny.folder / "encoded"
    assert facsynth("encode", tiny.anchor, *tiny.space, "-o", encoded).code == 0
    told(facsynth(*measure, encoded), 1, f"{encoded} holds stage encode", "-o")
    assert (encoded / "manifest.json").exists()
    told(facsynth("encode", tiny.seed, *tiny.space, "-o", encoded), 1, "begun with another corpus", "Nothing was")
    told(facsynth("coverage", tiny.seed, *tiny.options, "--background", tiny.sae), 1, tiny.sae, "facsynth encode")


def test_a_folder_that_another_process_holds(tiny: Parts) -> None:
    out = tiny.folder / "held"
    with locked(out):
        for words in (("run", tiny.config), ("missing", tiny.seed, *tiny.options), ("encode", tiny.seed, *tiny.space)):
            told(facsynth(*words, "-o", out), 1, f"{out} is in use by process {os.getpid()}", "choose another folder")
    assert facsynth("missing", tiny.seed, *tiny.options, "-o", out).code == 0


@contextlib.contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("n_bytes", [10, 12_000, 50_000])
def test_where_files_may_not_grow_the_same_command_goes_on_later(tiny: Parts, n_bytes: int) -> None:
    config = tiny.write("two.yaml", tiny.changed("budget", "features", 2))
    out = tiny.folder / f"limited-{n_bytes}"
    with largest_file(n_bytes):
        done = facsynth("run", config, "-o", out)
    told(done, 1, "facsynth: ", measured=True)
    assert any(words in done.stderr for words in ("disk is full", "File too large", "disk I/O error")), done.stderr
    assert not list(out.rglob("*.tmp"))
    assert facsynth("run", config, "-o", out).code == 0


@pytest.mark.parametrize("n_rows", [1, 2000])
def test_where_a_corpus_cannot_be_spooled_the_temporary_folder_is_named(
    tiny: Parts, n_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = tiny.folder / f"spool-{n_rows}"
    spool.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spool))
    table = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["river field oven"] * n_rows}), table, compression="none")
    packed = tiny.write("packed.parquet.gz", gzip.compress(table.getvalue().to_pybytes()))
    with largest_file(10):
        for name, stdin in (("-", GOOD * n_rows), (packed, None)):
            done = facsynth("coverage", name, *tiny.options, stdin=stdin)
            told(done, 1, f"{'stdin' if stdin else packed} could not be spooled to {spool}", "TMPDIR", "ulimit -f")
    assert not list(spool.iterdir())


def test_a_file_that_this_user_may_not_read(tiny: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "cache").mkdir()
        (folder / "cache").chmod(0o777)
        monkeypatch.setenv("FACSYNTH_CACHE", str(folder / "cache"))
        for part in ("seed.jsonl", "anchor.jsonl"):
            (folder / part).write_text(GOOD)
        (folder / "seed.jsonl").chmod(0)
        options = ["--anchor", folder / "anchor.jsonl", *tiny.space]
        with not_as_root():
            done = facsynth("coverage", folder / "seed.jsonl", *options)
            other = facsynth("init", folder / "facsynth.yaml") if os.getuid() == 0 else None
    told(done, 1, folder / "seed.jsonl", "Permission denied")
    if other:
        told(other, 1, folder, "Permission denied")


@contextlib.contextmanager
def not_as_root() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def start(tiny: Parts, config: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "facsynth", "run", str(config), "-o", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FACSYNTH_CACHE": str(tiny.folder / "cache")}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=tiny.folder
    )


@pytest.mark.kill
def test_ctrl_c_says_so_and_the_same_command_goes_on(tiny: Parts) -> None:
    many = {"features": None, "per_wave": 1, "max_candidates": 60}
    config = tiny.write("all.yaml", yaml.safe_dump({**tiny.settings, "budget": many}))
    out = tiny.folder / "stopped"
    process = start(tiny, config, out)
    while not (out / "synthesis" / "waves" / "0000.jsonl").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, "recovered" in stdout) == (130, False), "what was measured is printed, but no summary"
    assert "facsynth: stopped; what was finished is kept, the same command goes on" in stderr
    assert "Traceback" not in stderr
    first_wave = (out / "synthesis" / "waves" / "0000.jsonl").read_bytes()
    stdout, stderr = start(tiny, config, out).communicate(timeout=300)
    assert "coverage" in stdout, stderr
    assert (out / "manifest.json").exists()
    assert (out / "synthesis" / "waves" / "0000.jsonl").read_bytes() == first_wave


@pytest.mark.kill
def test_a_full_disk_says_so_and_the_same_command_goes_on(tiny: Parts) -> None:
    config = tiny.write("four.yaml", tiny.changed("budget", "features", 4))
    disk = tiny.folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        for n_free in (0, 20_000, 100_000, 200_000):
            out = disk / f"run-{n_free}"
            (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - n_free))
            done = facsynth("run", config, "-o", out)
            told(done, 1, "disk is full", "run the same command again", measured=True)
            (disk / "ballast").unlink()
            assert facsynth("run", config, "-o", out).code == 0
            shutil.rmtree(out)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
