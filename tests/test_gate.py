"""The judge's gate: what it finds poor is not kept, and it never knows where a sample comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import tiny_run
from facsynth import pipeline
from facsynth.llm import ScriptedWriter
from facsynth.llm.budget import Amount, Caps, Purse
from facsynth.meaning.asking import AskingSettings
from facsynth.meaning.quality import LONGEST_TURN, rate
from facsynth.records import Reply, Request
from facsynth.settings import parse_settings
from facsynth.store import Artifact, read_json, read_jsonl
from facsynth.synthesis.accept import NOT_SCORED, POOR, CleanSettings
from facsynth.synthesis.loop import synthesize
from facsynth.synthesis.requests import SynthesisSettings
from fault_server import MODEL, Act, FaultServer
from test_loop import measure, task

ROW = {"messages": [{"role": "user", "content": "a river\nrose over night"}]}


def marks(*numbers: int) -> str:
    return json.dumps(dict(zip(("fit", "correct", "natural"), numbers, strict=True)))


@pytest.mark.parametrize(("min_score", "kept", "refused"), [(3, [2], [POOR, NOT_SCORED]), (None, [1], [])])
def test_what_the_judge_finds_poor_leaves_its_place(
    min_score: int | None, kept: list[int], refused: list[str], tmp_path: Path
) -> None:
    asked: list[str] = []

    def score(rows: Sequence[Mapping[str, Any]]) -> list[int | None]:
        texts = [str(row["messages"][0]["content"]) for row in rows]
        asked.extend(texts)
        return [{"0": None, "1": 2, "2": 5}[text.split()[1]] for text in texts]

    settings = SynthesisSettings(
        per_wave=4, max_candidates=4, max_tokens=20, control=0, rungs=("spans",),
        clean=CleanSettings(near=1, min_score=min_score),
    )  # fmt: skip
    activations = {0: 5, 1: 9, 2: 3, 3: 0}
    writer = ScriptedWriter(lambda r: f"try {r.sample_index} of a kind 1={activations[r.sample_index]}")
    found = synthesize(
        [task(1)], writer, measure, Artifact(tmp_path, "synthesize", {}, {}), settings,
        score=None if min_score is None else score,
    )  # fmt: skip
    assert [int(c.text.split()[1]) for c in found.accepted] == kept
    assert [c.reason for c in found.rejected if c.reason in {POOR, NOT_SCORED}] == refused[::-1]
    assert "try 3 of a kind 1=0" not in asked, "the gate comes last: what does not fire is not asked about"
    assert len(set(asked)) == len(asked)


def test_the_lowest_mark_counts_and_no_answer_is_no_mark() -> None:
    asked: list[str] = []

    def answer(request: Request) -> str | Reply:
        asked.append(request.messages[0].content)
        return "I like it" if "silent" in asked[-1] else marks(5, 2, 4)

    rows = [ROW, {"messages": [{"role": "user", "content": "silent"}]}, ROW]
    writer = ScriptedWriter(answer)
    assert rate(rows, "message", "to train", writer, AskingSettings()) == [2, None, 2]
    assert len([text for text in asked if "a river" in text]) == 1
    assert r'user: "a river\nrose over night"' in asked[0], "one line, whatever stands in it"


def test_a_mark_that_is_none_is_no_mark() -> None:
    writer = ScriptedWriter(lambda r: marks(9, 2, 4))
    assert rate([ROW], "message", "to train", writer, AskingSettings()) == [None]


def test_a_small_model_goes_on_from_the_brace() -> None:
    writer = ScriptedWriter(lambda r: '4, "correct": 3, "natural": 5')
    assert rate([ROW], "message", "to train", writer, AskingSettings(asks="continue")) == [3]


@pytest.mark.parametrize(
    ("row", "form", "parts"),
    [
        ({"prompt": ROW["messages"], "chosen": [{"role": "assistant", "content": "yes"}],
          "rejected": [{"role": "assistant", "content": "no"}]},
         "preference", ['chosen reply: "yes"', 'rejected reply: "no"']),
        ({"question": "tea?", "answer_matching_behavior": "(A)", "answer_not_matching_behavior": "(B)"},
         "ab", ['question: "tea?"', 'matching answer: "(A)"', 'other answer: "(B)"']),
        ({"text": "word " * LONGEST_TURN}, "text", ["[…]"]),
    ],
)  # fmt: skip
def test_every_form_is_shown_with_all_its_parts(row: dict[str, Any], form: str, parts: list[str]) -> None:
    asked: list[str] = []

    def answer(request: Request) -> str:
        asked.append(request.messages[0].content)
        return marks(3, 3, 3)

    assert rate([row], form, "to train", ScriptedWriter(answer), AskingSettings()) == [3]
    assert all(part in asked[0] for part in parts)
    assert len(asked[0]) < LONGEST_TURN + 2000


def test_caps_hold_for_writer_and_judge_together() -> None:
    purse, caps = Purse(Amount(calls=2)), Caps(calls=4)
    assert purse.reserve(Amount(calls=1), caps) == purse.reserve(Amount(calls=1), caps) == ""
    assert purse.reserve(Amount(calls=1), caps) == "the cap on calls (4)"
    purse.settle(Amount(calls=1), Amount())
    assert purse.reserve(Amount(calls=1), caps) == ""


def test_a_run_with_a_gate_keeps_what_the_judge_likes_and_shows_marks_of_all_sources(tmp_path: Path) -> None:
    asked: list[str] = []

    def script(body: dict[str, Any], seen: int) -> Act:
        prompt = body["messages"][-1]["content"]
        if "Rate one piece" not in prompt:
            return Act()
        asked.append(prompt)
        return Act(text=marks(5, 1 + len(prompt) % 5, 5))

    with FaultServer() as server:
        server.script = script
        parts = tiny_run.parts(tmp_path)
        endpoint = {"url": server.url, "model": MODEL}
        parts |= {"writer": {"endpoint": endpoint}, "judge": {"endpoint": endpoint}, "accept": {"min_score": 3}}
        settings = parse_settings(parts, "the test")
        summary = pipeline.run(settings, tmp_path / "run", tmp_path / "cache")
        n = sum(server.answered.values())
        again = pipeline.run(settings, tmp_path / "run", tmp_path / "cache")
        assert (again, sum(server.answered.values())) == (summary, n)
    assert summary["scores"].keys() == {"written", "seed", "anchor"}
    assert summary["scores"]["written"]["marks"][:2] == [0, 0]
    assert sum(summary["scores"]["written"]["marks"]) == summary["n_accepted"] > 0
    assert summary["scores"]["seed"]["n"] == 8 and summary["scores"]["anchor"]["n"] == 64
    assert summary["n_rejected"][POOR] > 0
    assert all(row["score"] >= 3 for row in read_jsonl(tmp_path / "run" / "provenance.jsonl"))
    assert not any(word in prompt for prompt in asked for word in ("seed", "anchor", "selected", "synthetic"))
    assert read_json(tmp_path / "run" / "scores.json") == summary["scores"]
    assert "In the eyes of the judge" in (tmp_path / "run" / "report.html").read_text("utf-8")
