"""Bad replies, caps, limits, kills and spoilt sheets on the way to explanations: what was answered is kept."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from fault_server import MODEL, Act, FaultServer, refused
from test_understand import answer, ask, few, measured_in, rows_of
from tiny_cli import facsynth


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FACSYNTH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return measured_in(tmp_path_factory.mktemp("measured"))


@pytest.fixture
def run(measured: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(measured, tmp_path / "run"))


def test_replies_that_are_none_are_rows_and_no_answers(run: Path, server: FaultServer) -> None:
    bad = ["", "not json", "I'm sorry, I can't help with that.", '{"explanation": "Wörter mit der und die Küche"}']

    def script(body: dict[str, Any], seen: int) -> Act:
        return Act(text=bad[len(body["messages"][0]["content"]) % 4]) if "oven" in str(body) else answer(body, seen)

    server.script = script
    done = ask("interpret", run, server)
    assert done.code == 4 and "answers could not be used" in done.stderr
    figures = json.loads(done.stdout)
    failures = [json.loads(line) for line in (run / "meaning" / "failures.jsonl").read_text("utf-8").splitlines()]
    assert len(failures) == figures["n_failures"] > 5
    assert figures["n_explained"] + figures["n_cannot_tell"] + len(failures) == figures["n_features"]
    assert {row["asked"] for row in failures} == {"interpret"}
    n = sum(server.answered.values())
    assert json.loads(ask("interpret", run, server).stdout) == figures
    assert sum(server.answered.values()) == n, "a failed one is not asked for again either"


def test_a_cap_ends_it_and_keeps_what_was_answered(tmp_path: Path, server: FaultServer) -> None:
    server.script = answer
    parts = few(tmp_path)
    parts["budget"] |= {"max_calls": 5}
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(parts), encoding="utf-8")
    facsynth("missing", tmp_path / "seed.jsonl", "--config", config, "-o", tmp_path / "run")
    done = ask("interpret", tmp_path / "run", server)
    assert done.code == 4, done.stderr
    assert "questions were not asked: the cap on calls (5)" in done.stderr
    assert sum(server.answered.values()) == 5
    assert len(rows_of(tmp_path / "run")) > 5


def test_what_contrast_tells_needs_a_background(run: Path, server: FaultServer) -> None:
    done = ask("relevance", run, server, "--task", "toxicity")
    assert done.code == 2 and "Judge whatever is active: --method judge" in done.stderr


def test_judging_needs_a_task(run: Path, server: FaultServer) -> None:
    done = ask("relevance", run, server)
    assert done.code == 2 and "judged by which task?" in done.stderr and "toxicity" in done.stderr
    done = ask("relevance", run, server, "--task", "toxic")
    assert done.code == 2 and "did you mean `toxicity`" in done.stderr


@pytest.mark.kill
def test_killed_and_resumed_no_answer_is_asked_for_again(run: Path, server: FaultServer) -> None:
    server.script, server.latency_s, rng = answer, 0.05, random.Random(5)
    parts = yaml.safe_load((run / "facsynth.yaml").read_text("utf-8"))
    parts["judge"] |= {"endpoint": {"url": server.url, "model": MODEL, "concurrency": 4}}
    (run / "facsynth.yaml").write_text(yaml.safe_dump(parts), "utf-8")
    whole = Path(shutil.copytree(run, run.parent / "whole"))
    command, n_killed = [sys.executable, "-m", "facsynth", "score", run], 0
    for _ in range(4):
        before = sum(server.seen.values())
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and sum(server.seen.values()) < before + rng.randint(12, 24):
            time.sleep(0.005)
        n_killed += process.poll() is None
        process.kill()
        process.wait(60)
    done = facsynth("score", run, "--json")
    assert done.code == 0 and n_killed >= 3, done.stderr
    n_twice = sum(n - 1 for n in server.answered.values())
    assert n_twice <= 4 * n_killed < len(server.answered) / 3, "no more than was out at the kills"
    assert facsynth("score", whole, "--json").stdout == done.stdout
    for name in ("meaning/features.csv", "meaning/summary.json", "plan.csv"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    assert list(run.rglob(".*.tmp")) == []


def test_words_of_a_model_are_printable_where_a_person_reads_them(run: Path, server: FaultServer) -> None:
    def script(body: dict[str, Any], seen: int) -> Act:
        said = {"explanation": "the\x00 word \x1b[31mriver\ud800"}
        return Act(text=json.dumps(said)) if '"explanation": "..."' in str(body["messages"]) else answer(body, seen)

    server.script = script
    assert ask("interpret", run, server).code == 0
    for name in ("meaning/features.csv", "plan.csv"):
        text = (run / name).read_bytes().decode("utf-8")
        assert "word [31mriver" in text and not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f]", text)


def test_a_cap_that_failures_used_up_is_named(tmp_path: Path, server: FaultServer) -> None:
    server.script = lambda body, seen: refused(500)
    parts = few(tmp_path)
    parts["budget"] |= {"max_calls": 5}
    parts["judge"] = {"endpoint": {"url": server.url, "model": MODEL, "max_attempts": 1}}
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(parts), encoding="utf-8")
    facsynth("missing", tmp_path / "seed.jsonl", "--config", config, "-o", tmp_path / "run")
    assert facsynth("interpret", tmp_path / "run").code == 4
    server.script = answer
    done = facsynth("interpret", tmp_path / "run")
    assert done.code == 4
    assert "questions were not asked: the cap on calls (5)" in done.stderr
    assert sum(server.seen.values()) == 5


def test_how_long_a_judge_is_waited_for_can_be_said(run: Path, tmp_path: Path, server: FaultServer) -> None:
    server.script = lambda body, seen: refused(429, retry_after="60")
    done = ask("interpret", run, server, "--max-wait", "0.1")
    assert done.code == 4 and "longer than 0.1 s (--max-wait)" in done.stderr
    config = tmp_path / "local.yaml"
    config.write_text(yaml.safe_dump(few(tmp_path)), encoding="utf-8")
    done = facsynth("missing", tmp_path / "seed.jsonl", "--config", config, "-o", tmp_path / "b", "--max-wait", 1)
    assert done.code == 0, "where no endpoint is named, none is waited for"


def test_a_row_of_no_feature_and_files_that_are_none_are_named(run: Path, server: FaultServer) -> None:
    server.script = answer
    assert ask("interpret", run, server).code == 0
    sheet, text = run / "meaning" / "features.csv", (run / "meaning" / "features.csv").read_text("utf-8")
    first = rows_of(run)[0]["feature_id"]
    sheet.write_text(re.sub(rf"(?m)^{first},", "99999,", text), "utf-8")
    done = ask("interpret", run, server)
    assert done.code == 1 and "no feature 99999 fires in the anchor" in done.stderr
    sheet.write_text("sep=,\n\n" + text.lstrip("\ufeff"), "utf-8")
    assert ask("interpret", run, server).code == 0
    failures = run / "meaning" / "failures.jsonl"
    failures.write_text('{"a": 1}\n', "utf-8")
    done = ask("interpret", run, server)
    assert done.code == 1 and "there is no asked" in done.stderr
    failures.unlink()
    sheet.unlink()
    sheet.mkdir()
    done = ask("interpret", run, server)
    assert done.code == 1 and "is a folder, not a sheet of features" in done.stderr
