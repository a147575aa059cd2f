"""JSON of a given form: strict, repaired, asked for again, or a failure with the raw text; never a made-up value."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facsynth.llm import ScriptedWriter
from facsynth.llm.structured import Answer, ask_json
from facsynth.records import Failure, Message, Reply, Request


class Verdict(Answer):
    verdict: Literal["yes", "no"]
    reason: str


GOOD = '{"verdict": "yes", "reason": "it says so"}'
YES = Verdict(verdict="yes", reason="it says so")


def ask(answer: Callable[[Request], str | Reply], n: int = 1) -> tuple[list[Verdict | Failure], ScriptedWriter]:
    writer = ScriptedWriter(answer)
    requests = [Request((Message("user", f"is it so? {i}"),), 32, 0.0, 1.0, 0, sample_index=i) for i in range(n)]
    return ask_json(writer, requests, Verdict), writer


def test_an_answer_of_the_form_is_read_and_the_form_is_sent_along() -> None:
    found, writer = ask(lambda request: GOOD)
    assert found == [YES]
    (request,) = writer.history
    assert json.loads(request.json_schema)["properties"]["verdict"]["enum"] == ["yes", "no"]
    assert json.loads(request.json_schema)["additionalProperties"] is False


@pytest.mark.parametrize(
    "text",
    [f"```json\n{GOOD}\n```", f"Here it is:\n{GOOD}", GOOD[:-1], GOOD.replace('"}', '",}'),
     "{verdict: 'yes', reason: 'it says so'}", GOOD + "\nI hope that helps!"],
)  # fmt: skip
def test_what_surrounds_or_breaks_an_answer_a_little_is_mended_without_asking_again(text: str) -> None:
    found, writer = ask(lambda request: text)
    assert found == [YES]
    assert len(writer.history) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [("no idea", "it is not JSON"), ('{"verdict": "maybe", "reason": ""}', "verdict: Input should be 'yes' or 'no'"),
     ('{"verdict": "yes"}', "reason: Field required"), ('["yes"]', "the answer: "), ("", "it is not JSON"),
     ('{"verdict": "yes", "reason": "", "mood": "good"}', "mood: Extra inputs are not permitted")],
)  # fmt: skip
def test_what_cannot_be_read_is_asked_for_once_more_with_what_is_wrong(text: str, reason: str) -> None:
    found, writer = ask(lambda request: GOOD if len(request.messages) > 1 else text)
    assert found == [YES]
    first, again = writer.history
    assert again.messages[:1] == first.messages
    assert again.messages[1] == Message("assistant", text)
    assert reason in again.messages[2].content
    found, writer = ask(lambda request: text)
    (failure,) = found
    assert isinstance(failure, Failure)
    assert failure.where == "request 0" and reason in failure.reason and failure.raw == text
    assert len(writer.history) == 2


def test_an_answer_that_was_cut_is_asked_for_with_more_room_and_not_repaired_into_another() -> None:
    def answer(request: Request) -> Reply:
        text, end = (GOOD, "stop") if request.max_tokens > 32 else ('{"verdict": "yes", "reason": "it', "length")
        return Reply(text, end, 5, 5, 0.0)

    found, writer = ask(answer)
    assert found == [YES]
    assert [request.max_tokens for request in writer.history] == [32, 64]
    cut = Reply('{"verdict": "yes", "reason": "it', "length", 5, 5, 0.0)
    found, writer = ask(lambda request: cut)
    assert isinstance(found[0], Failure) and len(writer.history) == 4


def test_a_failed_call_is_a_failure_and_the_others_are_not() -> None:
    def answer(request: Request) -> str | Reply:
        return Reply("", "error", 0, 0, 0.0, error="refusal: no") if request.sample_index == 1 else GOOD

    found, writer = ask(answer, n=3)
    assert found[::2] == [YES, YES]
    assert found[1] == Failure("request 1", "refusal: no", "")
    assert len(writer.history) == 3


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.integers(0, 40),
)
def test_nothing_but_the_form_ever_comes_out(value: Any, cut: int) -> None:
    text = json.dumps(value)
    (found,), _ = ask(lambda request: text[: len(text) - cut])
    if isinstance(found, Verdict):
        assert found.model_dump().keys() == {"verdict", "reason"}
        assert found.verdict in {"yes", "no"}
    else:
        assert isinstance(found, Failure)
