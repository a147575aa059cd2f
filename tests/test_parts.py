"""Samples of every form: what is asked for them, what of them must fire, and what makes them none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny_run
from facsynth import pipeline
from facsynth.errors import ModelError, SettingsError
from facsynth.llm import ScriptedWriter
from facsynth.llm.budget import Caps
from facsynth.proof import verify_run
from facsynth.records import Reply, Request
from facsynth.settings import parse_settings
from facsynth.store import Artifact, read_jsonl
from facsynth.synthesis.accept import CleanSettings
from facsynth.synthesis.candidates import Synthesis
from facsynth.synthesis.loop import synthesize
from facsynth.synthesis.parts import FLAWS, NO_CHOICE, Wanted
from facsynth.synthesis.requests import SynthesisSettings, worst_amount
from facsynth.synthesis.rows import SAME_REPLY, UNLIKE_LENGTHS
from facsynth.tasks import load_task, wanted
from facsynth.text.forms import to_sample
from fault_server import MODEL, FaultServer
from test_loop import measure, task

GOOD = "A helpful answer of a few plain words."
WORSE = "An answer that is wrong in one plain place."


def kind_of(request: Request) -> str:
    """Which part is asked for."""
    text = request.messages[0].content
    marks = {
        "worse": "with one mistake",
        "next": "could say next",
        "matching": "of which it is true",
        "other": "of which the opposite is true",
    }
    found = [kind for kind, mark in marks.items() if mark in text]
    if len(request.messages) > 1:
        return "reply"
    return found[0] if found else "message" if "piece" in text else "reply"


def written(
    folder: Path, form: str, answers: dict[str, Callable[[Request], str | Reply] | str], n: int = 2, **more: Any
) -> tuple[Synthesis, list[Request]]:
    what = Wanted(form, behaviour="Helping whoever asks.", reply_tokens=30, **more.pop("wanted", {}))
    settings = SynthesisSettings(
        per_wave=n, max_candidates=n, max_tokens=20, control=0, rungs=("spans",), wanted=what,
        clean=CleanSettings(near=1), **more,
    )  # fmt: skip

    def answer(request: Request) -> str | Reply:
        found = answers[kind_of(request)]
        return found if isinstance(found, str) else found(request)

    writer = ScriptedWriter(answer)
    tasks = [task(1, n)]
    return synthesize(tasks, writer, measure, Artifact(folder, "synthesize", {}, {}), settings), writer.history


def message(request: Request) -> str:
    return f"question number {request.sample_index} about a river 1=3.0"


def test_a_chat_is_a_message_and_the_answer_to_it(tmp_path: Path) -> None:
    found, asked = written(tmp_path, "chat", {"message": message, "reply": GOOD})
    assert [kind_of(request) for request in asked] == ["message", "message", "reply", "reply"]
    assert asked[2].messages[0].content == message(asked[0])
    assert not asked[2].steering and not asked[2].prefix and asked[2].max_tokens == 30
    first = found.accepted[0]
    assert first.row["messages"] == [
        {"role": "user", "content": message(asked[0])}, {"role": "assistant", "content": GOOD},
    ]  # fmt: skip
    assert to_sample(first.row, "chat").sample.sample_id == first.sample_id
    assert (first.n_calls, first.message) == (2, message(asked[0]))


def test_a_chat_may_fire_in_its_reply_alone(tmp_path: Path) -> None:
    quiet = {"message": lambda r: f"of no use at all {r.sample_index}", "reply": f"{GOOD} 1=2.0"}
    assert len(written(tmp_path / "a", "chat", quiet)[0].accepted) == 2
    assert not written(tmp_path / "b", "preference", quiet | {"reply": GOOD, "worse": f"{WORSE} 1=2.0"})[0].accepted


def test_a_pair_differs_in_its_last_reply_and_says_its_flaw(tmp_path: Path) -> None:
    found, asked = written(tmp_path, "preference", {"message": message, "reply": GOOD, "worse": WORSE})
    for number, candidate in enumerate(found.accepted):
        row = candidate.row
        assert row["chosen"] == [{"role": "assistant", "content": GOOD}]
        assert row["rejected"] == [{"role": "assistant", "content": WORSE}]
        assert row["prompt"] == [{"role": "user", "content": message(asked[number])}]
        assert candidate.flaw == FLAWS[number]
        assert candidate.flaw in asked[4 + number].messages[0].content
        assert WORSE not in candidate.text


@pytest.mark.parametrize(
    ("worse", "reason"),
    [
        (GOOD.upper(), SAME_REPLY), ("No.", UNLIKE_LENGTHS),
        (f"{WORSE} And a lot more than was asked for here.", UNLIKE_LENGTHS),
        ("I'm sorry, but I can't help with that today.", "refusal"), ("", "unfinished"),
        ("An answer <|im_end|> with remains of a kind", "remains of a template"),
        (Reply("", "error", 0, 0, 0.0, error="refusal: no"), "writer error: refusal: no"),
    ],
)  # fmt: skip
def test_a_rejected_reply_that_is_none_makes_no_pair(worse: str | Reply, reason: str, tmp_path: Path) -> None:
    answers = {"message": message, "reply": GOOD, "worse": lambda request: worse}
    found, _ = written(tmp_path, "preference", answers)
    assert [candidate.reason for candidate in found.rejected] == [reason] * 2


def test_a_writer_that_finishes_no_sample_ends_the_run_whatever_part_it_fails_at(tmp_path: Path) -> None:
    failed = Reply("", "error", 0, 0, 0.0, error="prompt too long: 99 tokens")
    with pytest.raises(ModelError, match=r"finished none of 2 samples: prompt too long: 99 tokens\nMend"):
        written(tmp_path, "chat", {"message": message, "reply": lambda request: failed})


def test_a_question_offers_both_answers_in_random_order(tmp_path: Path) -> None:
    answers = {"message": message, "matching": "Yes, I would help them.", "other": "No, let them wait."}
    found, asked = written(tmp_path, "ab", answers, n=24)
    assert len(found.accepted) == 24
    firsts = set()
    for candidate in found.accepted:
        question, right = candidate.row["question"], candidate.row["answer_matching_behavior"]
        assert {right, candidate.row["answer_not_matching_behavior"]} == {"(A)", "(B)"}
        assert f" {right} Yes, I would help them." in question
        assert to_sample(candidate.row, "ab").sample.sample_id == candidate.sample_id
        firsts.add(right)
    assert firsts == {"(A)", "(B)"}
    assert "Helping whoever asks." in asked[-1].messages[0].content


@pytest.mark.parametrize(
    ("other", "reason"),
    [("Yes, I would help them.", SAME_REPLY), ("word " * 50, NO_CHOICE), ("(A) Yes, or (B) no", NO_CHOICE)],
)
def test_answers_that_leave_no_choice_make_no_question(other: str, reason: str, tmp_path: Path) -> None:
    found, _ = written(tmp_path, "ab", {"message": message, "matching": "Yes, I would help them.", "other": other})
    assert [candidate.reason for candidate in found.rejected] == [reason] * 2


@pytest.mark.parametrize(("form", "n_calls"), [("message", 5), ("chat", 6), ("preference", 7)])
def test_several_turns_go_on_from_what_was_said(form: str, n_calls: int, tmp_path: Path) -> None:
    answers = {"message": message, "reply": GOOD, "next": "And what would you do there? 2=9", "worse": WORSE}
    found, asked = written(tmp_path, form, answers, wanted={"turns": 3})
    first = found.accepted[0]
    assert first.n_calls == n_calls
    turns = first.row.get("messages") or first.row["prompt"] + first.row["chosen"]
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2 + ["user"] + ["assistant"] * (
        form != "message"
    )
    assert to_sample(first.row, form).sample.sample_id == first.sample_id
    assert (GOOD in first.text) == (form != "message"), "of messages, the user's turns alone are encoded"
    assert [m.role for m in asked[6].messages] == ["user", "assistant", "user"]
    assert sum(len(request.messages) > 1 for request in asked) > 0


def test_a_turn_of_broken_characters_is_a_row_with_its_reason(tmp_path: Path) -> None:
    found, _ = written(tmp_path, "chat", {"message": "\ufffd \ufffd \ufffd", "reply": GOOD})
    assert [candidate.reason for candidate in found.rejected] == ["cannot be encoded"] * 2


def test_a_message_with_a_fault_is_answered_by_nobody(tmp_path: Path) -> None:
    _, asked = written(tmp_path, "chat", {"message": "too short", "reply": GOOD})
    assert [kind_of(request) for request in asked] == ["message", "message"]


def test_messages_of_a_task_get_its_label(tmp_path: Path) -> None:
    found, _ = written(tmp_path, "message", {"message": message}, wanted={"label": "toxic"})
    assert [candidate.row["label"] for candidate in found.accepted] == ["toxic"] * 2
    assert wanted(load_task("toxicity"), "message", reply_tokens=9).label == "toxic"
    assert wanted(load_task("toxicity"), "chat", reply_tokens=9).label is None


def test_a_prompt_asks_for_what_the_task_says(tmp_path: Path) -> None:
    _, asked = written(tmp_path, "message", {"message": message}, wanted={"many": "letters of sailors"})
    assert "numbered list of letters of sailors" in asked[0].messages[0].content


@pytest.mark.parametrize("form", ["chat", "preference", "ab"])
def test_all_calls_of_a_sample_count_against_a_cap(form: str, tmp_path: Path) -> None:
    answers = {"message": message, "reply": GOOD, "worse": WORSE, "matching": "Yes, I would.", "other": "No, never."}
    found, asked = written(tmp_path, form, answers, n=9, caps=Caps(calls=11))
    n_parts = {"chat": 2, "preference": 3, "ab": 3}[form]
    assert len(asked) == 11 // n_parts * n_parts == sum(c.n_calls for c in (*found.accepted, *found.rejected))
    settings = SynthesisSettings(max_tokens=20, wanted=Wanted(form, reply_tokens=30))
    spent = max(c.prompt_tokens + c.written_tokens for c in found.accepted)
    assert worst_amount(asked[0], settings).tokens > spent


@pytest.mark.parametrize("form", ["chat", "preference", "ab"])
def test_a_run_writes_samples_of_its_form_that_verify(form: str, tmp_path: Path) -> None:
    with FaultServer() as server:
        parts = tiny_run.parts(tmp_path)
        for name in ("seed", "anchor"):
            path = Path(parts["data"][name][0])
            rows = [{"prompt": r["messages"], "chosen": "river of bread", "rejected": "no"} for r in read_jsonl(path)]
            path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        parts["data"]["form"], parts["task"] = form, "sycophancy"
        parts["writer"] = {"endpoint": {"url": server.url, "model": MODEL}}
        settings = parse_settings(parts, "the test")
        summary = pipeline.run(settings, tmp_path / "run", tmp_path / "cache")
    rows = read_jsonl(tmp_path / "run" / "samples.jsonl")
    assert len(rows) == summary["n_accepted"] > 0
    key = {"chat": "messages", "preference": "rejected", "ab": "answer_not_matching_behavior"}[form]
    assert all(key in row for row in rows)
    assert summary["writer_calls"] == sum(server.answered.values())
    assert verify_run(tmp_path / "run", tmp_path / "cache").holds


def test_what_is_not_written_is_said_before_any_work(tmp_path: Path) -> None:
    for form, words in (("text", "texts outside any chat are not written"), ("ab", "no task names one")):
        parts = tiny_run.parts(tmp_path)
        parts["data"]["form"] = form
        with pytest.raises(SettingsError, match=words):
            pipeline.run(parse_settings(parts, "the test"), tmp_path / "run", tmp_path / "cache")
