"""What a run leaves behind: its figures worked out by hand, on profiles of ten features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from facsynth.coverage.coverage import coverage, targets, under_represented
from facsynth.coverage.richness import richness
from facsynth.meaning.relevance import everything
from facsynth.measure import Measured
from facsynth.outcome import coverage_record, write_outcome
from facsynth.profile import Profile, ProfileBuilder, merge
from facsynth.records import Span
from facsynth.scale import Curve, Scale
from facsynth.settings import RunSettings, parse_settings
from facsynth.store import read_json, read_jsonl
from facsynth.synthesis.accept import NOTHING_FIRES, text_sha256
from facsynth.synthesis.candidates import PLAIN, Candidate, Synthesis
from facsynth.synthesis.requests import FeatureTask

D_SAE = 10
SPACE: Any = SimpleNamespace(
    identity={"model": "m" * 64, "sae": "s" * 64}, backbone=SimpleNamespace(name="tiny", hook_point="layers.1"),
    sae=SimpleNamespace(notes=("SAE: k is taken from a name",)),
)  # fmt: skip


def profile(rows: list[list[int]], name: str) -> Profile:
    """Samples that fire the listed features at 2.0, with 8 content tokens each."""
    builder = ProfileBuilder(SPACE.identity, D_SAE)
    entries = [(sample, feature) for sample, row in enumerate(rows) for feature in row]
    sample, feature = (np.array(column, np.int64) for column in zip(*entries, strict=True))
    ones = np.ones(len(entries))
    ids = [f"{ord(name) * 1000 + n:016x}" for n in range(len(rows))]
    builder.add(ids, [8] * len(rows), sample, feature, 2 * ones, ones, ones)
    return builder.build()


ANCHOR = profile([list(range(D_SAE))] * 4, "a")
SEED = profile([[0, 1], [1, 2]], "s")
"""Covers 0, 1 and 2; 3 to 9 are missing."""
CURVE = Curve([], [])
NO_WEIGHT = np.zeros(D_SAE, np.float32)


def settings(**coverage_block: Any) -> RunSettings:
    block = {"relevance": "all", "threshold": "0.0"} | coverage_block
    return parse_settings({"data": {"seed": "dir/a.jsonl", "anchor": "b.jsonl"}, "coverage": block}, "the test")


def measured(seed: Profile = SEED, min_support: int = 1) -> Measured:
    aims = targets(ANCHOR, NO_WEIGHT)
    return Measured(
        thresholds=NO_WEIGHT, relevance=everything(ANCHOR), targets=aims,
        coverage=coverage(seed, aims, NO_WEIGHT, min_support), under=under_represented(seed, ANCHOR, aims, NO_WEIGHT),
        scale=Scale(0.9, 0.3, 0.8, 0.3, 8, CURVE, CURVE), interval=None, notes=("a note",), others=(),
        source=richness(seed.firing_samples(NO_WEIGHT), seed.n_samples),
    )  # fmt: skip


def task(feature: int, n_wanted: int = 1) -> FeatureTask:
    return FeatureTask(feature, 1.0, n_wanted, (Span(feature, "a span", " span", 2.0, "0" * 16, 3),))


def accepted(feature: int, *also: int) -> Candidate:
    return Candidate(
        feature, f"text {feature}", "", feature=feature, activation=2.0, position=3, span="text",
        fires=(feature, *also), sample_id="1" * 16, prompt_hash="p", strength=0.4, written_tokens=20, rung="steered",
    )  # fmt: skip


def rejected(feature: int, reason: str = NOTHING_FIRES, activation: float = 0.5) -> Candidate:
    return Candidate(feature, "no", reason, feature=feature, activation=activation, written_tokens=20, rung="spans")


def control(*fires: int, reason: str = "") -> Candidate:
    return Candidate(-1, "plain", reason or ("" if fires else NOTHING_FIRES), fires=fires, written_tokens=10)


def outcome(
    out: Path, tasks: list[FeatureTask], candidates: list[Candidate], plain: list[Candidate] | None = None,
    gave_up: dict[int, int] | None = None, seed: Profile = SEED, min_support: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Write the outcome of a run and read its summary."""
    kept = [c for c in candidates if not c.reason]
    filled = merge([seed, *([profile([list(c.fires) for c in kept], "w")] if kept else [])])
    written = Synthesis(
        kept, [c for c in candidates if c.reason], gave_up or {}, plain or [],
        "the candidates of the remaining features are spent",
    )  # fmt: skip
    write_outcome(
        out, before=measured(seed, min_support), anchor=ANCHOR, filled=filled, written=written, tasks=tasks,
        space=SPACE, writer="local:tiny", settings=settings(min_support=min_support), seconds=1.25,
    )  # fmt: skip
    return dict(read_json(out / "summary.json"))


