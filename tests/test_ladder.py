"""The rungs of writing, what each is left for, and the strength that a feature is steered with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import pytest

from facsynth.llm import Ledger, LedgerWriter, ScriptedWriter
from facsynth.llm.budget import Caps
from facsynth.records import NON_FINITE, Reply, Request
from facsynth.store import Artifact
from facsynth.synthesis.accept import NOTHING_FIRES, POOR, REPEATS, WRITER_ERROR
from facsynth.synthesis.candidates import PLAIN, RUNGS, Candidate
from facsynth.synthesis.ladder import Strength
from facsynth.synthesis.loop import synthesize
from facsynth.synthesis.requests import SynthesisSettings
from facsynth.synthesis.seen import THERE_ALREADY
from test_loop import feature_of, measure, run, task


def strengths(history: Sequence[Request]) -> list[float]:
    return [request.steering[0][1] if request.steering else 0.0 for request in history]


def test_steering_rises_while_it_does_nothing_and_is_bisected_once_texts_break(tmp_path: Path) -> None:
    def answer(request: Request) -> str:
        broken = request.steering[0][1] > 0.5
        return "no no no no no no no no no no" if broken else f"nothing of use {request.sample_index}"

    _, writer = run(tmp_path, answer, [task(1)], per_wave=9, max_candidates=54)
    tried = [strength for strength, _ in groupby(strengths(writer.history))]
    assert tried[:4] == pytest.approx([0.2, 0.3, 0.45, 0.675]) and tried[4] == pytest.approx(0.5625)
    assert len(writer.history) == 54


def test_a_feature_that_needed_many_in_vain_gets_larger_waves_and_the_search_begins_anew(tmp_path: Path) -> None:
    _, writer = run(tmp_path, lambda r: f"nothing of use {r.sample_index}", [task(1)], per_wave=2, max_candidates=400)
    found = [(s, len(list(same))) for s, same in groupby(strengths(writer.history))]
    assert [n for _, n in found] == [2, 2, 2, 3, 4, 6, 9, 14, 21, 31, 47, 70, 105, 84]
    assert max(s for s, _ in found) < 8 and [s for s, _ in found[-4:]] == pytest.approx([0.2, 0.3, 0.45, 0.675])


def test_a_strength_that_fires_the_feature_stays(tmp_path: Path) -> None:
    _, writer = run(
        tmp_path, lambda r: f"try {r.sample_index} 1={3 if r.steering[0][1] > 0.25 else 0}", [task(1, 6)],
        per_wave=2,
    )  # fmt: skip
    assert strengths(writer.history) == pytest.approx([0.2] * 2 + [0.3] * 6)


def test_rungs_are_tried_one_after_the_other_each_for_what_is_left(tmp_path: Path) -> None:
    def answer(request: Request) -> str:
        n, is_plain = request.sample_index, "piece" not in request.messages[0].content
        if is_plain:
            return f"message number {n} of a kind 1={5 if n == 2 else 0}"
        return f"try {n} with spans 2=5" if not request.steering else f"try {n} by {feature_of(request)} 3=5"

    found, writer = run(tmp_path, answer, [task(1), task(2), task(3)], rungs=RUNGS, plain_yield=1000.0)
    assert [(c.feature, c.rung) for c in found.accepted] == [(1, "plain"), (2, "spans"), (3, "steered")]
    assert [len([r for r in writer.history if is_of(r, rung)]) for rung in RUNGS] == [6, 4, 2]
    assert [c.written_for for c in found.accepted] == [PLAIN, 2, 3]
    assert found.gave_up == {}


def is_of(request: Request, rung: str) -> bool:
    shows = "piece" in request.messages[0].content
    return {"plain": not shows, "spans": shows and not request.steering, "steered": bool(request.steering)}[rung]


def test_plain_samples_are_selected_by_what_they_close_and_written_while_they_do(tmp_path: Path) -> None:
    def answer(request: Request) -> Reply:
        n = request.sample_index
        fires = {0: "1=9", 1: "1=2 2=2 3=2", 6: "4=2"}.get(n, "")
        return Reply(f"plain sample number {n} with {fires}", "stop", 5, 200, 0.1)

    tasks = [task(n) for n in range(1, 6)]
    found, writer = run(tmp_path, answer, tasks, rungs=("plain",), plain_yield=1.0, per_wave=1)
    assert [c.fires for c in found.accepted] == [(1, 2, 3), (4,)]
    assert len(writer.history) == 5 + 2 + 1, "each wave is as large as what is open; the third closes nothing"
    assert found.gave_up.keys() == {5}


def test_the_control_costs_nothing_where_plain_samples_were_written(tmp_path: Path) -> None:
    def answer(request: Request) -> str:
        return f"of no use at all {request.sample_index}"

    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        writer = ScriptedWriter(answer)
        settings = SynthesisSettings(per_wave=2, max_candidates=4, max_tokens=20, rungs=("plain", "spans"))
        artifact = Artifact(tmp_path / "out", "synthesize", {}, {})
        found = synthesize([task(1), task(2)], LedgerWriter(writer, ledger), measure, artifact, settings)
    plain = [r for r in writer.history if is_of(r, "plain")]
    assert len(found.control) == len(plain) == 4
    assert sum(c.n_calls for c in (*found.rejected, *found.control)) == len(writer.history)


def test_nothing_more_is_written_once_windows_give_too_little(tmp_path: Path) -> None:
    def answer(request: Request) -> Reply:
        return Reply(f"nothing of use {request.sample_index}", "stop", 5, 250, 0.1)

    found, writer = run(tmp_path, answer, [task(1), task(2)], max_candidates=100, min_yield=0.5, n_windows=2)
    assert found.stop_reason == "under 0.5 new samples per 1,000 written tokens, 2 windows in a row"
    assert len(writer.history) == 2 * 1000 // 250


def test_another_round_is_for_what_is_missing_and_only_after_one_that_closed_something(tmp_path: Path) -> None:
    def answer(request: Request) -> str:
        n, feature = request.sample_index, feature_of(request)
        return f"try {n} for {feature} {feature}={5 if (feature, n) in {(1, 0), (2, 7)} else 0}"

    tasks = [task(1), task(2), task(3)]
    once, _ = run(tmp_path / "1", answer, tasks, max_candidates=6)
    found, _ = run(tmp_path / "9", answer, tasks, max_candidates=6, rounds=9)
    assert once.gave_up == {2: 6, 3: 6}
    assert found.gave_up == {3: 18}, "the third round closed nothing"


def test_where_a_cap_is_near_features_that_came_nearest_go_first(tmp_path: Path) -> None:
    def answer(request: Request) -> str:
        feature = feature_of(request)
        return f"try {request.sample_index} {feature}={feature / 10}"

    _, writer = run(tmp_path, answer, [task(1), task(2), task(3)], per_wave=1, caps=Caps(calls=4))
    assert [feature_of(r) for r in writer.history] == [1, 2, 3, 3]


def test_what_a_judge_found_poor_has_fired_and_errors_of_the_writer_say_nothing_of_a_strength() -> None:
    poor = Candidate(1, "a text", POOR, fires=(1,), strength=0.2)
    failed = Candidate(1, "", f"{WRITER_ERROR}: prompt too long: 99 tokens", strength=0.2)
    in_vain = Candidate(1, "a text", NOTHING_FIRES, strength=0.2)
    reply = Candidate(1, "a text", REPEATS, strength=0.2, fault_at="assistant")
    for candidates, then in (
        ([poor], 0.2),
        ([reply], 0.2),
        ([reply, in_vain], 0.3),
        ([failed], 0.2),
        ([failed, failed, in_vain], 0.3),
        ([in_vain], 0.3),
    ):
        strength = Strength(0.2)
        strength.take(candidates)
        assert strength.now == pytest.approx(then)


def test_logits_that_are_no_numbers_are_a_strength_too_high() -> None:
    strength = Strength(0.4)
    strength.take([Candidate(1, "", f"{WRITER_ERROR}: {NON_FINITE}: the logits of token 3", strength=0.4)])
    assert strength.now == pytest.approx(0.2)


def test_a_rung_of_plain_requests_that_gave_too_little_is_left_for_good(tmp_path: Path) -> None:
    def answer(request: Request) -> str:
        n = request.sample_index
        is_plain = "piece" not in request.messages[0].content
        return f"message number {n} of a kind {f'{n - 15}=5' if is_plain and n >= 16 else ''}"

    _, writer = run(tmp_path, answer, [task(n) for n in range(1, 17)], rungs=RUNGS[:2], plain_yield=1.0, lag=1)
    asked = [is_of(r, "plain") for r in writer.history]
    assert sum(asked) == 32, "the second wave was out when the first one gave nothing"
    assert not any(asked[33:])


def test_plain_requests_that_failed_are_not_asked_again_for_the_control(tmp_path: Path) -> None:
    asked: Counter[int] = Counter()

    def answer(request: Request) -> str | Reply:
        if is_of(request, "plain"):
            asked[request.sample_index] += 1
            if request.sample_index == 1 and asked[1] == 1:
                return Reply("", "error", 0, 0, 0.0, error="timeout: none came")
        return f"of no use at all {request.sample_index}"

    found, _ = run(tmp_path, answer, [task(1), task(2)], rungs=RUNGS[:2], max_candidates=4, control=0.1)
    assert [c.n_calls for c in found.control] == [0, 0, 0]
    assert set(asked.values()) == {1, 2} and asked[1] == 1


def test_plain_samples_of_different_waves_are_compared(tmp_path: Path) -> None:
    def answer(request: Request) -> str:
        return "of no use at all" if is_of(request, "plain") else f"nothing for {request.sample_index}"

    found, _ = run(
        tmp_path, answer, [task(1)], rungs=("plain", "spans"), per_wave=1, max_candidates=20, control=0.5,
        plain_yield=1000.0,
    )  # fmt: skip
    assert len(found.control) > 4
    assert [c.reason for c in found.control][1:] == [THERE_ALREADY] * (len(found.control) - 1)
