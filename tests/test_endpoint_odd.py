"""What endpoints do that no protocol says: outages behind a proxy, odd headers, short keys, fields that break caps."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

from facsynth.errors import IncompleteError, ModelError, SettingsError
from facsynth.llm import Ledger, limiter
from facsynth.llm.address import EndpointSettings
from facsynth.llm.budget import NO_CAPS, Budget, Caps, Price
from facsynth.llm.endpoint import Endpoint
from facsynth.llm.endpoint_writer import EndpointWriter, identity_of
from facsynth.llm.wire import Answered, Fault, Kind, read_response
from fault_server import FINAL_FAULTS, MODEL, Act, FaultServer, refused
from test_endpoint import Kept, asked, request


def test_an_outage_behind_a_proxy_is_waited_for_and_costs_no_request(server: FaultServer) -> None:
    began: list[float] = []

    def script(body: dict[str, Any], seen: int) -> Act:
        if server.answered.total() == 20:
            began.append(time.monotonic())
        return refused(502, "bad gateway") if began and time.monotonic() < began[0] + 0.4 else Act()

    server.script = script
    kept = asked(server, [request(i) for i in range(40)], concurrency=4, max_attempts=2)
    assert len(kept.texts) == 40, "none is given up after two attempts"
    assert len(began) > 2


def test_an_outage_that_lasts_leaves_rows_that_the_next_command_asks_again(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facsynth.llm.endpoint.OUTAGE_S", 0.5)
    server.script = lambda body, seen: refused(503, "poison") if "number 3" in str(body) else Act()
    kept = asked(server, [request(i) for i in range(30)], concurrency=1, max_attempts=2)
    found = kept.found[3]
    assert isinstance(found, Fault) and found.kind is Kind.UNAVAILABLE and kept.sent.count(3) > 2
    assert len(kept.texts) == 29


def test_a_limit_that_says_to_wait_no_time_ends_too_and_is_not_asked_without_end(server: FaultServer) -> None:
    server.script = lambda body, seen: refused(429, "slow", retry_after="0")
    with pytest.raises(IncompleteError, match="lets nothing through: 429 slow"):
        asked(server, [request(i) for i in range(8)], max_wait_s=0.4)
    assert sum(server.seen.values()) < 60


def test_who_waits_hears_that_all_are_to_stop(server: FaultServer) -> None:
    def script(body: dict[str, Any], seen: int) -> Act:
        return Act() if "number 0" in str(body) else refused(429, "later", retry_after="30")

    server.script, stopped = script, threading.Event()
    with Endpoint(EndpointSettings(server.url, MODEL)) as endpoint:
        endpoint.ask([request(0)], Kept())

        def ask() -> None:
            with pytest.raises(IncompleteError):
                endpoint.ask([request(i) for i in range(1, 5)], Kept())
            stopped.set()

        waiting = threading.Thread(target=ask)
        waiting.start()
        while not server.seen.total() > 1:
            time.sleep(0.01)
    began = time.monotonic()
    assert stopped.wait(10) and time.monotonic() - began < 5
    waiting.join()


def test_what_is_out_when_another_part_fails_is_waited_for_and_kept(server: FaultServer) -> None:
    server.latency_s, kept = 0.3, Kept()
    failed = ModelError("elsewhere")
    with pytest.raises(ModelError, match="elsewhere"), Endpoint(EndpointSettings(server.url, MODEL)) as endpoint:
        waiting = threading.Thread(target=lambda: _quietly(endpoint, kept))
        waiting.start()
        while server.in_flight < 4:
            time.sleep(0.01)
        raise failed
    waiting.join()
    assert len(kept.texts) == len(set(kept.sent)) == sum(server.answered.values()) >= 4


def _quietly(endpoint: Endpoint, kept: Kept) -> None:
    with pytest.raises(IncompleteError):
        endpoint.ask([request(i) for i in range(64)], kept)


@pytest.mark.parametrize("key", ["x", "1", "EMPTY"])
def test_a_key_that_is_a_word_changes_no_reply(key: str, server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    server.key = key
    server.script = lambda body, seen: Act(text=f"an example 1 of {key}")
    assert asked(server, [request(0)]).texts == [f"an example 1 of {key}"]


def test_after_a_refusal_as_many_may_be_out_again(server: FaultServer) -> None:
    acts = iter([refused(429, "slow", retry_after="0"), *[FINAL_FAULTS["refusal"]] * 200])
    server.script, server.latency_s = lambda body, seen: next(acts), 0.02
    asked(server, [request(i) for i in range(150)], concurrency=16)
    assert server.peak > limiter.START, "more than before the 429"


def test_a_400_to_the_first_request_of_a_run_that_goes_on_is_a_row(server: FaultServer, tmp_path: Any) -> None:
    def write(n: int) -> int:
        with Ledger.open(tmp_path / "l") as ledger, Endpoint(EndpointSettings(server.url, MODEL)) as endpoint:
            writer = EndpointWriter(endpoint, ledger, Budget(NO_CAPS, Price()), identity="w")
            return sum(bool(reply.error) for reply in writer.write([request(i) for i in range(n)]))

    assert write(3) == 0
    server.script = lambda body, seen: refused(400, "This model's maximum context length is 4096 tokens")
    assert write(6) == 3


def test_a_passing_fault_does_not_change_who_the_endpoint_is(server: FaultServer) -> None:
    server.models_act = [refused(503, "loading"), refused(429, "slow", retry_after="0")]
    with Endpoint(EndpointSettings(server.url, MODEL)) as endpoint:
        assert (endpoint.described() or {})["id"] == MODEL
    server.models_act = [refused(503, "loading")] * 9
    with (
        Endpoint(EndpointSettings(server.url, MODEL)) as endpoint,
        pytest.raises(ModelError, match="does not work: 503 loading"),
    ):
        endpoint.described()
    server.models_act = [refused(404, "no route")] * 9
    with Endpoint(EndpointSettings(server.url, MODEL)) as endpoint:
        assert endpoint.described() is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1"),
        ("ALL_PROXY", "http://proxy:port"),
        ("SSL_CERT_FILE", "/nowhere/certificates.pem"),
    ],
)
def test_a_proxy_or_certificates_that_cannot_be_used_are_said(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="cannot be connected to"), Endpoint(EndpointSettings("https://x/v1", "m")):
        pass


@pytest.mark.parametrize(
    "extra",
    [
        {"n": 4},
        {"n_predict": 4096},
        {"echo": True},
        {"max_completion_tokens": 9},
        {"max_tokens": None},
        {"stream": True},
        {"a": float("nan")},
        {"a": {1}},
    ],
)
def test_fields_that_break_caps_or_cannot_be_sent_are_refused(extra: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"endpoint\.extra"):
        Endpoint(EndpointSettings("http://localhost/v1", "m", extra=extra))


def test_the_most_tokens_may_have_the_other_name(server: FaultServer) -> None:
    bodies: list[dict[str, Any]] = []
    server.script = lambda body, seen: bodies.append(body) or Act()  # type: ignore[func-returns-value]
    asked(server, [request(0)], limit_field="max_completion_tokens")
    assert bodies[0]["max_completion_tokens"] == 64 and "max_tokens" not in bodies[0]


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (429, b'{"error": {"message": "Request too large for x", "code": "rate_limit_exceeded"}}', Kind.REQUEST),
        (429, b'{"error": {"message": "You exceeded your current quota"}}', Kind.QUOTA),
        (400, b'{"error": {"message": "Your credit balance is too low"}}', Kind.QUOTA),
        (200, b'{"error": {"message": "no", "code": "invalid_api_key"}}', Kind.KEY),
        (502, b"<html>", Kind.UNAVAILABLE),
        (529, b'{"error": {"message": "overloaded"}}', Kind.UNAVAILABLE),
        (504, b"", Kind.TIMEOUT),
        (429, b'{"error": {"message": "You exceeded your current quota. Please retry in 5.5s."}}', Kind.RATE_LIMIT),
        (
            403,
            b'{"error": {"message": "Your chosen model requires moderation and your input was flagged"}}',
            Kind.FILTER,
        ),
        (500, b'{"error": {"message": "index_not_found in model runner"}}', Kind.SERVER),
        (
            200,
            b'{"choices": [{"error": {"code": 429, "message": "slow"}, "message": {"content": ""}}]}',
            Kind.RATE_LIMIT,
        ),
        (200, b'{"choices": [{"finish_reason": "abort", "message": {"content": "A cut sen"}}]}', Kind.SERVER),
        (200, b'{"choices": [{"finish_reason": "insufficient_system_resource", "text": "A cut"}]}', Kind.SERVER),
    ],
)
def test_what_a_status_means_depends_on_its_words(status: int, body: bytes, kind: Kind) -> None:
    found = read_response(status, {"retry-after": "Mon, 01 Jan 99999 00:00:00 GMT"}, body)
    assert isinstance(found, Fault) and found.kind is kind


def test_json_of_another_api_is_told_by_what_it_holds() -> None:
    for body, held in ((b'{"object": "x", "results": []}', "object, results"), (b"[1]", "a list")):
        found = read_response(200, {}, body)
        assert isinstance(found, Fault) and found.kind is Kind.MALFORMED
        assert found.message == f"there are no choices in it, as that API has: it holds {held}"


def test_a_wait_is_read_from_the_words_too_and_an_address_keeps_no_key() -> None:
    found = read_response(429, {}, b'{"error": {"message": "Please retry in 58.8s."}}')
    assert isinstance(found, Fault) and found.retry_after_s == 58.8
    found = read_response(307, {"location": "https://x/v1?api_key=SECRET"}, b"")
    assert isinstance(found, Fault) and "https://x/v1" in found.message and "SECRET" not in found.message


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 400}, (10, 390)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}, (10, 5)),
        ({"prompt_tokens": 10, "completion_tokens": 5}, (10, 5)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, (None, None)),
    ],
)
def test_thoughts_that_only_the_total_counts_are_counted_and_a_text_never_costs_nothing(
    usage: dict[str, int], counts: tuple[int | None, int | None]
) -> None:
    body = {"choices": [{"message": {"content": "a text"}, "finish_reason": "stop"}], "usage": usage}
    found = read_response(200, {}, json.dumps(body).encode())
    assert isinstance(found, Answered) and (found.prompt_tokens, found.written_tokens) == counts


def test_what_extra_adds_to_a_prompt_is_reserved_too(server: FaultServer, tmp_path: Any) -> None:
    with Ledger.open(tmp_path / "l") as ledger, Endpoint(EndpointSettings(server.url, MODEL)) as endpoint:
        budget = Budget(Caps(tokens=3_000), Price(), more_bytes=5_000)
        (reply,) = EndpointWriter(endpoint, ledger, budget, identity="w").write([request(0)])
    assert reply.error == "budget: the cap on tokens (3,000)" and not server.seen


def test_who_the_endpoint_is_does_not_change_with_a_price_or_a_fault(server: FaultServer) -> None:
    settings = EndpointSettings(server.url, MODEL)
    entry = {"id": MODEL, "max_model_len": 4096}
    assert identity_of(settings, entry | {"pricing": {"prompt": "0.1"}, "created": 3}) == identity_of(settings, entry)
    assert identity_of(settings, entry | {"max_model_len": 8192}) != identity_of(settings, entry)
    server.models_act = [refused(500, "oops")] * 9
    with Endpoint(settings) as endpoint, pytest.raises(ModelError, match="does not work: 500 oops"):
        endpoint.described()
    server.models_act = [refused(429, "slow", retry_after="0")] * 9
    with Endpoint(settings) as endpoint, pytest.raises(IncompleteError, match="does not work: 429 slow"):
        endpoint.described()


def test_a_run_that_goes_on_stops_at_two_requests_that_are_refused_for_more_than_their_length(
    server: FaultServer, tmp_path: Any
) -> None:
    asked_for = [request(i) for i in range(20)]

    def write(n: int) -> None:
        with Ledger.open(tmp_path / "l") as ledger, Endpoint(EndpointSettings(server.url, MODEL)) as endpoint:
            EndpointWriter(endpoint, ledger, Budget(NO_CAPS, Price()), identity="w").write(asked_for[:n])

    write(3)
    server.script = lambda body, seen: refused(400, "unknown field seed")
    with pytest.raises(ModelError, match="400 unknown field seed"):
        write(20)


def test_a_later_longer_wait_of_one_burst_is_kept_to() -> None:
    told: list[float] = []
    slots = limiter.Limiter(8, 60.0, lambda seconds, why: told.append(seconds))
    slots.limited(0.0, 0.1, "slow")
    slots.limited(0.0, 5.0, "slower")
    assert slots._paused_until - time.monotonic() > 4.5


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('"hm, so</think>\\n\\nthe text"', "the text"),
        ('"<think>hm</think>the text"', "the text"),
        ('"a text about <think>this</think>"', "a text about <think>this</think>"),
        ('[{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}]', "in parts"),
    ],
)
def test_the_text_is_what_stands_behind_thoughts_and_in_parts(content: str, text: str) -> None:
    found = read_response(200, {}, f'{{"choices": [{{"message": {{"content": {content}}}}}], "usage": NaN}}'.encode())
    assert isinstance(found, Answered) and found.text == text
