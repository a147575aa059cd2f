"""A whole run with a writer at an endpoint, through the command line, on a tiny model and a server on loopback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny_run
from facsynth.writers import is_private
from fault_server import EVERY_FAULT, MODEL, Act, FaultServer, refused, seeded
from tiny_cli import Done, facsynth

QUICK = {name: act for name, act in EVERY_FAULT.items() if act.what not in {"hang", "drip"} and "429 " not in name}
KEPT = ("samples.jsonl", "provenance.jsonl", "rejected.jsonl", "gave_up.jsonl", "targets.json", "plan.csv")
SECRET = "sk-a-secret-of-the-tests"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FACSYNTH_CACHE", str(tmp_path / "cache"))


def settings_file(folder: Path, server: FaultServer, budget: dict[str, Any] | None = None, **endpoint: Any) -> Path:
    parts = tiny_run.parts(folder)
    rungs = endpoint.pop("rungs", None)
    parts["writer"] = {"rungs": rungs, "endpoint": {"url": server.url, "model": MODEL, "concurrency": 16, **endpoint}}
    parts["budget"] |= budget or {}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(parts), encoding="utf-8")
    return path


def kept(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in KEPT}


def run(config: Path, out: Path, *words: str) -> Done:
    return facsynth("run", config, "-o", out, *words)


def test_an_endpoint_writes_what_fires_and_the_run_says_what_it_took(server: FaultServer, tmp_path: Path) -> None:
    config = settings_file(tmp_path, server, price={"prompt": 1.0, "written": 2.0})
    done = run(config, tmp_path / "out")
    assert done.code == 0, done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))
    assert summary["n_accepted"] >= 3
    assert summary["writer_calls"] == sum(server.answered.values())
    provenance = [json.loads(line) for line in (tmp_path / "out" / "provenance.jsonl").read_text("utf-8").splitlines()]
    assert {row["writer"].partition("@")[0] for row in provenance} == {MODEL}
    assert all(row["steering"] == {} for row in provenance)
    assert facsynth("verify", tmp_path / "out").code == 0
    again = run(config, tmp_path / "out")
    assert again.code == 0 and summary["writer_calls"] == sum(server.answered.values()), "a finished run asks nothing"
    shown = json.loads(facsynth("ledger", tmp_path / "out", "--json").stdout)
    assert shown["answered"] == shown["calls"] == summary["writer_calls"]
    assert shown["money"] == pytest.approx((shown["prompt_tokens"] + 2 * shown["written_tokens"]) / 1e6, abs=1e-6)
    assert shown["errors"] == {} and shown["seconds_a_call"].keys() == {"0.5", "0.9", "0.99"}


def test_faults_change_nothing_and_a_replay_needs_no_endpoint(server: FaultServer, tmp_path: Path) -> None:
    config = settings_file(tmp_path, server)
    assert run(config, tmp_path / "plain").code == 0
    server.script = seeded(0.4, 5, QUICK)
    server.seen.clear()
    assert run(config, tmp_path / "hard").code == 0
    assert sum(server.seen.values()) > 1.2 * len(server.seen), "faults were met"
    assert kept(tmp_path / "hard") == kept(tmp_path / "plain")
    n_seen = sum(server.seen.values())
    server.script = lambda body, seen: refused(500, "nobody is to be asked")
    done = run(config, tmp_path / "replayed", "--replay", str(tmp_path / "hard" / "ledger.sqlite"))
    assert done.code == 0, done.stderr
    assert kept(tmp_path / "replayed") == kept(tmp_path / "plain")
    assert sum(server.seen.values()) == n_seen
    missing = run(config, tmp_path / "none", "--replay", str(tmp_path / "gone.sqlite"))
    assert (missing.code, "there is no ledger" in missing.stderr) == (1, True)
    assert not (tmp_path / "gone.sqlite").exists() and not (tmp_path / "none" / "features").exists()
    other = run(config, tmp_path / "none", "--replay", str(config))
    assert (other.code, f"{config} is no ledger" in other.stderr) == (1, True)


def test_a_run_that_a_limit_stopped_goes_on_where_it_was(server: FaultServer, tmp_path: Path) -> None:
    config = settings_file(tmp_path, server)
    assert run(config, tmp_path / "plain").code == 0
    n = sum(server.answered.values())
    server.seen.clear(), server.answered.clear()
    server.script = lambda body, seen: Act() if sum(server.answered.values()) < n // 2 else refused(429, "slow down")
    stopped = run(config, tmp_path / "out", "--max-wait", "0.3")
    assert stopped.code == 4
    assert "lets nothing through: 429 slow down" in stopped.stderr and "--max-wait" in stopped.stderr
    server.script = lambda body, seen: Act()
    assert run(config, tmp_path / "out").code == 0
    assert kept(tmp_path / "out") == kept(tmp_path / "plain")
    assert max(server.answered.values()) == 1 and sum(server.answered.values()) == n


@pytest.mark.parametrize(
    ("cap", "name"),
    [
        ("max_calls", "calls"),
        pytest.param("max_tokens", "tokens", marks=pytest.mark.slow),
        ("max_money", "money"),
    ],
)
def test_a_cap_ends_a_run_with_what_it_paid_for(cap: str, name: str, server: FaultServer, tmp_path: Path) -> None:
    value = {"max_calls": 12, "max_tokens": 6_000, "max_money": 0.006}[cap]
    config = settings_file(tmp_path, server, {cap: value}, price={"prompt": 1.0, "written": 1.0}, rungs=["spans"])
    faults = seeded(0.2, 2, QUICK)

    def script(body: dict[str, Any], seen: int) -> Act:
        act = faults(body, seen)
        return Act(usage={"prompt_tokens": 500}) if act == Act() else act

    server.script = script
    done = run(config, tmp_path / "out")
    assert done.code == 0, done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))
    assert summary["stop_reason"].startswith(f"the cap on {name} (") and summary["stop_reason"].endswith(" is reached")
    spent = {"calls": sum(server.answered.values()), "tokens": server.tokens, "money": server.tokens / 1e6}
    assert 0 < spent[name] <= value
    assert (tmp_path / "out" / "report.html").exists()


def test_what_writing_would_take_is_said_before_anything_is_sent(server: FaultServer, tmp_path: Path) -> None:
    config = settings_file(tmp_path, server, {"max_tokens": 5_000_000}, price={"prompt": 1.0, "written": 2.0})
    done = run(config, tmp_path / "out", "--dry-run", "--json")
    assert done.code == 0, done.stderr
    found = json.loads(done.stdout)
    assert not server.seen and not (tmp_path / "out" / "targets.json").exists()
    assert found["n_features"] == 8 and found["n_wanted"] >= 8
    assert found["n_known"] == 0 and found["minutes"] is None
    assert found["least"]["calls"] < found["most"]["calls"]
    assert run(config, tmp_path / "out").code == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))
    assert summary["writer_calls"] <= found["most"]["calls"]
    assert server.tokens <= found["most"]["tokens"] and server.tokens / 1e6 * 2 <= found["most"]["money"]
    later = json.loads(run(config, tmp_path / "out", "--dry-run", "--json").stdout)
    assert later["n_known"] > 0 and later["minutes"] > 0
    assert "what writing would take" in run(config, tmp_path / "out", "--dry-run").stdout


def test_a_money_cap_without_a_price_and_steering_are_refused_before_anything(
    server: FaultServer, tmp_path: Path
) -> None:
    config = settings_file(tmp_path, server, {"max_money": 1.0})
    done = run(config, tmp_path / "out")
    assert (done.code, "what the writer's tokens cost is not known" in done.stderr) == (2, True)
    parts = yaml.safe_load(settings_file(tmp_path, server).read_text("utf-8"))
    parts["writer"]["rungs"] = ["steered"]
    config.write_text(yaml.safe_dump(parts), encoding="utf-8")
    done = run(config, tmp_path / "out")
    assert (done.code, "an endpoint cannot be steered" in done.stderr) == (2, True)
    assert not server.headers


def test_a_public_address_gets_spans_only_where_that_is_allowed(server: FaultServer, tmp_path: Path) -> None:
    private = ("localhost:1", "127.0.0.1:1", "10.1.2.3", "[::1]:8", "vllm:8000")
    for url in (f"http://{host}/v1" for host in private):
        assert is_private(url), url
    for url in ("https://8.8.8.8/v1", "https://[2001:4860::1]/v1"):
        assert not is_private(url), url
    config = settings_file(tmp_path, server, url="https://8.8.8.8/v1")
    done = run(config, tmp_path / "out")
    assert (done.code, "8.8.8.8 is a public address" in done.stderr) == (2, True)
    assert not (tmp_path / "out").exists(), "before anything is measured"
    assert "allow_spans_to_endpoint: true" in done.stderr


def test_a_key_is_in_no_file_and_no_message(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    server.key = SECRET
    config = settings_file(tmp_path, server)
    done = run(config, tmp_path / "out")
    facsynth("ledger", tmp_path / "out", "--export", tmp_path / "calls.jsonl")
    server.key = "another"
    refused_ = run(config, tmp_path / "other")
    assert (done.code, refused_.code) == (0, 1) and "401 wrong key" in refused_.stderr
    for text in (done.stdout, done.stderr, refused_.stderr):
        assert SECRET not in text
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert tmp_path / "calls.jsonl" in files
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_a_ledger_is_exported_whole_and_its_figures_are_shown(server: FaultServer, tmp_path: Path) -> None:
    assert run(settings_file(tmp_path, server), tmp_path / "out").code == 0
    done = facsynth("ledger", tmp_path / "out", "--export", tmp_path / "calls.jsonl")
    assert done.code == 0
    rows = [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == sum(server.answered.values())
    assert all(row["reply"]["text"] and row["request"]["messages"] for row in rows)
    assert "written tokens" in done.stdout and f"{MODEL}@" in done.stdout
    gone = facsynth("ledger", tmp_path / "nowhere")
    assert (gone.code, "there is no ledger" in gone.stderr) == (1, True)


def test_check_tries_what_the_endpoint_will_be_asked_for(server: FaultServer, tmp_path: Path) -> None:
    config = settings_file(tmp_path, server, price={"prompt": 0.15, "written": 0.6})

    def script(body: dict[str, Any], seen: int) -> Act:
        return Act(text='{"ready": true}' if "response_format" in body else "ready")

    server.script = script
    done = facsynth("check", config)
    assert f"writer, model: works, id {MODEL}" in done.stderr
    assert "writer, text: works, 0." in done.stderr and "1 tokens" in done.stderr
    assert "writer, JSON by schema: works, kept to" in done.stderr
    assert "writer, price: 0.15 and 0.6 a million tokens" in done.stderr
    assert sum(server.seen.values()) == 2
    assert done.code == 3, "the random SAE does not fit"
    server.script = lambda body, seen: refused(400, "response_format?") if "response_format" in body else Act(text="ok")
    assert "JSON by schema: works, it is not offered" in facsynth("check", config).stderr
    server.key = "wanted"
    done = facsynth("check", config)
    assert "writer, model: does not work" in done.stderr and "401 wrong key" in done.stderr


def test_a_variable_that_was_named_for_the_key_has_to_be_set(server: FaultServer, tmp_path: Path) -> None:
    done = run(settings_file(tmp_path, server, key_env="NOBODY_SET_THIS"), tmp_path / "out")
    assert (done.code, server.seen.total()) == (2, 0)
    assert "$NOBODY_SET_THIS is not set, and writer.endpoint.key_env names it" in done.stderr
