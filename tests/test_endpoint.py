"""The client against a real server on loopback that misbehaves: every fault is told apart, and nothing is lost."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from facsynth.errors import FacsynthError, IncompleteError, ModelError, SettingsError
from facsynth.llm import limiter
from facsynth.llm.address import EndpointSettings
from facsynth.llm.endpoint import Endpoint
from facsynth.llm.wire import Answered, Fault
from facsynth.records import Message, Request
from fault_server import EVERY_FAULT, FINAL_FAULTS, MODEL, Act, FaultServer, refused

KEY = "sk-a-secret-of-the-tests"


def request(n: int, **changes: Any) -> Request:
    base = Request((Message("user", f"a question number {n}"),), 64, 1.0, 1.0, rng_seed=0, sample_index=n)
    return replace(base, **changes)


class Kept:
    """A desk that keeps what it is told."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.found: dict[int, Answered | Fault] = {}
        self.lost: list[int] = []
        self.spared: list[int] = []

    async def intend(self, number: int) -> None:
        self.sent.append(number)

    async def settle(self, number: int, found: Answered | Fault, latency_s: float) -> None:
        assert number not in self.found, "settled twice"
        assert latency_s >= 0
        self.found[number] = found

    def lose(self, number: int) -> None:
        self.lost.append(number)

    def spare(self, number: int) -> None:
        self.spared.append(number)

    @property
    def texts(self) -> list[str]:
        return [found.text for _, found in sorted(self.found.items()) if isinstance(found, Answered)]


def asked(server: FaultServer, requests: list[Request], **settings: Any) -> Kept:
    """All requests asked, whatever becomes of them."""
    kept = Kept()
    with Endpoint(EndpointSettings(**{"url": server.url, "model": MODEL, "timeout_s": 5.0} | settings)) as endpoint:
        endpoint.ask(requests, kept)
    return kept


def test_every_request_is_answered_and_no_more_are_out_than_asked_for(server: FaultServer) -> None:
    server.latency_s = 0.02
    kept = asked(server, [request(n) for n in range(100)], concurrency=16)
    assert sorted(kept.found) == list(range(100))
    assert len(set(kept.texts)) == 100
    assert sum(server.seen.values()) == 100 and max(server.seen.values()) == 1
    assert 8 <= server.peak <= 16
    assert kept.lost == kept.spared == []


def test_a_request_says_what_was_asked_and_the_counts_are_the_servers(server: FaultServer) -> None:
    bodies: list[dict[str, Any]] = []
    server.script = lambda body, seen: (bodies.append(body), Act(text="hello there"))[1]
    two = [request(1, temperature=0.3, rng_seed=5), request(2, rng_seed=5)]
    kept = asked(server, two, extra={"top_k": 5, "top_p": None})
    one = next(body for body in bodies if body["temperature"] == 0.3)
    assert one["messages"] == [{"role": "user", "content": "a question number 1"}]
    assert (one["model"], one["max_tokens"], one["top_k"]) == (MODEL, 64, 5)
    assert "top_p" not in one and "stop" not in one
    assert len({body["seed"] for body in bodies}) == 2
    found = kept.found[0]
    assert isinstance(found, Answered)
    assert (found.text, found.finish_reason, found.prompt_tokens, found.written_tokens) == (
        "hello there",
        "stop",
        12,
        2,
    )


def test_completions_are_asked_for_what_follows(server: FaultServer) -> None:
    bodies: list[dict[str, Any]] = []
    server.script = lambda body, seen: (bodies.append(body), Act(text=" and on"))[1]
    kept = asked(server, [request(1, prefix="1.", stop="\n")], api="completions")
    assert bodies[0]["prompt"] == "a question number 1\n\n1." and bodies[0]["stop"] == ["\n"]
    assert kept.texts == [" and on"]


@pytest.mark.parametrize("name", EVERY_FAULT)
def test_a_fault_that_passes_costs_an_attempt_and_no_answer(name: str, server: FaultServer) -> None:
    server.script = lambda body, seen: EVERY_FAULT[name] if not seen and "number 3" in str(body) else Act()
    started = time.monotonic()
    kept = asked(server, [request(n) for n in range(8)], timeout_s=0.5)
    assert len(kept.texts) == 8
    assert sum(server.seen.values()) == 9
    assert kept.sent.count(3) == 2
    assert (kept.spared, kept.lost) == (([3], []) if "429" in name else ([], [3]))
    if name in {"429 in seconds", "429 as a date"}:
        assert time.monotonic() - started > 0.9, "the server's word counts"


