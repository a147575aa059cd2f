"""A judge that decides the targets: nothing is decided by an outage, and nothing anew once samples were begun."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from facsynth.explain import Material, judge_features
from facsynth.features.draw import Drawn
from facsynth.llm import ScriptedWriter
from facsynth.meaning.asking import AskingSettings
from facsynth.meaning.sheet import HUMAN, Note, read_notes
from facsynth.records import Span, Task
from fault_server import EVERY_FAULT, MODEL, Act, FaultServer, refused
from test_understand import answer, few, rows_of
from tiny_cli import facsynth


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FACSYNTH_CACHE", str(tmp_path / "cache"))


def test_relevance_by_judge_decides_the_targets(tmp_path: Path, server: FaultServer) -> None:
    server.script = answer
    parts = few(tmp_path)
    parts["coverage"] |= {"relevance": "judge", "counts": ["Yes"]}
    parts |= {"task": "toxicity", "judge": {"endpoint": {"url": server.url, "model": MODEL}}}
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(parts), encoding="utf-8")
    done = facsynth("coverage", tmp_path / "seed.jsonl", "--config", config, "-o", tmp_path / "run", "--json")
    assert done.code == 0, done.stderr
    record = json.loads(done.stdout)
    notes = read_notes(tmp_path / "run" / "meaning" / "features.csv")
    relevant = {i for i, note in notes.items() if note.verdict == "Yes"}
    assert record["relevance"] == "judge" and set(record["missing"]) <= relevant
    assert record["n_target"] == len(relevant) > 3
    assert {note.task for note in notes.values()} == {"toxicity"}
    n = sum(server.answered.values())
    for words in (("run", config, "-o", tmp_path / "dry"), ("interpret", tmp_path / "run")):
        dry = facsynth(*words, "--dry-run")
        assert dry.code == 2 and "no dry run" in dry.stderr
    assert sum(server.answered.values()) == n


def test_what_is_screened_out_is_not_asked_about_unless_a_person_explained_it() -> None:
    span = Span(0, "so,", ",", 1.0, "0" * 16, 1, "so, then")
    notes = {
        1: Note(1, screened="fires on punctuation"), 2: Note(2, "ovens", "model"), 3: Note(3),
        4: Note(4, "commas of lists", HUMAN, screened="fires on punctuation"),
        5: Note(5, "bread", "model", verdict="Maybe", judged_by=HUMAN, task="baking"),
    }  # fmt: skip
    spans: dict[int, tuple[Span, ...]] = dict.fromkeys(notes, (span,))
    drawn = dict.fromkeys(notes, Drawn((span,), 1.0, (), ()))
    material = Material(notes, spans, spans, drawn, {}, AskingSettings())
    assert material.unexplained(anew=True) == [2, 3, 5] and material.unexplained(anew=False) == [3]
    writer = ScriptedWriter(lambda request: '{"reason": "it is", "verdict": "Yes"}')
    assert judge_features(material, Task("cooking", "Cooking.", ("ovens",)), writer) == ()
    found = {i: (note.verdict, note.judged_by, note.reason, note.task) for i, note in material.notes.items()}
    assert found == {
        1: ("No", "screen", "fires on punctuation", "cooking"), 2: ("Yes", "model", "it is", "cooking"),
        3: ("", "", "", ""), 4: ("Yes", "model", "it is", "cooking"), 5: ("Maybe", HUMAN, "", "baking"),
    }  # fmt: skip
    assert len(writer.history) == 2


def test_where_the_judge_holds_nothing_relevant_it_is_said(tmp_path: Path, server: FaultServer) -> None:
    server.script = lambda body, seen: (
        Act(text='{"reason": "it is not", "verdict": "No"}') if '"verdict"' in str(body) else answer(body, seen)
    )
    parts = few(tmp_path)
    parts["coverage"] |= {"relevance": "judge"}
    parts |= {"task": "toxicity", "judge": {"endpoint": {"url": server.url, "model": MODEL}}}
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(parts), encoding="utf-8")
    done = facsynth("coverage", tmp_path / "seed.jsonl", "--config", config, "-o", tmp_path / "run")
    assert done.code == 1 and "the judge holds none relevant (0 could not be judged)" in done.stderr


@pytest.mark.parametrize("fault", [pytest.param("500", marks=pytest.mark.slow), "not JSON"])
def test_where_the_endpoint_fails_for_now_nothing_is_decided(tmp_path: Path, server: FaultServer, fault: str) -> None:
    """An outage is not a verdict, nor is a page that says so: targets stay open until there are answers."""
    is_down = True

    def script(body: dict[str, Any], seen: int) -> Act:
        is_judging = '"verdict"' in str(body) and re.search("the word [a-f]", str(body))
        return EVERY_FAULT[fault] if is_down and is_judging else answer(body, seen)

    server.script = script
    parts = few(tmp_path)
    parts["coverage"] |= {"relevance": "judge", "counts": ["Yes", "No"]}
    parts |= {"task": "toxicity", "judge": {"endpoint": {"url": server.url, "model": MODEL, "max_attempts": 1}}}
    config, out = tmp_path / "run.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(parts), encoding="utf-8")
    done = facsynth("run", config, "-o", out)
    assert done.code == 4 and "questions have no answer yet: " in done.stderr, done.stderr
    assert "the same command asks again" in done.stderr and not (out / "targets.json").exists()
    n_open = sum(not note.verdict for note in read_notes(out / "meaning" / "features.csv").values())
    assert n_open > 0
    n, is_down = sum(server.answered.values()), False
    done = facsynth("coverage", tmp_path / "seed.jsonl", "--config", config, "-o", out)
    assert done.code == 0, done.stderr
    assert sum(server.answered.values()) == n + n_open
    assert all(note.verdict for note in read_notes(out / "meaning" / "features.csv").values())


@pytest.mark.slow
def test_what_is_corrected_after_samples_were_begun_counts_in_a_new_folder(tmp_path: Path, server: FaultServer) -> None:
    server.script = answer
    parts = few(tmp_path)
    parts["coverage"] |= {"relevance": "judge"}
    parts |= {"task": "toxicity", "judge": {"endpoint": {"url": server.url, "model": MODEL}}}
    config, out = tmp_path / "run.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(parts), encoding="utf-8")
    assert facsynth("run", config, "-o", out).code == 0
    path = out / "meaning" / "features.csv"
    relevant = [row for row in rows_of(out) if row["verdict"] == "Yes"]
    text = path.read_text("utf-8-sig").replace(relevant[0]["explanation"], "my own words", 1)
    path.write_text(text.replace(",Yes,it is about", ",No,it is about", 1), "utf-8")
    n, before = sum(server.answered.values()), json.loads((out / "coverage" / "before.json").read_text("utf-8"))
    done = facsynth("coverage", tmp_path / "seed.jsonl", "--config", config, "-o", out, "--json")
    assert done.code == 0, done.stderr
    after = json.loads((out / "coverage" / "before.json").read_text("utf-8"))
    assert after["n_target"] == before["n_target"] and sum(server.answered.values()) == n
    assert "verdicts that were changed after samples were begun, and count in a new folder only: 1" in done.stderr
    assert read_notes(path)[int(relevant[0]["feature_id"])].explanation == "my own words"
    assert facsynth("interpret", out, "--dry-run").code == 0


def test_another_rubric_is_another_run(tmp_path: Path, server: FaultServer) -> None:
    server.script = answer
    task = tmp_path / "mine.yaml"
    task.write_text("name: mine\ndefinition: Cooking.\nrubric: [ovens]\n", encoding="utf-8")
    parts = few(tmp_path)
    parts["coverage"] |= {"relevance": "judge"}
    parts |= {"task": str(task), "judge": {"endpoint": {"url": server.url, "model": MODEL}}}
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(parts), encoding="utf-8")
    words = ("coverage", tmp_path / "seed.jsonl", "--config", config, "-o", tmp_path / "run")
    assert facsynth(*words).code == 0
    task.write_text("name: mine\ndefinition: Cooking.\nrubric: [stoves]\n", encoding="utf-8")
    done = facsynth(*words)
    assert done.code == 1 and "begun with another task.rubric" in done.stderr, done.stderr


def test_requests_that_an_endpoint_refused_before_it_answered_any_are_asked_again(
    tmp_path: Path, server: FaultServer
) -> None:
    """It may have been configured wrongly; nothing is known of the request."""
    server.script = lambda body, seen: refused(400, "no such field")
    parts = few(tmp_path)
    parts["coverage"] |= {"relevance": "judge", "counts": ["Yes", "No"]}
    parts |= {"task": "toxicity", "judge": {"endpoint": {"url": server.url, "model": MODEL}}}
    config, out = tmp_path / "run.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(parts), encoding="utf-8")
    words = ("coverage", tmp_path / "seed.jsonl", "--config", config, "-o", out)
    assert facsynth(*words).code == 1
    server.script = answer
    done = facsynth(*words)
    assert done.code == 0, done.stderr
    notes = read_notes(out / "meaning" / "features.csv")
    assert notes and all(note.verdict for note in notes.values())


@pytest.mark.slow
def test_verdicts_by_another_rubric_of_the_same_name_are_taken_back(tmp_path: Path, server: FaultServer) -> None:
    parts = few(tmp_path)
    parts |= {"judge": {"endpoint": {"url": server.url, "model": MODEL}}}
    config, out, task = tmp_path / "run.yaml", tmp_path / "run", tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump(parts), encoding="utf-8")
    assert facsynth("missing", tmp_path / "seed.jsonl", "--config", config, "-o", out).code == 0
    task.write_text("name: mine\ndefinition: Cooking.\nrubric: [ovens]\n", encoding="utf-8")
    words = ("relevance", out, "--task", task, "--method", "judge")
    server.script = answer
    assert facsynth(*words).code == 0
    sheet = out / "meaning" / "features.csv"
    text = sheet.read_text("utf-8-sig")
    sheet.write_text(text.replace(",Yes,it is about", ",Maybe,I think so and", 1), "utf-8")
    task.write_text("name: mine\ndefinition: Physics.\nrubric: [quarks]\n", encoding="utf-8")
    server.script = lambda body, seen: Act(text="") if "quarks" in str(body) else answer(body, seen)
    done = facsynth(*words)
    assert done.code == 4 and "answers could not be used" in done.stderr
    notes = list(read_notes(sheet).values())
    assert [(n.verdict, n.judged_by) for n in notes if n.verdict] == [("Maybe", HUMAN)]
    server.script = answer
    task.write_text("name: mine\ndefinition: Cooking.\nrubric: [ovens]\n", encoding="utf-8")
    assert facsynth(*words).code == 0
    assert all(note.verdict for note in read_notes(sheet).values())
