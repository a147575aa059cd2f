"""An endpoint behind the ledger: nothing is asked twice, caps hold, and what was paid for is kept."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from facsynth.errors import IncompleteError, InputError, ModelError, SettingsError
from facsynth.llm import Ledger, ScriptedWriter
from facsynth.llm.address import EndpointSettings
from facsynth.llm.budget import FREE, NO_CAPS, Amount, Budget, Caps, Price
from facsynth.llm.endpoint import Endpoint
from facsynth.llm.endpoint_writer import EndpointWriter, identity_of
from facsynth.llm.ledger import keyed
from facsynth.records import Message, Reply, Request
from fault_server import EVERY_FAULT, FINAL_FAULTS, MODEL, Act, FaultServer, refused, seeded

QUICK = {name: act for name, act in EVERY_FAULT.items() if act.what not in {"hang", "drip"} and "429 " not in name}


def requests(n: int, start: int = 0) -> list[Request]:
    return [
        Request((Message("user", f"question {i}"),), 16, 1.0, 1.0, rng_seed=0, sample_index=i)
        for i in range(start, start + n)
    ]


def write(
    path: Path, server: FaultServer, asked: list[Request], caps: Caps = NO_CAPS, price: Price = FREE, **settings: Any
) -> tuple[list[Reply], Budget]:
    endpoint_settings = EndpointSettings(**{"url": server.url, "model": MODEL, "concurrency": 8} | settings)
    with Ledger.open(path) as ledger, Endpoint(endpoint_settings) as endpoint:
        budget = Budget(caps, price, ledger.spent())
        identity = identity_of(endpoint_settings, endpoint.described())
        writer = EndpointWriter(endpoint, ledger, budget, identity=identity)
        replies = writer.write(asked)
        assert ledger.spent() == pytest.approx(budget.spent), "what is on disk is what is in memory"
        assert budget.reserved == pytest.approx(Amount())
        return replies, budget


def test_replies_come_in_order_and_a_repeated_run_asks_for_what_is_new_alone(
    server: FaultServer, tmp_path: Path
) -> None:
    server.script = lambda body, seen: Act(text="reply to " + body["messages"][0]["content"])
    first, _ = write(tmp_path / "l", server, requests(20))
    assert [reply.text for reply in first] == [f"reply to question {i}" for i in range(20)]
    again, _ = write(tmp_path / "l", server, requests(30))
    assert again[:20] == first and len(again) == 30
    assert max(server.seen.values()) == 1 and sum(server.seen.values()) == 30


def test_a_closed_writer_asks_for_nothing_more_and_what_was_out_is_kept(server: FaultServer, tmp_path: Path) -> None:
    was_asked = threading.Event()

    def slowly(body: dict[str, Any], seen: int) -> Act:
        was_asked.set()
        time.sleep(0.3)
        return Act(text="late but here")

    server.script = slowly
    settings = EndpointSettings(url=server.url, model=MODEL, concurrency=8)
    with Ledger.open(tmp_path / "l") as ledger, Endpoint(settings) as endpoint, ThreadPoolExecutor() as pool:
        writer = EndpointWriter(endpoint, ledger, Budget(NO_CAPS, FREE, ledger.spent()), identity="w")
        out = pool.submit(writer.write, requests(3))
        was_asked.wait(10)
        writer.close()
        assert [reply.text for reply in ledger.lookup(keyed("w", requests(3))).values()] == ["late but here"] * 3
        assert [reply.text for reply in out.result()] == ["late but here"] * 3
        with pytest.raises(IncompleteError, match="the endpoint is closed"):
            writer.write(requests(1, start=3))
    assert sum(server.seen.values()) == 3


def test_with_a_fault_in_every_second_request_every_reply_is_the_same(server: FaultServer, tmp_path: Path) -> None:
    plain, _ = write(tmp_path / "plain", server, requests(60))
    server.script = seeded(0.5, 1, QUICK)
    server.seen.clear()
    hard, _ = write(tmp_path / "hard", server, requests(60), concurrency=16, max_wait_s=60)
    assert sum(server.seen.values()) > 80, "faults were met"
    assert [reply.text for reply in hard] == [reply.text for reply in plain]
    assert not any(reply.error for reply in hard)


def test_a_reply_of_the_server_is_kept_as_it_came_with_what_it_cost(server: FaultServer, tmp_path: Path) -> None:
    server.script = lambda body, seen: Act(text="four words of text", usage={"prompt_tokens": 1000})
    (reply,), budget = write(tmp_path / "l", server, requests(1), price=Price(2.0, 10.0))
    assert budget.spent == Amount(1, 1004, pytest.approx(0.00204))
    with Ledger.open(tmp_path / "l") as ledger:
        (call,) = ledger.recorded()
        assert call.reply.raw["choices"][0]["message"]["content"] == "four words of text"
        assert replace(call.reply, raw={}) == reply, "what is handed on is without it"
        assert ledger.totals().price == pytest.approx(0.00204)
        (call,) = ledger.recorded()
        assert call.request["messages"] == [["user", "question 0"]]


@pytest.mark.parametrize("caps", [Caps(calls=25), Caps(tokens=9_000), Caps(money=0.05)])
def test_a_cap_is_never_passed_whatever_goes_wrong(caps: Caps, server: FaultServer, tmp_path: Path) -> None:
    server.script = seeded(0.4, 3, QUICK)
    price = Price(5.0, 5.0)
    for _ in range(3):  # runs that go on
        replies, budget = write(tmp_path / "l", server, requests(200), caps, price)
        assert not caps.exceeded(budget.spent)
    unsent = [reply for reply in replies if reply.error.startswith("budget: the cap on ")]
    assert 0 < len(unsent) < 200
    assert server.tokens <= budget.spent.tokens, "what the server counted, lost answers too"
    assert sum(server.answered.values()) >= 5
    assert sum(not reply.error for reply in replies) > 5


def test_where_the_server_does_not_count_the_most_it_can_be_is_counted(server: FaultServer, tmp_path: Path) -> None:
    server.script = lambda body, seen: Act(usage=None)
    (reply,), _ = write(tmp_path / "l", server, requests(1))
    assert (reply.prompt_tokens, reply.written_tokens) == (len("question 0") + 16 + 256, 16)


def test_a_call_that_a_kill_cut_off_counts_until_it_is_asked_again(server: FaultServer, tmp_path: Path) -> None:
    write(tmp_path / "l", server, requests(2))
    with sqlite3.connect(tmp_path / "l") as database:  # as after a kill between intent and reply
        database.execute(
            "UPDATE calls SET state = 'intent', reserved_tokens = 300, reply = NULL, prompt_tokens = NULL, "
            "written_tokens = NULL, price = NULL WHERE sample_index = 1"
        )
    replies, budget = write(tmp_path / "l", server, requests(2))
    assert not any(reply.error for reply in replies)
    assert max(server.seen.values()) == 2 and sum(server.seen.values()) == 3
    counted = sum(reply.prompt_tokens + reply.written_tokens for reply in replies)
    assert budget.spent == Amount(3, counted + 300)


def test_what_was_refused_is_a_row_with_what_it_cost_and_is_not_asked_again(
    server: FaultServer, tmp_path: Path
) -> None:
    refusal = replace(FINAL_FAULTS["refusal"], usage={"prompt_tokens": 40, "completion_tokens": 9})
    server.script = lambda body, seen: refusal if "question 3" in str(body) else Act(usage={"prompt_tokens": 40})
    first, budget = write(tmp_path / "l", server, requests(5), price=Price(1.0, 1.0))
    assert (first[3].error, first[3].text) == ("refusal: I cannot help with that.", "")
    assert (first[3].prompt_tokens, first[3].written_tokens) == (40, 9)
    assert budget.spent.tokens == sum(reply.prompt_tokens + reply.written_tokens for reply in first)
    again, after = write(tmp_path / "l", server, requests(5), price=Price(1.0, 1.0))
    assert again == first and after.spent == pytest.approx(budget.spent)
    with Ledger.open(tmp_path / "l") as ledger:
        assert ledger.errors() == {"refusal": 1} and ledger.totals().lost_tokens == 0


def test_what_failed_because_of_the_endpoint_is_asked_again_by_the_next_command_and_all_of_it_counts(
    server: FaultServer, tmp_path: Path
) -> None:
    server.script = lambda body, seen: refused(500, "oops") if "question 3" in str(body) else Act()
    first, budget = write(tmp_path / "l", server, requests(5), max_attempts=2)
    assert first[3].error == "server error: 500 oops"
    server.script = lambda body, seen: Act()
    again, after = write(tmp_path / "l", server, requests(5), max_attempts=2)
    assert again[:3] == first[:3] and not any(reply.error for reply in again)
    assert after.spent.tokens == budget.spent.tokens + again[3].prompt_tokens + again[3].written_tokens
    with Ledger.open(tmp_path / "l") as ledger:
        assert ledger.errors() == {} and ledger.spent() == pytest.approx(after.spent)


def test_an_endpoint_that_answers_nothing_ends_the_run_and_the_same_command_goes_on(
    server: FaultServer, tmp_path: Path
) -> None:
    write(tmp_path / "l", server, requests(2))
    server.script = lambda body, seen: refused(500, "oops")
    with pytest.raises(IncompleteError, match="answered none of 6 requests: server error: 500 oops"):
        write(tmp_path / "l", server, requests(8), max_attempts=2)
    replies, _ = write(tmp_path / "l", server, requests(8), max_attempts=2)
    assert [bool(reply.error) for reply in replies] == [False] * 2 + [True] * 6, "the second time it is what it is"


def test_what_a_cap_left_is_kept_as_such_and_asked_for_with_another_cap(server: FaultServer, tmp_path: Path) -> None:
    first, _ = write(tmp_path / "l", server, requests(6), Caps(calls=4))
    assert [reply.error for reply in first[4:]] == ["budget: the cap on calls (4)"] * 2
    with Ledger.open(tmp_path / "l") as ledger:
        assert (ledger.totals().calls, ledger.totals().failed, ledger.errors()) == (4, 0, {"budget": 2})
        replayed = ScriptedWriter.replay(ledger).write(requests(6))
        assert [replace(reply, raw={}) for reply in replayed] == first
    again, budget = write(tmp_path / "l", server, requests(6), Caps(calls=6))
    assert again[:4] == first[:4] and not any(reply.error for reply in again)
    assert budget.spent.calls == 6 and max(server.seen.values()) == 1


def test_what_was_answered_before_all_had_to_stop_is_kept(server: FaultServer, tmp_path: Path) -> None:
    server.script = lambda body, seen: refused(401, "gone") if "question 30" in str(body) else Act()
    with pytest.raises(ModelError, match="401 gone"):
        write(tmp_path / "l", server, requests(60))
    with Ledger.open(tmp_path / "l") as ledger:
        n_kept = ledger.totals().answered
    assert n_kept == sum(server.answered.values()) >= 20
    server.script = lambda body, seen: Act()
    replies, _ = write(tmp_path / "l", server, requests(60))
    assert len(replies) == 60
    assert sum(server.answered.values()) == 60, "none was answered twice"


def test_the_identity_is_the_model_and_not_where_it_is() -> None:
    settings = EndpointSettings("http://a/v1", MODEL)
    entry = {"id": MODEL, "created": 1, "max_model_len": 4096}
    identity = identity_of(settings, entry)
    assert identity.startswith(f"{MODEL}@")
    assert identity == identity_of(EndpointSettings("http://b:9/v1", MODEL, concurrency=2), entry | {"created": 2})
    others = [
        identity_of(settings, entry | {"max_model_len": 8192}),
        identity_of(settings, None),
        identity_of(EndpointSettings("http://a/v1", MODEL, extra={"top_k": 1}), entry),
        identity_of(EndpointSettings("http://a/v1", MODEL, api="completions"), entry),
    ]
    assert len({identity, *others}) == 5


def test_what_an_endpoint_cannot_do_is_refused(server: FaultServer, tmp_path: Path) -> None:
    spoken = Request((), 16, 1.0, 1.0, 0, role="user")
    with pytest.raises(SettingsError, match="an endpoint writes no turn of the user"):
        write(tmp_path / "l", server, [spoken])
    steered = Request((Message("user", "a"),), 16, 1.0, 1.0, 0, steering=((1, 0.5),))
    begun = Request((Message("user", "a"),), 16, 1.0, 1.0, 0, prefix="1.")
    for request in (steered, begun):
        with pytest.raises(SettingsError, match="cannot steer, or begin a reply in a chat"):
            write(tmp_path / "l", server, [request])
    with pytest.raises(InputError, match="came twice"):
        write(tmp_path / "l", server, [*requests(1), *requests(1)])
    assert not server.seen


def test_a_key_is_in_no_file(server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-secret-of-the-tests")
    server.key = "sk-a-secret-of-the-tests"
    server.script = lambda body, seen: Act(text="your key is sk-a-secret-of-the-tests, I think")
    (reply,), _ = write(tmp_path / "l", server, requests(1))
    assert reply.text == "your key is ***, I think"
    with Ledger.open(tmp_path / "l") as ledger:
        (call,) = ledger.recorded()
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"sk-a-secret" not in stored and b"Bearer" not in stored
    assert json.dumps(call.reply.raw).count("***") == 1


def test_a_bug_while_something_is_kept_ends_it_and_hangs_nobody(server: FaultServer, tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "l") as ledger, Endpoint(EndpointSettings(server.url, MODEL)) as endpoint:
        writer = EndpointWriter(endpoint, ledger, Budget(NO_CAPS, FREE), identity="w")
        ledger._database._connection.execute("DROP TABLE calls")
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            writer._send([(("hash", 0), requests(1)[0]), (("hash", 1), requests(1)[0])], 0, 2)
