"""Drafts of a local model that is steered, rewritten by an endpoint that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tiny_run
from facsynth import pipeline
from facsynth.errors import SettingsError
from facsynth.llm import Ledger, ScriptedWriter
from facsynth.llm.drafting import DraftingWriter
from facsynth.proof import verify_run
from facsynth.records import Message, Reply, Request
from facsynth.settings import parse_settings
from facsynth.store import read_jsonl
from fault_server import MODEL, Act, FaultServer


def request(number: int, *, steered: bool) -> Request:
    return Request(
        (Message("user", "a list"),), max_tokens=200, temperature=0.8, top_p=0.95, rng_seed=1, sample_index=number,
        prefix="5." if steered else "", stop="\n", steering=((7, 0.4),) if steered else (),
    )  # fmt: skip


def reply(text: str, error: str = "") -> Reply:
    return Reply(text, "error" if error else "stop", 10, 20, 0.5, error=error)


def test_steered_requests_are_drafted_and_rewritten_and_cost_both() -> None:
    drafter = ScriptedWriter(lambda r: reply(f"5. a rough text {r.sample_index}"))
    writer = ScriptedWriter(lambda r: reply(f"good text from {r.messages[0].content[:60]}"))
    both = DraftingWriter(drafter, writer, {7: ", near the words river"}, draft_tokens=64)
    found = both.write([request(0, steered=True), request(1, steered=False)])
    assert [(r.written_tokens, r.n_calls) for r in found] == [(40, 2), (20, 1)]
    (draft,) = drafter.history
    assert (draft.max_tokens, draft.steering) == (64, ((7, 0.4),))
    rewritten, plain = writer.history
    assert (
        '"a rough text 0"' in rewritten.messages[0].content and "near the words river" in rewritten.messages[0].content
    )
    assert (rewritten.steering, rewritten.prefix, rewritten.max_tokens) == ((), "", 200)
    assert plain == request(1, steered=False)


@pytest.mark.parametrize("draft", [reply("", "non-finite: steer less"), reply("5. ")])
def test_a_draft_that_is_none_is_the_reply_and_nobody_else_is_asked(draft: Reply) -> None:
    writer = ScriptedWriter(lambda r: "never")
    found = DraftingWriter(ScriptedWriter(lambda r: draft), writer, {}, draft_tokens=9).write(
        [request(0, steered=True)]
    )
    assert found == [draft] and not writer.history


def test_a_run_drafts_here_and_writes_there_and_can_be_replayed(tmp_path: Path) -> None:
    asked: list[str] = []

    def script(body: dict[str, Any], seen: int) -> Act:
        asked.append(body["messages"][-1]["content"])
        return Act()

    parts = tiny_run.parts(tmp_path)
    with FaultServer() as server:
        server.script = script
        endpoint = {"url": server.url, "model": MODEL}
        parts["writer"] = {"endpoint": endpoint, "draft": "local", "rungs": ["steered"], "strength": 0.6}
        settings = parse_settings(parts, "the test")
        summary = pipeline.run(settings, tmp_path / "run", tmp_path / "cache")
    assert asked and all("This is the draft of a text" in text for text in asked if "Write one of these" not in text)
    accepted = read_jsonl(tmp_path / "run" / "provenance.jsonl")
    assert len(accepted) == summary["n_accepted"] > 0
    assert all(row["steering"] and " after draft:local" in row["writer"] for row in accepted)
    assert verify_run(tmp_path / "run", tmp_path / "cache").holds
    with Ledger.open(tmp_path / "run" / "ledger.sqlite") as ledger:
        assert {name.partition(":")[0] for name in ledger.writers()} >= {"draft"}
        assert ledger.spent(but="draft:").calls == len(asked), "drafts of this process are under no cap of the endpoint"
    again = pipeline.run(
        settings, tmp_path / "again", tmp_path / "cache", replay=tmp_path / "run" / "ledger.sqlite"
    )  # fmt: skip
    assert read_jsonl(tmp_path / "again" / "samples.jsonl") == read_jsonl(tmp_path / "run" / "samples.jsonl")
    assert again["n_accepted"] == summary["n_accepted"]


@pytest.mark.parametrize(
    ("writer", "words"),
    [({"draft": "local"}, "draft is for endpoints"),
     ({"endpoint": {"url": "http://localhost:1", "model": "m"}, "rungs": ["steered"]}, "set writer.draft to local")],
)  # fmt: skip
def test_what_cannot_draft_or_steer_is_said(writer: dict[str, Any], words: str, tmp_path: Path) -> None:
    parts = tiny_run.parts(tmp_path)
    parts["writer"] = writer
    with pytest.raises(SettingsError, match=words):
        parse_settings(parts, "the test")
