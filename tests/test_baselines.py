"""The frame of rival methods: every one is complete, counted, nested, resumed, and stops."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from facsynth.baselines import METHODS
from facsynth.baselines.frame import (
    ALL_THERE,
    COSTS,
    NO_TOKENS,
    NOTHING_NEW,
    OF_WAVE,
    REJECTED,
    SAMPLES,
    Cap,
    messages_of,
)
from facsynth.baselines.given import Given
from facsynth.errors import IncompleteError, InputError, MismatchError, ModelError, SettingsError
from facsynth.experimenting.cells import by_sample
from facsynth.records import Message, Reply, Request, Sample
from facsynth.store import read_jsonl
from facsynth.synthesis.accept import CleanSettings
from facsynth.synthesis.seen import Seen
from facsynth.text.corpus import read_corpus
from facsynth.text.forms import to_sample
from facsynth.text.holdout import Holdout
from rivals import SHOWN, answered, given, kind_of, sentence, written

FILES = (SAMPLES, COSTS, REJECTED, "manifest.json", "plan.json")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_as_many_as_asked_for_and_counts_every_token(name: str, tmp_path: Path) -> None:
    found, asked = written(tmp_path / "a", name, Cap(30))
    rows, costs = read_jsonl(tmp_path / "a" / SAMPLES), read_jsonl(tmp_path / "a" / COSTS)
    assert found["n_accepted"] == len(rows) == len(costs) == 30
    assert found["stop_reason"] == ALL_THERE
    assert found["calls"] == len(asked)
    assert found["written_tokens"] == sum(len(answered(request).split()) for request in asked)
    assert found["prompt_tokens"] == sum(len(m.content.split()) for request in asked for m in request.messages)
    assert costs[-1]["written_tokens"] == found["written_tokens"], "the last wave gave the last sample"
    assert [to_sample(row, "message").sample.sample_id for row in rows] == [cost["sample_id"] for cost in costs]
    assert len({cost["sample_id"] for cost in costs}) == 30
    if name not in {"magpie", "sao", "plain", "self-instruct"}:
        assert any(SHOWN[0] in request.messages[-1].content for request in asked)


@pytest.mark.parametrize("name", METHODS)
def test_a_smaller_budget_is_the_beginning_of_a_larger_one(name: str, tmp_path: Path) -> None:
    written(tmp_path / "large", name, Cap(60))
    written(tmp_path / "small", name, Cap(10))
    rows = read_jsonl(tmp_path / "large" / SAMPLES)
    assert read_jsonl(tmp_path / "small" / SAMPLES) == rows[:10]
    parts = [read_jsonl(tmp_path / part / COSTS) for part in ("large", "small")]
    of_large, of_small = (
        by_sample([cost["written_tokens"] for cost in part], [cost[OF_WAVE] for cost in part]) for part in parts
    )
    assert of_large[:10] == of_small, "what it cost hangs on no budget"
    costs = [cost["written_tokens"] for cost in parts[0]]
    assert costs == sorted(costs) and len({*costs}) > 1
    most = costs[0]
    second = sorted({*costs})[1]
    for tokens, n in (
        (most - 1, costs.count(most)),
        (most, costs.count(most)),
        (most + 1, costs.count(most) + costs.count(second)),
    ):
        found, _ = written(tmp_path / str(tokens), name, Cap(60, tokens))
        assert found["stop_reason"] == NO_TOKENS
        assert read_jsonl(tmp_path / str(tokens) / SAMPLES)[:n] == rows[:n], "the wave that reaches it is the last"


@pytest.mark.parametrize("name", METHODS)
def test_what_was_interrupted_goes_on_to_the_same_bytes(name: str, tmp_path: Path) -> None:
    _, asked = written(tmp_path / "whole", name, Cap(40))
    n_asked, left = 0, 2
    while True:
        try:
            n_asked += len(written(tmp_path / "parts", name, Cap(40), left=left)[1])
            break
        except KeyboardInterrupt:
            left += 2
            assert not (tmp_path / "parts" / "manifest.json").exists()
    assert left > 2
    for file in FILES:
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert n_asked < len(asked), "what was answered is not asked for again"
    assert written(tmp_path / "parts", name, Cap(40))[1] == [], "what is done is done"


@pytest.mark.parametrize("name", METHODS)
def test_a_writer_that_says_always_the_same_comes_to_an_end(name: str, tmp_path: Path) -> None:
    def same(request: Request) -> str:
        found = answered(replace(request, sample_index=1))
        return "Yes, the same thing as ever" if kind_of(request) == "reply" else found

    found, asked = written(tmp_path / "a", name, Cap(30), same)
    assert found["stop_reason"] == NOTHING_NEW
    assert 0 < found["n_accepted"] < 30
    assert len(asked) < 6_000
    for n, answer in enumerate(("", "no", "the same " * 40)):
        found, asked = written(tmp_path / f"{n}", name, Cap(30), lambda request, text=answer: text)
        assert (found["n_accepted"], found["stop_reason"]) == (0, NOTHING_NEW)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("form", "key"), [("chat", "messages"), ("preference", "rejected"), ("ab", "question")])
def test_every_method_writes_every_form(name: str, form: str, key: str, tmp_path: Path) -> None:
    found, asked = written(tmp_path / "a", name, Cap(5), what=given(form))
    rows = read_jsonl(tmp_path / "a" / SAMPLES)
    assert len(rows) == 5 and all(key in row for row in rows), found
    assert found["written_tokens"] == sum(len(answered(request).split()) for request in asked)


def test_a_label_is_that_of_the_task(tmp_path: Path) -> None:
    written(tmp_path / "a", "plain", Cap(3), what=given(label="toxic"))
    assert [row["label"] for row in read_jsonl(tmp_path / "a" / SAMPLES)] == ["toxic"] * 3


def test_drafts_pass_what_samples_written_for_features_pass(tmp_path: Path) -> None:
    known, held = sentence("known"), sentence("held") + " and a few words more than that"
    path = tmp_path / "held.jsonl"
    path.write_text(json.dumps({"prompt": held}))
    seen = Seen.of([("x", known)], CleanSettings(), Holdout([read_corpus(path, form="message")]))
    texts = {
        "is nearly there already": known.upper(), "is in the holdout": held, "too short": "two words",
        "refusal": "I'm sorry, but I can't help with that request.", "unfinished": "",
        "remains of a template": "<|im_end|> of the river and the day", "repeats itself": "the day of it " * 9,
        "copies what it was shown": "Write a numbered list of messages that different people sent to an assistant",
    }  # fmt: skip
    replies = [*texts.values(), sentence(1), sentence(1)]

    def answer(request: Request) -> str | Reply:
        text = replies[request.sample_index % len(replies)]
        return text or Reply(request.prefix, "length", 0, 0, 0.0)

    found, _ = written(tmp_path / "a", "plain", Cap(5), answer, seen=seen)
    assert set(found["n_rejected"]) == {*texts, "is there already"}
    reasons = {row["reason"]: row["text"] for row in read_jsonl(tmp_path / "a" / REJECTED)}
    assert all(reasons[reason] == text.strip() for reason, text in texts.items())


def test_marks_are_refused_where_nobody_gives_them(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no judge is given"):
        written(tmp_path / "a", "plain", Cap(5), what=given(clean=CleanSettings(min_score=3)))


def test_what_has_another_label_is_dropped_where_labels_are_checked(tmp_path: Path) -> None:
    what = given(clean=CleanSettings(check_label=True), label="toxic")
    with pytest.raises(SettingsError, match="check_label needs what tells labels"):
        written(tmp_path / "a", "plain", Cap(5), what=what)
    labels: list[Any] = []

    def has_label(samples: Sequence[Sample], given: Sequence[Any]) -> list[bool]:
        labels.extend(given)
        return ["river" not in sample.text for sample in samples]

    found, _ = written(tmp_path / "b", "plain", Cap(100), what=what, has_label=has_label)
    rejected = [row["text"] for row in read_jsonl(tmp_path / "b" / REJECTED) if "another label" in row["reason"]]
    assert rejected and all("river" in text for text in rejected)
    assert "river" not in (tmp_path / "b" / SAMPLES).read_text() and set(labels) == {"toxic"}


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "a", "plain", Cap(3))
    with pytest.raises(MismatchError, match="begun with another n\n"):
        written(tmp_path / "a", "plain", Cap(4))
    with pytest.raises(MismatchError, match="begun with another method"):
        written(tmp_path / "a", "sao", Cap(3))


def test_failed_calls_are_said_and_those_that_may_do_better_are_asked_again(tmp_path: Path) -> None:
    def failing(error: str, every: int) -> object:
        return lambda r: Reply("", "error", 0, 0, 0.0, error) if r.sample_index % every == 0 else answered(r)

    with pytest.raises(IncompleteError, match="left 16 of 16 requests: timeout: no answer\nThe same command"):
        written(tmp_path / "a", "plain", Cap(3), failing("timeout: no answer", 1))
    with pytest.raises(ModelError, match="answered none of 16 requests: prompt too long: 99"):
        written(tmp_path / "b", "plain", Cap(3), failing("prompt too long: 99", 1))
    found, asked = written(tmp_path / "c", "evol-instruct", Cap(20), failing("filter: no", 3))
    assert found["n_failed_calls"] == sum(request.sample_index % 3 == 0 for request in asked) > 0
    assert found["n_rejected"]["writer error: filter: no"] > 0


def test_nothing_can_be_shown_of_an_empty_anchor(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no anchor texts"):
        Given(given().settings, ())


def test_the_first_message_of_a_sample_is_shown_and_of_a_question_no_choices() -> None:
    chat = Sample(
        (Message("system", "s"), Message("user", "Hello?"), Message("assistant", "Hi"), Message("user", "Bye"))
    )
    question = Sample((Message("user", "Which?\n\nChoices:\n (A) one\n (B) two"), Message("assistant", "(A)")))
    assert messages_of([chat], "chat") == ("Hello?",)
    assert messages_of([question, Sample((Message("assistant", "x"),))], "ab") == ("Which?",)
