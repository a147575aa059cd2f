"""The fake that ships: a list, a function, or a recorded run."""

import pytest

from facsynth.errors import InputError, SettingsError
from facsynth.llm import Ledger, LedgerWriter, ScriptedWriter
from facsynth.records import Message, Reply, Request


def request(text: str, prefix: str = "") -> Request:
    return Request((Message("system", "Be brief."), Message("user", text)), 16, 1.0, 1.0, rng_seed=0, prefix=prefix)


def test_a_list_is_answered_in_the_order_of_asking_and_its_end_is_a_failure_not_a_text():
    writer = ScriptedWriter(["one", "two"])
    replies = writer.write([request("a")]) + writer.write([request("b"), request("c")])
    assert [reply.text for reply in replies] == ["one", "two", ""]
    assert replies[2].error == "script ended: it holds 2 replies"
    assert writer.history == [request("a"), request("b"), request("c")]


def test_a_function_sees_the_request_and_may_give_a_whole_reply():
    failed = Reply("", "error", 0, 0, 0.0, error="refused")
    writer = ScriptedWriter(lambda one: failed if "b" in one.messages[1].content else one.messages[1].content * 2)
    assert [reply.text or reply.error for reply in writer.write([request("a"), request("b")])] == ["aa", "refused"]


def test_a_text_goes_on_after_the_prefix_and_its_words_are_counted():
    (reply,) = ScriptedWriter(["and so on"]).write([request("one two", prefix="Well, ")])
    assert reply == Reply("Well, and so on", "stop", prompt_tokens=4, written_tokens=3, latency_s=0.0)


def test_a_batch_holds_at_least_one_request():
    assert ScriptedWriter([], batch_size=3).batch_size == 3
    with pytest.raises(SettingsError, match="batch_size is 0"):
        ScriptedWriter([], batch_size=0)


def record(path, identity: str, *texts: str) -> list[Reply]:
    with Ledger.open(path) as ledger:
        writer = ScriptedWriter(lambda one: f"{identity} on {one.messages[1].content}", identity=identity)
        return LedgerWriter(writer, ledger).write([request(text) for text in texts])


def test_a_recorded_run_is_rebuilt_from_its_ledger_alone(tmp_path):
    expected = record(tmp_path / "recorded", "model", "a", "b", "c")
    with Ledger.open(tmp_path / "recorded") as recorded, Ledger.open(tmp_path / "rebuilt") as rebuilt:
        writer = LedgerWriter(ScriptedWriter.replay(recorded, batch_size=2), rebuilt)
        assert writer.identity == "model"
        assert writer.write([request("a"), request("b"), request("c")]) == expected
        assert list(rebuilt.recorded()) == list(recorded.recorded())


def test_what_was_not_recorded_is_not_answered(tmp_path):
    record(tmp_path / "l", "model", "a")
    with Ledger.open(tmp_path / "l") as ledger, pytest.raises(InputError, match="not hold a call that is asked for"):
        ScriptedWriter.replay(ledger).write([request("z")])


def test_of_several_recorded_writers_one_must_be_named(tmp_path):
    record(tmp_path / "l", "writer", "a")
    (expected,) = record(tmp_path / "l", "judge", "a")
    with Ledger.open(tmp_path / "l") as ledger:
        with pytest.raises(InputError, match="no writer was named, it holds judge, writer"):
            ScriptedWriter.replay(ledger)
        with pytest.raises(InputError, match="asked for writer other, it holds judge, writer"):
            ScriptedWriter.replay(ledger, identity="other")
        assert ScriptedWriter.replay(ledger, identity="judge").write([request("a")]) == [expected]


def test_an_empty_ledger_cannot_be_replayed(tmp_path):
    with Ledger.open(tmp_path / "l") as ledger, pytest.raises(InputError, match="it holds no calls"):
        ScriptedWriter.replay(ledger)
