from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parent.parent / "benchmarks" / "run.py"


def bench(out: Path, *words: str) -> tuple[str, dict[str, object]]:
    command = [sys.executable, str(RUN), "--quick", "--out", str(out), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_every_part_of_the_benchmark_runs_at_toy_sizes_and_its_checks_hold(tmp_path: Path) -> None:
    printed, found = bench(tmp_path / "bench.json")
    rows = found["rows"]
    assert isinstance(rows, list)
    assert found["failed"] == []
    assert printed.startswith("| figure | median | range | against | ratio | goal | holds |")
    measured = [row for row in rows if row["median"] is not None]
    assert all(row["note"] for row in rows if row["median"] is None)  # whatever is left out says why
    assert all(value > 0 for row in measured for value in row["values"])
    figures = " ".join(row["figure"] for row in measured)
    for part in ("encode, float32", "disk", "memory", "merge", "--help", "writing"):
        assert part in figures
    for row in measured:
        if row["ratio"] is not None:
            n, base = len(row["values"]) // 2, len(row["base"]) // 2
            assert row["ratio"] == pytest.approx(sorted(row["values"])[n] / sorted(row["base"])[base])
        assert (row["holds"] is None) == (row["goal"] == "")


@pytest.mark.slow
def test_a_benchmark_that_needs_no_model_writes_its_table_and_json(tmp_path: Path) -> None:
    printed, found = bench(tmp_path / "bench.json", "--only", "profiles")
    rows = found["rows"]
    assert isinstance(rows, list)
    together = next(row for row in rows if row["goal"])
    assert together["figure"] in printed
    assert together["goal"] == "≤ 60"
    assert together["holds"] is (together["median"] <= 60)


@pytest.mark.slow
def test_the_benchmark_for_a_gpu_runs_at_a_toy_shape() -> None:
    done = subprocess.run(
        [sys.executable, str(RUN.with_name("gpu.py")), "--toy"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "share of the matrix rate" in done.stdout


@pytest.mark.slow
def test_ten_times_the_samples_need_no_more_than_a_fifth_more_memory(tmp_path: Path) -> None:
    peaks = []
    for n_samples in (10_000, 100_000):
        folder = tmp_path / str(n_samples)
        folder.mkdir()
        command = [sys.executable, str(RUN.with_name("memory.py")), str(n_samples), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["n_samples"] == n_samples
        peaks.append(found["peak"])
    assert peaks[1] <= 1.2 * peaks[0]
