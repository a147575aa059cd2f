"""A run and a judge through an endpoint that is not ours: `transformers serve` around the embedded model."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from facsynth.cli.console import cache_folder
from facsynth.demo import example_file
from facsynth.llm.address import EndpointSettings
from facsynth.llm.budget import FREE, NO_CAPS, Budget
from facsynth.llm.endpoint import Endpoint
from facsynth.llm.endpoint_writer import EndpointWriter
from facsynth.llm.ledger import Ledger
from facsynth.llm.structured import Answer, ask_json
from facsynth.model.embedded import embedded_model
from facsynth.records import Failure, Message, Request
from tiny_cli import facsynth

pytestmark = pytest.mark.slow
START_S, AT_ONCE = 120, 4


@dataclass(frozen=True)
class Served:
    url: str
    model: str

    @property
    def settings(self) -> EndpointSettings:
        return EndpointSettings(self.url, self.model, concurrency=AT_ONCE)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    pytest.importorskip("uvicorn")
    folder, model = tmp_path_factory.mktemp("served"), embedded_model(cache_folder())
    (folder / "model").mkdir()
    for file in model.iterdir():
        (folder / "model" / file.name).symlink_to(file)
    generation = folder / "model" / "generation_config.json"
    sampled = json.loads(generation.read_text("utf-8")) | {"do_sample": True}  # else every reply is the likeliest
    generation.unlink()
    generation.write_text(json.dumps(sampled), encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "home" / "hub").mkdir(parents=True)
    transformers = Path(sys.executable).with_name("transformers")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [transformers, "serve", folder / "model", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
            env={**os.environ, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process, folder / "log")
        yield Served(f"http://127.0.0.1:{port}/v1", str(folder / "model"))
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    pytest.fail(f"the server did not start\n{log.read_text('utf-8')[-2000:]}")


def settings_file(folder: Path, served: Served) -> Path:
    settings = {
        "data": {
            "seed": [str(example_file("seed.jsonl"))],
            "anchor": [str(example_file("anchor.jsonl"))],
            "limit": 200,
        },
        "writer": {"endpoint": {"url": served.url, "model": served.model, "concurrency": AT_ONCE}, "max_tokens": 32},
        "budget": {"features": 3, "per_wave": 2, "max_candidates": 4, "max_calls": 24},
        "judge": {"endpoint": {"url": served.url, "model": served.model}},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def test_check_tries_it(served: Served, tmp_path: Path) -> None:
    done = facsynth("check", settings_file(tmp_path, served))
    assert done.code == 0, done.stderr
    for block in ("writer", "judge"):
        assert f"{block}, model: works" in done.stderr
        assert f"{block}, text: works" in done.stderr
        assert f"{block}, JSON by schema: works, " in done.stderr


def test_it_writes_and_the_ledger_alone_gives_the_same_again(served: Served, tmp_path: Path) -> None:
    config, out, again = settings_file(tmp_path, served), tmp_path / "run", tmp_path / "again"
    done = facsynth("run", config, "-o", out)
    assert done.code == 0, done.stderr
    rows = [json.loads(line) for line in (out / "rejected.jsonl").read_text("utf-8").splitlines()]
    rows += [json.loads(line) for line in (out / "provenance.jsonl").read_text("utf-8").splitlines()]
    assert len({row["text"] for row in rows if "text" in row}) > 3, "it writes, and not always the same"
    figures = json.loads(facsynth("ledger", out, "--json").stdout)
    assert 0 < figures["calls"] <= 24
    done = facsynth("run", config, "-o", again, "--replay", out / "ledger.sqlite")
    assert done.code == 0, done.stderr
    for name in ("samples.jsonl", "rejected.jsonl", "gave_up.jsonl"):
        assert (again / name).read_bytes() == (out / name).read_bytes()


class Verdict(Answer):
    fits: bool


def test_a_judge_of_it_gives_answers_of_the_form_or_failures_with_its_words(served: Served, tmp_path: Path) -> None:
    asked = [
        Request((Message("user", f'Is {n} an even number? Answer {{"fits": true}} or {{"fits": false}} alone.'),), 24,
                0.7, 0.9, 0, sample_index=n)
        for n in range(6)
    ]  # fmt: skip
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger, Endpoint(served.settings) as endpoint:
        writer = EndpointWriter(endpoint, ledger, Budget(NO_CAPS, FREE), identity="judge")
        found = ask_json(writer, asked, Verdict)
        n_calls = ledger.totals().answered
        assert ask_json(writer, asked, Verdict) == found and ledger.totals().answered == n_calls
    assert n_calls >= len(asked)
    for answer in found:
        assert isinstance(answer, Verdict) or (isinstance(answer, Failure) and answer.reason)
