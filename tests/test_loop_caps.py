"""What the writing loop asks for: never more than caps allow, nothing twice after a stop, and what ends it is said."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from facsynth.errors import ModelError
from facsynth.llm import Ledger, LedgerWriter, ScriptedWriter
from facsynth.llm.budget import NOT_SENT, Amount, Caps
from facsynth.records import Measurement, Reply, Request, Sample
from facsynth.store import Artifact
from facsynth.synthesis.candidates import RUNGS, Synthesis
from facsynth.synthesis.loop import synthesize
from facsynth.synthesis.requests import SynthesisSettings, worst_amount
from test_loop import STEERED, feature_of, measure, run, task


def amount_of(found: Synthesis) -> Amount:
    rows = [*found.accepted, *found.rejected, *found.control]
    return Amount(sum(c.n_calls for c in rows), sum(c.prompt_tokens + c.written_tokens for c in rows))


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize(
    ("caps", "reason"),
    [
        (Caps(tokens=2000), "the cap on tokens (2,000) is reached"),
        (Caps(calls=13), "the cap on calls (13) is reached"),
    ],
)
def test_a_cap_is_never_exceeded_and_the_share_of_the_control_is_kept(
    caps: Caps, reason: str, lag: int, tmp_path: Path
) -> None:
    found, writer = run(
        tmp_path, lambda r: "nothing of use " * 3 + str(r.sample_index), [task(n) for n in range(5)],
        caps=caps, control=0.5, lag=lag,
    )  # fmt: skip
    spent = amount_of(found)
    assert not caps.exceeded(spent)
    assert spent.calls == len(writer.history) > 4
    worst = worst_amount(writer.history[0], SynthesisSettings(max_tokens=20))
    assert caps.exceeded(spent.plus(Amount(3, 3 * worst.tokens))), "it is used up but for what a few may cost"
    assert len(found.control) == -(-len(found.rejected) // 2)
    assert found.stop_reason == reason
    assert found.gave_up.keys() == {0, 1, 2, 3, 4}


def test_a_wave_that_no_cap_has_room_for_ends_it_with_what_was_answered(tmp_path: Path) -> None:
    def answer(request: Request) -> str | Reply:
        unsent = Reply("", "error", 0, 0, 0.0, error=f"{NOT_SENT}: the cap on money (2)")
        return "of no use to anybody" if request.sample_index < 3 else unsent

    found, _ = run(tmp_path, answer, [task(1), task(2)])
    assert found.stop_reason == "the cap on money (2) is reached"
    assert len(found.rejected) == 8
    assert found.gave_up == {1: 4, 2: 4}


def test_with_a_lag_a_wave_is_asked_for_before_the_one_before_it_is_decided(tmp_path: Path) -> None:
    order: list[str] = []

    def answer(request: Request) -> str:
        order.append(f"asked {request.sample_index}")
        return f"nothing of use {request.sample_index}"

    def slow_measure(samples: Sequence[Sample]) -> list[Measurement | None]:
        time.sleep(0.2)
        order.append("decided")
        return measure(samples)

    settings = SynthesisSettings(rungs=STEERED, per_wave=1, max_candidates=4, max_tokens=20, control=0, lag=1)
    artifact = Artifact(tmp_path, "synthesize", {}, {})
    synthesize([task(1)], ScriptedWriter(answer), slow_measure, artifact, settings)
    assert sorted(order[:2]) == ["asked 0", "asked 1"] and order[2] == "decided"
    assert order.count("decided") == 4 and [line for line in order if "asked" in line] == [
        f"asked {n}" for n in range(4)
    ]


def test_a_reply_that_did_not_end_is_asked_for_once_more_and_both_are_counted(tmp_path: Path) -> None:
    def answer(request: Request) -> Reply:
        if request.max_tokens == 20:
            return Reply("a text that is", "length", 10, 20, 0.1)
        return Reply(f"a text that fires {feature_of(request)}=3.0", "stop", 10, 25, 0.1)

    settings = SynthesisSettings(rungs=STEERED, per_wave=1, max_tokens=20, control=0, n_tries=2)
    artifact = Artifact(tmp_path, "synthesize", {}, {})
    found = synthesize([task(1)], ScriptedWriter(answer), measure, artifact, settings)
    (candidate,) = found.accepted
    assert (candidate.n_calls, candidate.prompt_tokens, candidate.written_tokens) == (2, 20, 45)


def test_no_features_to_attempt_is_said(tmp_path: Path) -> None:
    found, _ = run(tmp_path, lambda r: "never asked", [])
    assert found.stop_reason == "no feature was attempted"


def test_interrupted_anywhere_the_result_is_the_same(tmp_path: Path) -> None:
    def answer(request: Request) -> str:
        n = request.sample_index
        return f"a text of {n} fires {feature_of(request)}={n / 2}"

    tasks = [task(n, 2) for n in range(4)]
    settings = SynthesisSettings(per_wave=2, max_candidates=6, max_tokens=20, control=0.5, plain_yield=0.1, rungs=RUNGS)
    whole = tmp_path / "whole"
    with Ledger.open(tmp_path / "whole.sqlite") as ledger:
        writer = LedgerWriter(ScriptedWriter(answer), ledger)
        expected = synthesize(tasks, writer, measure, Artifact(whole, "synthesize", {}, {}), settings)

    class StopError(Exception):
        pass

    for stop_after in (1, 6, 11, 20, 27):
        folder, ledger_path = tmp_path / f"{stop_after}", tmp_path / f"{stop_after}.sqlite"
        calls = 0

        def interrupted(request: Request, stop_after: int = stop_after) -> str:
            nonlocal calls
            calls += 1
            if calls == stop_after:
                raise StopError
            return answer(request)

        for writer_answer in (interrupted, answer):
            with Ledger.open(ledger_path) as ledger:
                writer = LedgerWriter(ScriptedWriter(writer_answer), ledger)
                artifact = Artifact(folder, "synthesize", {}, {})
                try:
                    result = synthesize(tasks, writer, measure, artifact, settings)
                except StopError:
                    continue
        assert result == expected
        for path in sorted(whole.rglob("*.jsonl")):
            assert (folder / path.relative_to(whole)).read_bytes() == path.read_bytes()


def test_a_writer_that_answers_nothing_ends_the_run_before_anything_is_decided(tmp_path: Path) -> None:
    def answer(request: Request) -> Reply:
        return Reply("", "error", 0, 0, 0.0, error="prompt too long: 99 tokens")

    with pytest.raises(ModelError, match=r"finished none of 2 samples: prompt too long: 99 tokens\nMend"):
        run(tmp_path, answer, [task(1)])
    assert not (tmp_path / "waves").exists()
