"""The writing loop, with a scripted writer and a measure that reads numbers out of the text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from facsynth.errors import SettingsError
from facsynth.llm import ScriptedWriter
from facsynth.llm.budget import NO_CAPS, Caps
from facsynth.records import Measurement, Message, Reply, Request, Sample, Span
from facsynth.store import Artifact
from facsynth.synthesis.accept import CleanSettings
from facsynth.synthesis.candidates import Synthesis
from facsynth.synthesis.loop import synthesize
from facsynth.synthesis.requests import FeatureTask, SynthesisSettings
from facsynth.synthesis.seen import NEARLY_THERE, Seen

STEERED = ("steered",)
ANYTHING = CleanSettings(near=1)
"""Texts of tests are much alike."""
SPANS = tuple(Span(0, f"piece {n}", str(n), 9.0, "0" * 16, 3, f"piece {n} goes on") for n in range(6))


def task(feature_id: int, n_wanted: int = 1) -> FeatureTask:
    return FeatureTask(feature_id, threshold=1.0, n_wanted=n_wanted, spans=SPANS)


def measure(samples: Sequence[Sample]) -> list[Measurement | None]:
    """`fires 3=2.5` in a text fires feature 3 with 2.5; `broken` cannot be encoded."""
    found: list[Measurement | None] = []
    for sample in samples:
        maxima = {int(f): (float(a), 1) for f, a in re.findall(r"(\d+)=([\d.]+)", sample.text)}
        found.append(None if "broken" in sample.text else Measurement(maxima, lambda position: f"until {position}"))
    return found


def run(
    folder: Path,
    answer: Callable[[Request], str | Reply],
    tasks: Sequence[FeatureTask],
    *,
    known_samples: Sequence[tuple[str, str]] = (),
    per_wave: int = 2,
    max_candidates: int = 6,
    caps: Caps = NO_CAPS,
    lag: int = 0,
    control: float = 0.0,
    clean: CleanSettings = ANYTHING,
    steps: int = 1,
    rungs: tuple[str, ...] = STEERED,
    rounds: int = 1,
    **more: float,
) -> tuple[Synthesis, ScriptedWriter]:
    settings = SynthesisSettings(
        per_wave=per_wave, max_candidates=max_candidates, max_tokens=20, control=control, caps=caps, lag=lag,
        clean=clean, steps=steps, rungs=rungs, rounds=rounds, **more,
    )  # fmt: skip
    writer, seen = ScriptedWriter(answer), Seen.of(known_samples, clean)
    artifact = Artifact(folder, "synthesize", {}, {})
    return synthesize(tasks, writer, measure, artifact, settings, seen=seen), writer


def feature_of(request: Request) -> int:
    return request.steering[0][0] if request.steering else -1


def test_a_feature_gets_what_it_wants_and_no_more_is_written_for_it(tmp_path: Path) -> None:
    found, writer = run(tmp_path, lambda r: f"try {r.sample_index} fires {feature_of(r)}=3.0", [task(1), task(2)])
    assert [c.feature for c in found.accepted] == [1, 2]
    assert len(writer.history) == 4
    assert [c.reason for c in found.rejected] == ["fires only what has its samples"] * 2
    assert found.gave_up == {}
    assert found.stop_reason == "every attempted feature has its samples"


def test_the_strongest_candidate_of_a_wave_is_the_one_kept(tmp_path: Path) -> None:
    found, _ = run(tmp_path, lambda r: f"try {r.sample_index} fires 1={2 + r.sample_index}.5", [task(1)], per_wave=3)
    assert [c.activation for c in found.accepted] == [4.5]


def test_a_candidate_counts_for_whatever_attempted_feature_it_fires(tmp_path: Path) -> None:
    found, _ = run(
        tmp_path, lambda r: f"try {r.sample_index} by {feature_of(r)} fires 2={4 - feature_of(r)}.0",
        [task(1), task(2, 2)], max_candidates=2, per_wave=1,
    )  # fmt: skip
    assert [(c.written_for, c.feature) for c in found.accepted] == [(1, 2), (2, 2)]
    assert found.gave_up == {1: 2}


def test_just_above_the_threshold_is_not_enough(tmp_path: Path) -> None:
    found, _ = run(tmp_path, lambda r: f"try {r.sample_index} fires 1=1.04", [task(1)])
    assert found.accepted == []
    assert {c.reason for c in found.rejected} == {"does not fire"}
    assert max(c.activation for c in found.rejected) == 1.04
    assert found.stop_reason == "the candidates of the remaining features are spent"


def test_equal_texts_and_known_samples_count_once(tmp_path: Path) -> None:
    known = Sample((Message("user", "known text fires 1=3.0"),)).sample_id
    answers = {0: "known text fires 1=3.0", 1: "a fresh text fires 1=3.0"}
    found, _ = run(
        tmp_path,
        lambda r: answers.get(r.sample_index, "a fresh text fires 1=3.0"),
        [task(1, 2)],
        known_samples=[(known, "known text")],
    )
    assert len(found.accepted) == 1
    assert {c.reason for c in found.rejected} == {"is there already"}


def test_what_cannot_be_encoded_is_a_row_with_its_reason(tmp_path: Path) -> None:
    found, _ = run(tmp_path, lambda r: f"broken text number {r.sample_index} 1=3.0", [task(1)], max_candidates=2)
    assert [c.reason for c in found.rejected] == ["cannot be encoded"] * 2


def test_the_control_is_plain_and_kept_apart(tmp_path: Path) -> None:
    found, writer = run(tmp_path, lambda r: f"plain or not {r.sample_index} fires 7=9", [task(1), task(7)], control=0.5)
    plain = [r for r in writer.history if not r.steering]
    assert len(plain) == len(found.control) == -(-(len(found.accepted) + len(found.rejected)) // 2)
    assert all("piece" not in r.messages[0].content for r in plain)
    assert all(7 in c.fires for c in found.control)
    assert not set(found.control) & set(found.accepted)


def test_plain_samples_fire_at_the_threshold_as_recovered_counts_and_copies_are_told(tmp_path: Path) -> None:
    known = Sample((Message("user", "known plain text fires 1=3.0"),)).sample_id
    plain = ["fires just so 1=1.02", "fires just so 1=1.02", "fires less now 1=0.99", "known plain text fires 1=3.0"]

    def answer(request: Request) -> str:
        return "of a task 1=0.1" if request.steering else plain[request.sample_index]

    found, _ = run(tmp_path, answer, [task(1)], max_candidates=4, control=1, known_samples=[(known, "known text")])
    assert [c.fires for c in found.control] == [(1,), (1,), (), (1,)]
    assert [c.reason for c in found.control] == ["", "is there already", "does not fire", "is there already"]


def test_settings_that_write_nothing_are_refused() -> None:
    with pytest.raises(SettingsError, match="per_wave is 0"):
        SynthesisSettings(per_wave=0)
    with pytest.raises(SettingsError, match="control is 2"):
        SynthesisSettings(control=2)


def test_a_feature_that_wants_many_samples_gets_them_while_candidates_fire_it(tmp_path: Path) -> None:
    found, _ = run(
        tmp_path, lambda r: f"try {r.sample_index} fires {feature_of(r)}={1 + r.sample_index % 3}",
        [task(1, 30), task(2, 30)], max_candidates=6,
    )  # fmt: skip
    assert len(found.accepted) == 60
    assert found.gave_up == {}


def test_candidates_in_vain_are_counted_from_the_last_accepted_one(tmp_path: Path) -> None:
    found, writer = run(
        tmp_path, lambda r: f"try {r.sample_index} fires 1={3 if r.sample_index in (0, 5) else 0}", [task(1, 30)],
        max_candidates=6,
    )  # fmt: skip
    assert len(found.accepted) == 2
    assert found.gave_up == {1: 12}, "the wave of the second one ends at the sixth candidate"
    assert len(writer.history) == 12


def test_a_near_duplicate_of_seed_set_anchor_or_accepted_samples_adds_nothing(tmp_path: Path) -> None:
    answers = [
        "in spring the wide river rose over night and took the old bridge away fires 1=3.0",
        "In spring, the wide river rose over night and took the OLD bridge away: fires 1=9.0",
        "a dog slept below the old kitchen table until noon fires 1=2.0",
        "every oven in that bakery needs new bricks this winter fires 1=2.0",
    ]
    anchor = ("0" * 16, "A dog slept below the old kitchen table until noon, and barked.")
    found, _ = run(
        tmp_path, lambda r: answers[r.sample_index % 4], [task(1, 2)], known_samples=[anchor], per_wave=4,
        clean=CleanSettings(),
    )  # fmt: skip
    assert [c.text for c in found.accepted] == [answers[1], answers[3]]
    assert [c.reason for c in found.rejected[:2]] == [NEARLY_THERE, NEARLY_THERE]
    again, _ = run(tmp_path / "all", lambda r: answers[r.sample_index % 4], [task(1, 4)], per_wave=4)
    assert len(again.accepted) == 4
