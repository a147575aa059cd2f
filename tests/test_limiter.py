"""How many requests are out at once at a server that limits them, and how long a limit is waited for."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from facsynth.errors import IncompleteError
from facsynth.llm.address import EndpointSettings
from facsynth.llm.endpoint import Endpoint
from fault_server import MODEL, Act, FaultServer, refused
from test_endpoint import Kept, asked, request


@pytest.mark.slow
def test_a_limit_of_the_server_is_found_and_kept_to(server: FaultServer) -> None:
    server.limit, server.latency_s = 6, 0.03
    kept = asked(server, [request(n) for n in range(200)], concurrency=64)
    assert len(kept.texts) == 200
    assert server.n_limited <= 60, "it is not asked too much for long"
    assert max(server.seen.values()) == 1, "what was limited was not seen by the model"


def test_while_a_limit_lasts_one_request_at_a_time_looks_whether_it_has_passed(server: FaultServer) -> None:
    with Endpoint(EndpointSettings(server.url, MODEL, concurrency=32)) as endpoint:
        endpoint.ask([request(n) for n in range(150)], Kept())
        assert endpoint._limiter.limit == 32
        until = time.monotonic() + 0.8
        limited: list[float] = []

        def script(body: dict[str, Any], seen: int) -> Act:
            if time.monotonic() > until:
                return Act()
            limited.append(time.monotonic())
            return refused(429, "slow", retry_after="0.05")

        server.script = script
        endpoint.ask([request(n) for n in range(150, 300)], Kept())
        assert endpoint._limiter.limit > 0.74 * 32, "a burst is one sign of too many, however long it lasts"
    assert 32 <= len(limited) <= 32 + 32, "the first ones, and then one after each wait"


@pytest.mark.slow
def test_replies_to_what_was_out_before_a_limit_are_no_sign_that_it_has_passed(server: FaultServer) -> None:
    with Endpoint(EndpointSettings(server.url, MODEL, concurrency=32)) as endpoint:
        endpoint.ask([request(n) for n in range(150)], Kept())
        server.latency_s = 0.6
        begins, ends = (threading.Timer(s, setattr, (server, "limit", n)) for s, n in ((0.3, 0), (1.2, 32)))
        begins.start(), ends.start()
        endpoint.ask([request(n) for n in range(150, 214)], Kept())
        ends.join()
        assert server.n_limited > 0
        assert endpoint._limiter.limit > 0.74 * 32, "slots are taken away once"


def test_a_limit_that_lasts_ends_after_max_wait_and_can_be_gone_on_with(server: FaultServer) -> None:
    server.script = lambda body, seen: refused(429, "slow down")
    told: list[str] = []
    settings = EndpointSettings(server.url, MODEL, max_wait_s=0.4)
    with (
        Endpoint(settings, lambda seconds, why: told.append(why)) as endpoint,
        pytest.raises(
            IncompleteError, match=r"lets nothing through: 429 slow down\n.* longer than 0.4 s \(--max-wait\)"
        ),
    ):
        endpoint.ask([request(n) for n in range(4)], Kept())
    assert told and set(told) == {"429 slow down"}