@pytest.mark.parametrize("name", FINAL_FAULTS)
def test_a_fault_that_stays_is_a_row_and_asked_once(name: str, server: FaultServer) -> None:
    server.script = lambda body, seen: FINAL_FAULTS[name] if "number 3" in str(body) else Act()
    kept = asked(server, [request(n) for n in range(8)])
    found = kept.found[3]
    assert isinstance(found, Fault)
    assert found.kind == {"huge": "too large", "packed and huge": "too large"}.get(name, name)
    assert len(kept.texts) == 7
    assert kept.sent.count(3) == 1


def test_a_server_that_fails_again_and_again_makes_a_row_after_some_attempts(server: FaultServer) -> None:
    server.script = lambda body, seen: refused(500, "oops") if "number 3" in str(body) else Act()
    kept = asked(server, [request(n) for n in range(5)], max_attempts=3)
    found = kept.found[3]
    assert isinstance(found, Fault) and (found.kind, found.message) == ("server error", "500 oops")
    assert kept.sent.count(3) == 3 and kept.lost == [3, 3, 3]


def test_an_endpoint_that_hangs_is_told_and_ends_after_the_longest_wait(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facsynth.llm.endpoint.TOLD_S", 0.3)
    server.script, told = lambda body, seen: Act("hang"), list[str]()
    settings = EndpointSettings(server.url, MODEL, timeout_s=0.4, max_wait_s=0.6)
    with (
        Endpoint(settings, lambda seconds, why: told.append(why)) as endpoint,
        pytest.raises(IncompleteError, match="no whole response in 0.4 s\nIs it loading the model"),
    ):
        endpoint.ask([request(0)], Kept())
    assert told == ["no whole response in 0.4 s"] and server.seen.total() == 2


def test_an_endpoint_that_hangs_at_first_or_filters_is_asked_on(server: FaultServer) -> None:
    server.script = lambda body, seen: Act("hang") if seen < 3 else Act()
    assert len(asked(server, [request(0)], timeout_s=0.2).texts) == 1
    server.script = lambda body, seen: FINAL_FAULTS["content filter"] if "number 1" in str(body) else Act("hang")
    kept = asked(server, [request(1), request(2)], timeout_s=0.2, max_wait_s=0.1, concurrency=1, max_attempts=2)
    assert sorted(kept.found) == [0, 1], "a filter is an answer"


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (refused(403, "not for you"), "403 not for you\nGive it a key: $OPENAI_API_KEY is not set"),
        (refused(404, "The model `x` does not exist", "model_not_found"), "Give a model that it has"),
        (refused(404, "no route"), "Give the address that ends before /chat/completions"),
        (refused(307, "", location="https://elsewhere.example/v1"), "which points to https://elsewhere.example/v1"),
        (refused(400, "unknown field seed"), "400 unknown field seed\nChange or leave out fields of the request"),
    ],
)
def test_what_every_request_would_meet_stops_at_the_first(act: Act, reason: str, server: FaultServer) -> None:
    server.script = lambda body, seen: act
    with pytest.raises(ModelError) as caught:
        asked(server, [request(n) for n in range(100)])
    assert reason in str(caught.value)
    assert sum(server.seen.values()) <= limiter.START * (1 + (act.status == 400))


def test_an_empty_account_ends_in_a_run_that_can_be_gone_on_with(server: FaultServer) -> None:
    server.script = lambda body, seen: Act() if "number 0" in str(body) else refused(429, "pay", "insufficient_quota")
    kept = Kept()
    with (
        Endpoint(EndpointSettings(server.url, MODEL, concurrency=1)) as endpoint,
        pytest.raises(IncompleteError, match="429 pay\nSee the account"),
    ):
        endpoint.ask([request(n) for n in range(5)], kept)
    assert len(kept.texts) == 1


def test_a_bad_request_among_good_ones_is_a_row(server: FaultServer) -> None:
    server.script = lambda body, seen: refused(400, "too long") if "number 9" in str(body) else Act()
    kept = asked(server, [request(n) for n in range(10)], concurrency=2)
    found = kept.found[9]
    assert isinstance(found, Fault) and found.kind == "bad request"