def test_recovered_is_of_all_missing_and_recovered_of_attempted_of_those_tried(tmp_path: Path) -> None:
    tasks = [task(feature) for feature in (3, 4, 5)]
    found = outcome(tmp_path, tasks, [accepted(3, 9), accepted(4), rejected(5)], gave_up={5: 1})
    assert (found["n_missing"], found["n_attempted"], found["n_recovered"]) == (7, 3, 2)
    assert found["recovered"] == pytest.approx(3 / 7)  # 9 was not attempted, but it fires now
    assert found["recovered_of_attempted"] == pytest.approx(2 / 3)
    assert (found["before"], found["after"]) == (0.3, 0.6)
    assert read_json(tmp_path / "coverage" / "after.json")["missing"] == [5, 6, 7, 8]
    assert (found["n_accepted"], found["n_rejected"], found["n_gave_up"]) == (2, {NOTHING_FIRES: 1}, 1)
    assert found["accepted_per_1000_tokens"] == pytest.approx(1000 * 2 / 60)


def test_a_feature_that_got_no_call_counts_as_attempted_and_not_recovered(tmp_path: Path) -> None:
    found = outcome(tmp_path, [task(3), task(4)], [accepted(3)], gave_up={4: 0})
    assert (found["n_attempted"], found["recovered_of_attempted"]) == (2, 0.5)
    (row,) = read_jsonl(tmp_path / "gave_up.jsonl")
    assert (row["feature"], row["n_candidates"], row["reason"]) == (4, 0, "no candidate was written")


def test_an_under_represented_feature_is_recovered_when_it_has_all_it_wanted(tmp_path: Path) -> None:
    # 0 and 1 are covered already, so activity says nothing: what counts is whether they were given up.
    tasks = [task(0, n_wanted=2), task(1, n_wanted=3), task(3)]
    found = outcome(tmp_path, tasks, [accepted(0), accepted(0), accepted(1)], gave_up={1: 4, 3: 2})
    assert (found["n_recovered"], found["recovered_of_attempted"]) == (1, pytest.approx(1 / 3))
    assert found["recovered"] == 0  # of the missing ones, none


def test_with_a_higher_support_one_sample_does_not_recover(tmp_path: Path) -> None:
    tasks = [task(3, n_wanted=2), task(4, n_wanted=2)]
    once = outcome(tmp_path / "once", tasks, [accepted(3), accepted(4)], min_support=2)
    twice = outcome(tmp_path / "twice", tasks, [accepted(3), accepted(3), accepted(4)], min_support=2)
    assert (once["n_recovered"], twice["n_recovered"]) == (0, 1)


def test_a_feature_may_be_recovered_and_given_up_and_how_many_are_is_said(tmp_path: Path) -> None:
    # 3 wants two samples and got one, 4 fires in a sample that is too weak to be accepted for it, 5 got nothing.
    tasks = [task(3, n_wanted=2), task(4), task(5)]
    found = outcome(tmp_path, tasks, [accepted(3, 4)], gave_up={3: 8, 4: 8, 5: 8})
    assert (found["n_recovered"], found["n_gave_up"], found["n_gave_up_recovered"]) == (2, 3, 2)


def test_nothing_accepted_leaves_coverage_as_it_was(tmp_path: Path) -> None:
    found = outcome(tmp_path, [task(3)], [rejected(3), rejected(3, "too short")], [control(3)], gave_up={3: 2})
    assert found["after"] == found["before"] == 0.3
    assert (found["recovered"], found["recovered_of_attempted"], found["n_accepted"]) == (0, 0, 0)
    assert found["recovered_chance"] == 0  # as many plain samples as accepted ones: none
    assert read_jsonl(tmp_path / "samples.jsonl") == read_jsonl(tmp_path / "provenance.jsonl") == []
    assert [row["reason"] for row in read_jsonl(tmp_path / "rejected.jsonl")] == [NOTHING_FIRES, "too short"]


def test_nothing_attempted_and_nothing_missing_is_not_measured_rather_than_zero(tmp_path: Path) -> None:
    found = outcome(tmp_path / "none", [], [])
    assert (found["recovered_of_attempted"], found["recovered"], found["recovered_chance"]) == (None, 0, None)
    full = outcome(tmp_path / "full", [], [], seed=ANCHOR)
    assert (full["n_missing"], full["recovered"], full["after"]) == (0, None, 1)
    assert full["accepted_per_1000_tokens"] == 0


def test_chance_levels_are_those_of_as_many_plain_samples_and_tokens(tmp_path: Path) -> None:
    # Five plain samples, 10 tokens each: one fires 3, two fire 4, none fires 5 or 6.
    plain = [control(3), control(4), control(4), control(), control()]
    tasks = [task(feature) for feature in (3, 4, 5, 6)]
    found = outcome(tmp_path, tasks, [accepted(3), accepted(5)], plain, gave_up={4: 0, 6: 0})
    two_of_five = (2 / 5 + (1 - (3 / 5) * (2 / 4)) + 0 + 0) / 4  # two drawn: at least one fires 3, 4
    assert found["recovered_chance"] == pytest.approx(two_of_five)
    # 40 written tokens buy four plain samples.
    four_of_five = (4 / 5 + 1) / 4
    assert found["recovered_chance_tokens"] == pytest.approx(four_of_five)
    assert found["chance_extrapolated"] == [False, False]
    assert (found["n_control"], found["control_tokens"]) == (5, 50)
    assert (found["writer_calls"], found["writer_tokens"]) == (7, 90), "all that was written, plain samples too"
    assert found["accepted_per_1000_tokens"] == pytest.approx(1000 * 2 / 40), "plain samples are never accepted"


