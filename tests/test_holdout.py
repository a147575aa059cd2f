"""Evaluation data is found in any layout, and stays out of anchor, pool and what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tiny_run
from facsynth import pipeline
from facsynth.errors import InputError
from facsynth.records import Message, Sample
from facsynth.run_folder import read_unless_known
from facsynth.settings import parse_settings
from facsynth.store import read_json, read_jsonl
from facsynth.synthesis.accept import USUAL
from facsynth.synthesis.seen import Seen
from facsynth.text.corpus import Corpus
from facsynth.text.holdout import LEFT_OUT, Holdout, read_holdout

QUESTION = "a farmer has seventeen sheep and all but nine of them run away in the night, so how many are left"


def corpus(*texts: str) -> Corpus:
    return Corpus.of([Sample((Message("user", text),)) for text in texts])


def test_a_text_is_held_as_a_whole_or_in_a_part_that_is_no_accident() -> None:
    holdout = Holdout([corpus(QUESTION, "what is the capital of Peru?")])
    assert holdout.holds(QUESTION.upper() + "?!")
    assert holdout.holds("My teacher asked: " + QUESTION + ". I said eight.")
    assert holdout.holds("What is the capital of Peru")
    assert not holdout.holds("What is the capital of Peru's neighbour in the south?")
    assert not holdout.holds("a farmer has seventeen sheep and wants more of them")
    assert not holdout.holds("")


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": QUESTION}]},
        {"instruction": QUESTION, "output": "nine"},
        {"question": QUESTION, "answer": "nine"},
        {"text": QUESTION},
        {"prompt": QUESTION, "chosen": "nine", "rejected": "eight"},
    ],
)
@pytest.mark.parametrize("form", ["message", "chat", "preference"])
def test_a_holdout_may_have_another_layout(tmp_path: Path, row: dict[str, Any], form: str) -> None:
    path = tmp_path / "eval.jsonl"
    path.write_text(json.dumps(row) + "\n")
    holdout = read_holdout([path], form)
    assert holdout is not None and holdout.holds(QUESTION)


def test_a_holdout_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "eval.jsonl"
    path.write_text('{"id": 3}\n')
    with pytest.raises(InputError, match="the holdout cannot be read\n.*eval.jsonl"):
        read_holdout([path], "message")
    assert read_holdout([], "message") is None


def test_it_leaves_the_anchor_and_is_counted_there_and_in_the_seed_set(tmp_path: Path) -> None:
    parts = tiny_run.parts(tmp_path)
    anchor, seed = read_jsonl(tmp_path / "anchor.jsonl"), read_jsonl(tmp_path / "seed.jsonl")
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*anchor[:7], seed[0]]))
    parts["data"]["holdout"] = [str(tmp_path / "eval.jsonl")]
    settings, out = parse_settings(parts, "the test"), tmp_path / "run"
    pipeline.measure_run(settings, out, tmp_path / "cache", read_unless_known(settings, out))
    failures = read_jsonl(out / "features" / "anchor" / "corpus.failures.jsonl")
    assert [row["reason"] for row in failures] == [LEFT_OUT] * len(failures) and len(failures) >= 7
    assert read_json(out / "features" / "anchor" / "manifest.json")["n_samples"] == len(anchor) - len(failures)
    notes = read_json(out / "coverage" / "before.json")["notes"]
    assert any(note.startswith("seed set: 1 samples are in the holdout") for note in notes)


def test_an_anchor_that_is_the_holdout_is_refused(tmp_path: Path) -> None:
    parts = tiny_run.parts(tmp_path)
    parts["data"]["holdout"] = parts["data"]["anchor"]
    with pytest.raises(InputError, match="all of .* is in the holdout"):
        read_unless_known(parse_settings(parts, "the test"), tmp_path / "run")


def test_what_is_written_from_it_is_rejected() -> None:
    seen = Seen.of([], USUAL, Holdout([corpus(QUESTION)]))
    assert seen.has("0" * 16, f"Tell me: {QUESTION}?") == LEFT_OUT
    assert seen.has("0" * 16, "How many sheep are left?") == ""