def test_what_is_out_when_all_must_stop_is_kept(server: FaultServer) -> None:
    def script(body: dict[str, Any], seen: int) -> Act:
        return refused(401, "gone") if "number 5" in str(body) else Act()

    server.script, server.latency_s = script, 0.05
    kept = Kept()
    with Endpoint(EndpointSettings(server.url, MODEL, concurrency=4)) as endpoint, pytest.raises(ModelError):
        endpoint.ask([request(n) for n in range(50)], kept)
    assert sum(server.answered.values()) == len(kept.texts) < 50


def test_no_server_is_said_at_once_and_one_that_went_away_is_waited_for() -> None:
    with FaultServer() as server:
        url, port = server.url, int(server.url.rsplit(":", 1)[1].split("/")[0])
    started = time.monotonic()
    with Endpoint(EndpointSettings(url, MODEL)) as endpoint, pytest.raises(ModelError, match="Is the server running"):
        endpoint.ask([request(0)], Kept())
    assert time.monotonic() - started < 5
    told: list[str] = []
    with Endpoint(EndpointSettings(url, MODEL, max_wait_s=20), lambda seconds, why: told.append(why)) as endpoint:
        with FaultServer(port=port):
            endpoint.ask([request(0)], Kept())
        again, kept = FaultServer(port=port), Kept()

        def tell(seconds: float, why: str) -> None:
            if not told:
                told.append(why)
                again.__enter__()

        endpoint._limiter._tell = tell
        try:
            endpoint.ask([request(n) for n in range(1, 9)], kept)
        finally:
            again.__exit__()
    assert len(kept.texts) == 8 and told
    assert kept.lost == []


def test_a_key_is_sent_and_appears_nowhere_else(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    server.key = KEY
    kept = asked(server, [request(0)], key_env="SOME_KEY")
    assert len(kept.texts) == 1
    server.key = "another"
    with pytest.raises(ModelError) as caught:
        asked(server, [request(0)], key_env="SOME_KEY")
    assert "401 wrong key Bearer ***" in str(caught.value)
    assert KEY not in str(caught.value) and "See the key in $SOME_KEY" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "reason"),
    [("localhost:8000/v1", "is no address"), ("ftp://host/v1", "is no address"), ("", "is no address"),
     ("http://user:secret@host/v1", "Keys come from the environment alone"),
     ("http://host/v1?key=secret", "Keys come from the environment alone")],
)  # fmt: skip
def test_an_address_that_is_none_or_holds_a_key_is_refused(url: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason) as caught:
        Endpoint(EndpointSettings(url, MODEL))
    assert "secret" not in str(caught.value)


def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-ü\n")
    with pytest.raises(SettingsError, match="holds characters that no key has") as caught:
        Endpoint(EndpointSettings("http://localhost/v1", MODEL))
    assert "sk-" not in str(caught.value)


def test_the_model_is_looked_up_by_name(server: FaultServer) -> None:
    with Endpoint(EndpointSettings(server.url, MODEL)) as endpoint:
        assert endpoint.described() == server.models["data"][0]
        server.models = None
        assert endpoint.described() is None
        server.models = {"data": []}
        assert endpoint.described() is None
    server.models = {"data": [{"id": "a"}, {"id": "b"}]}
    with Endpoint(EndpointSettings(server.url, MODEL)) as endpoint, pytest.raises(ModelError, match="It has a, b."):
        endpoint.described()


def test_a_server_without_json_by_schema_is_asked_without(server: FaultServer) -> None:
    def script(body: dict[str, Any], seen: int) -> Act:
        return refused(400, "response_format is not supported") if "response_format" in body else Act(text="{}")

    server.script = script
    kept = asked(server, [request(n, json_schema='{"type": "object"}') for n in range(20)], concurrency=1)
    assert kept.texts == ["{}"] * 20
    assert sum(server.seen.values()) == 21


def test_an_error_of_the_desk_ends_it_and_comes_through(server: FaultServer) -> None:
    class Full(Kept):
        async def settle(self, number: int, found: Answered | Fault, latency_s: float) -> None:
            raise FacsynthError("the disk is full")

    with Endpoint(EndpointSettings(server.url, MODEL)) as endpoint, pytest.raises(FacsynthError, match="disk is full"):
        endpoint.ask([request(n) for n in range(50)], Full())
    assert sum(server.seen.values()) < 20