def test_more_accepted_than_plain_samples_is_an_estimate_and_says_so(tmp_path: Path) -> None:
    tasks = [task(3), task(4)]
    found = outcome(tmp_path, tasks, [accepted(3), accepted(3), accepted(4)], [control(3), control(), control()])
    assert found["chance_extrapolated"] == [False, True]
    assert found["recovered_chance"] <= found["recovered_chance_tokens"] <= 1


def test_plain_samples_that_are_no_samples_cost_tokens_but_are_not_drawn(tmp_path: Path) -> None:
    sound = [control(3), control()]
    spoilt = [control(reason="unfinished"), control(4, reason="is there already")]
    tasks = [task(3), task(4)]
    found = outcome(tmp_path, tasks, [accepted(3)], [*sound, *spoilt], gave_up={4: 0})
    assert found["recovered_chance"] == pytest.approx(1 / 4)  # one of two sound ones fires one of two features
    assert found["recovered_chance_tokens"] == pytest.approx(1 / 4)  # 20 tokens buy half of four plain samples: one
    none = outcome(tmp_path / "none", tasks, [accepted(3)], spoilt, gave_up={4: 0})
    assert (none["recovered_chance"], none["recovered_chance_tokens"], none["chance_extrapolated"]) == (None,) * 3


def test_without_a_control_there_is_no_chance_level(tmp_path: Path) -> None:
    found = outcome(tmp_path, [task(3)], [accepted(3)])
    assert (found["recovered_chance"], found["n_control"]) == (None, 0)


def test_every_accepted_sample_has_its_provenance(tmp_path: Path) -> None:
    kept = accepted(4, 9)
    outcome(tmp_path, [task(3), task(4)], [rejected(3), kept], gave_up={3: 1})
    assert read_jsonl(tmp_path / "samples.jsonl") == [{"messages": [{"role": "user", "content": kept.text}]}]
    (row,) = read_jsonl(tmp_path / "provenance.jsonl")
    wanted = {
        "sample_id": kept.sample_id, "text_sha256": text_sha256(kept.text), "source": "written", "feature": 4,
        "threshold": 1.0, "activation": 2.0, "position": 3, "span": "text", "explanation": None, "pair": None,
        "steering": {"4": 0.4}, "writer": "local:tiny", "prompt_hash": "p", "model": "m" * 64, "sae": "s" * 64,
        "form": "message", "codes": "native", "rng_seed": 0,
    }  # fmt: skip
    assert {key: row[key] for key in wanted} == wanted
    assert row["fires"] == [4, 9]


def test_a_feature_given_up_names_its_best_candidate(tmp_path: Path) -> None:
    tried = [rejected(3, activation=0.4), rejected(3, activation=0.9), rejected(4, activation=5.0)]
    outcome(tmp_path, [task(3), task(4)], tried, gave_up={3: 2, 4: 1})
    rows = {row["feature"]: row for row in read_jsonl(tmp_path / "gave_up.jsonl")}
    assert (rows[3]["best_activation"], rows[3]["n_candidates"]) == (0.9, 2)
    assert "2 candidates" in rows[3]["reason"]


def test_what_was_not_measured_has_no_activation(tmp_path: Path) -> None:
    none = Candidate(3, "no", "too short", feature=3, rung="spans")
    plain = replace(rejected(3), written_for=PLAIN, rung="plain")
    outcome(tmp_path, [task(3), task(4)], [none, rejected(4, activation=0.25), plain], gave_up={3: 1, 4: 1})
    assert [row["activation"] for row in read_jsonl(tmp_path / "rejected.jsonl")] == [None, 0.25, None]
    rows = {row["feature"]: row["best_activation"] for row in read_jsonl(tmp_path / "gave_up.jsonl")}
    assert rows == {3: None, 4: 0.25}


def test_before_and_after_agree_on_everything_but_the_seed_set(tmp_path: Path) -> None:
    before = coverage_record(measured(), SPACE, settings())
    outcome(tmp_path, [task(3)], [accepted(3)])
    after = read_json(tmp_path / "coverage" / "after.json")
    assert before["value"] == 0.3
    assert before["notes"][0] == "SAE: k is taken from a name"
    assert (before["missing"], before["n_missing"], before["n_covered"]) == ([3, 4, 5, 6, 7, 8, 9], 7, 3)
    assert (before["n_samples"], before["n_tokens"], after["n_samples"]) == (2, 16, 3)
    same = ("n_target", "n_thin", "threshold", "codes", "form", "min_support", "relevance", "fingerprints", "ceiling")
    assert {key: before[key] for key in same} == {key: after[key] for key in same}
    assert (before["at_equal_tokens"], before["ceiling_at_equal_tokens"], before["ci95"]) == (0.3, 0.8, None)
    assert read_json(tmp_path / "summary.json")["names"] == {
        "model": "tiny", "sae": "embedded", "hook_point": "layers.1", "seed": "a.jsonl", "anchor": "b.jsonl",
    }  # fmt: skip
