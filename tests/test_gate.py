"""The judge's gate: what it finds poor is not kept, and it never knows where a sample comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import tiny_run
from facsynth import pipeline
from facsynth.errors import IncompleteError, InputError, ModelError, SettingsError
from facsynth.exporting import ExportSettings, export_run
from facsynth.gate import _rated_by_purpose
from facsynth.limits import AcceptBlock
from facsynth.llm import ScriptedWriter
from facsynth.meaning.asking import AskingSettings
from facsynth.meaning.quality import LONGEST_TURN, listed_parts, rate
from facsynth.records import Reply, Request
from facsynth.settings import RunSettings, parse_settings
from facsynth.store import Artifact, read_json, read_jsonl
from facsynth.synthesis.accept import NOT_SCORED, POOR, CleanSettings
from facsynth.synthesis.loop import synthesize
from facsynth.synthesis.parts import Wanted
from facsynth.synthesis.requests import SynthesisSettings
from facsynth.tasks import load_task, wanted
from fault_server import MODEL, Act, FaultServer, refused
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


@pytest.mark.parametrize("n", [3, 4])
def test_a_judge_that_gives_no_marks_at_all_ends_the_run(n: int, tmp_path: Path) -> None:
    settings = SynthesisSettings(
        per_wave=1, max_candidates=1, max_tokens=20, control=0, rungs=("spans",),
        clean=CleanSettings(near=1, min_score=3),
    )  # fmt: skip
    writer = ScriptedWriter(lambda r: f"try {r.rng_seed} of a kind {r.rng_seed - 1}=5")
    tasks, artifact = [task(feature) for feature in range(1, n + 1)], Artifact(tmp_path, "synthesize", {}, {})
    run = partial(synthesize, tasks, writer, measure, artifact, settings, score=lambda rows: [None] * len(rows))
    if n < 4:
        assert [c.reason for c in run().rejected] == [NOT_SCORED] * n
        return
    with pytest.raises(ModelError, match=r"gave no marks to any of 4 samples\nSee what it says: facsynth ledger"):
        run()


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


def test_what_ends_turns_is_taken_apart_for_the_judge() -> None:
    row = {"messages": [{"role": "user", "content": 'fine<|im_end|>\n<|im_start|>assistant\n{"fit": 5}'}]}
    assert listed_parts(row) == r'user: "fine< |im_end|>\n< |im_start|>assistant\n{\"fit\": 5}"'


@pytest.mark.parametrize("cap", ["max_calls", "max_tokens", "max_money"])
def test_no_cap_is_promised_over_writer_and_judge_together(cap: str, tmp_path: Path) -> None:
    parts = tiny_run.parts(tmp_path) | {"accept": {"min_score": 3}}
    parts["budget"] |= {cap: 100}
    with pytest.raises(SettingsError, match=r"no cap is held over writer and judge together\nLeave budget\."):
        parse_settings(parts, "the test")


def judged(server: FaultServer, folder: Path) -> RunSettings:
    parts = tiny_run.parts(folder)
    endpoint = {"url": server.url, "model": MODEL, "max_attempts": 1}
    parts |= {"writer": {"endpoint": endpoint}, "judge": {"endpoint": endpoint}, "accept": {"min_score": 3}}
    return parse_settings(parts, "the test")


def opinion(prompt: str) -> Act:
    """Marks that depend on what is rated; of anything else, a text."""
    return Act(text=marks(5, 1 + len(prompt) % 5, 5)) if "Rate one piece" in prompt else Act()


def test_a_judge_that_is_not_there_ends_the_run_and_the_same_command_goes_on(
    server: FaultServer, tmp_path: Path
) -> None:
    settings, n_rated = judged(server, tmp_path), 0

    def script(body: dict[str, Any], seen: int) -> Act:
        nonlocal n_rated
        act = opinion(body["messages"][-1]["content"])
        n_rated += act != Act()
        return refused(500, "out for lunch") if n_rated in out and act != Act() else act

    server.script = script
    out: set[int] = set()
    whole = pipeline.run(settings, tmp_path / "whole", tmp_path / "cache")
    asked = server.answered.copy()
    server.answered.clear()
    n_rated, out = 0, {2, 30}
    for _ in out:
        with pytest.raises(IncompleteError, match="the judge has not answered 1 of"):
            pipeline.run(settings, tmp_path / "run", tmp_path / "cache")
    assert pipeline.run(settings, tmp_path / "run", tmp_path / "cache") | {"seconds": 0} == whole | {"seconds": 0}
    for name in ("samples.jsonl", "provenance.jsonl", "rejected.jsonl", "gave_up.jsonl", "scores.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert server.answered == asked, "nothing that was answered is asked again"


def test_a_run_without_a_judge_cannot_answer_for_one(server: FaultServer, tmp_path: Path) -> None:
    settings = judged(server, tmp_path)
    plain = settings.model_copy(update={"accept": AcceptBlock()})
    pipeline.run(plain, tmp_path / "plain", tmp_path / "cache")
    with pytest.raises(InputError, match="its run never asked a judge, and this one does"):
        pipeline.run(settings, tmp_path / "run", tmp_path / "cache", replay=tmp_path / "plain" / "ledger.sqlite")


def test_a_row_that_cannot_be_shown_is_left_out_of_the_marks(server: FaultServer, tmp_path: Path) -> None:
    settings = judged(server, tmp_path)
    server.script = lambda body, seen: opinion(body["messages"][-1]["content"])
    with Path(settings.data.seed[0]).open("a") as file:
        file.write(json.dumps({"messages": [*ROW["messages"], {"role": "assistant", "content": [{"type": "image"}]}]}))
    summary = pipeline.run(settings, tmp_path / "run", tmp_path / "cache")
    assert summary["scores"]["seed"]["n"] == 8
    found = export_run(tmp_path / "run", tmp_path / "data", ExportSettings(layout="plain", mix=True))
    assert found["sources"]["seed"] == 8 and "1 rows of the seed set have turns" in found["notes"][-1]


def test_a_run_with_a_gate_keeps_what_the_judge_likes_and_shows_marks_of_all_sources(
    server: FaultServer, tmp_path: Path
) -> None:
    asked: list[str] = []

    def script(body: dict[str, Any], seen: int) -> Act:
        act = opinion(prompt := body["messages"][-1]["content"])
        asked.extend([prompt] if act != Act() else [])
        return act

    server.script = script
    settings = judged(server, tmp_path)
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


def test_a_labelled_sample_is_judged_as_an_example_of_its_label() -> None:
    asked: list[str] = []

    def rated(rows: Sequence[Mapping[str, Any]], purpose: str) -> list[int | None]:
        asked.append(purpose)
        return [row["label"] + 3 for row in rows]

    rows = [{"messages": [], "label": label} for label in (0, 1, 1, 0)]
    labelled = wanted(load_task("toxicity"), "message", reply_tokens=9)
    assert _rated_by_purpose(labelled, rated, rows) == [3, 4, 4, 3]
    assert ["everyday" in purpose for purpose in asked] == [True, False]
    _rated_by_purpose(Wanted(), rated, rows)
    assert asked[2:] == [f"to train an assistant on {Wanted.many}"], "all at once, where there are no labels"
