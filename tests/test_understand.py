"""Features of a run folder are explained, scored and judged, through a real server; no answer is asked for twice."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny_run
from facsynth.meaning.figures import agreement
from facsynth.meaning.sheet import HUMAN, Note, read_notes
from fault_server import MODEL, Act, FaultServer
from tiny_cli import Done, facsynth


def texts_in(prompt: str) -> list[str]:
    return [json.loads(line) for line in re.findall(r'(?m)^\d+\.(?: \(\d+\))? (".*")$', prompt)]


def answer(body: dict[str, Any], seen: int) -> Act:
    """An annotator that names the commonest word, finds it again, and judges by it."""
    prompt = body["messages"][0]["content"]
    texts = texts_in(prompt)
    if '"explanation": "..."' in prompt:
        words = [word for text in texts for word in re.findall(r"<<(\w+)", text)]
        return Act(text=json.dumps({"explanation": f"the word {max(words, key=words.count)}" if words else None}))
    word = re.findall(r"the word (\w+)", prompt)[0]
    if '"fits"' in prompt:
        return Act(text=json.dumps({"fits": [n for n, text in enumerate(texts, start=1) if word in text]}))
    return Act(text=json.dumps({"reason": f"it is about {word}", "verdict": "Yes" if word[0] < "m" else "No"}))


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FACSYNTH_CACHE", str(tmp_path / "cache"))


def few(folder: Path) -> dict[str, Any]:
    """Parts with no more features than it takes."""
    parts = tiny_run.parts(folder, n_latents=56)
    parts["coverage"] |= {"anchor_support": 20}
    return parts


def measured_in(folder: Path) -> Path:
    """A folder in which coverage was measured, without any judge."""
    config = folder / "run.yaml"
    config.write_text(yaml.safe_dump(few(folder)), encoding="utf-8")
    done = facsynth("missing", folder / "seed.jsonl", "--config", config, "-o", folder / "run")
    assert done.code == 0, done.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return measured_in(tmp_path_factory.mktemp("measured"))


@pytest.fixture
def run(measured: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(measured, tmp_path / "run"))


def ask(command: str, run: Path, server: FaultServer, *words: str | Path) -> Done:
    return facsynth(command, run, "--judge-url", server.url, "--judge-model", MODEL, "--json", *words)


def rows_of(run: Path, name: str = "meaning/features.csv") -> list[dict[str, str]]:
    with (run / name).open(encoding="utf-8-sig", newline="") as handle:
        return list(csv.DictReader(handle))


def kept(run: Path) -> list[int]:
    return sorted(int(row["feature_id"]) for row in rows_of(run, "plan.csv") if row["keep"] == "yes")


def test_features_are_explained_scored_and_judged_and_no_answer_is_asked_for_twice(
    run: Path, server: FaultServer
) -> None:
    server.script = answer
    before, planned = json.loads((run / "coverage" / "before.json").read_text("utf-8")), kept(run)
    done = ask("interpret", run, server)
    assert done.code == 0, done.stderr
    figures = json.loads(done.stdout)
    assert set(planned) < set(before["missing"]), "some are screened out"
    assert figures["n_features"] == figures["n_explained"] + figures["n_cannot_tell"] == len(planned)
    assert sum(server.answered.values()) == len(planned), "one call a feature, none about any other"
    rows = rows_of(run)
    assert [int(row["feature_id"]) for row in rows] == planned
    assert all(row["fires_on"] and row["promotes"] and row["span_1"] for row in rows)
    assert all(row["explained_by"] == "model" for row in rows)

    figures = json.loads(ask("score", run, server).stdout)
    assert figures["n_scored"] > 10
    assert figures["score"] > figures["control"] and 0 < figures["beats_control"] < 1
    n = sum(server.answered.values())
    again = json.loads(ask("score", run, server).stdout)
    order = [int(row["feature_id"]) for row in rows_of(run, "plan.csv") if row["keep"] == "yes"]
    assert [note["feature_id"] for note in again["features"]] == order, "as the plan ranks them by now"
    assert again | {"features": 0} == figures | {"features": 0}
    assert sum(server.answered.values()) == n and max(server.answered.values()) == 1

    judged = json.loads(ask("relevance", run, server, "--task", "toxicity", "--method", "judge").stdout)
    assert judged["verdicts"]["Yes"] > 3 and judged["verdicts"]["No"] > 3
    ledger = json.loads(facsynth("ledger", run, "--json").stdout)
    assert ledger["calls"] == sum(server.answered.values()) and max(server.answered.values()) == 1


def test_the_plan_shows_what_is_known_and_stays_as_a_person_left_it(run: Path, server: FaultServer) -> None:
    server.script = answer
    assert ask("score", run, server).code == 0
    plan = rows_of(run, "plan.csv")
    notes = read_notes(run / "meaning" / "features.csv")
    for row in plan:
        note = notes.get(int(row["feature_id"]), Note(0))
        assert row["explanation"] == note.explanation
        assert (row["score"] == "") == (note.score is None)
    assert [float(row["weight"]) for row in plan] == sorted((float(row["weight"]) for row in plan), reverse=True)
    done = facsynth("synthesize", run)
    assert done.code in {0, 4}, done.stderr
    kept = [json.loads(line) for line in (run / "provenance.jsonl").read_text("utf-8").splitlines()]
    assert all(row["explanation"] == (notes[row["feature"]].explanation or None) for row in kept) and kept


def test_what_a_person_changed_is_not_asked_about_and_survives(run: Path, server: FaultServer) -> None:
    server.script = answer
    ask("relevance", run, server, "--task", "toxicity", "--method", "judge")
    path, rows = run / "meaning" / "features.csv", rows_of(run)
    judged = [row for row in rows if row["judged_by"] == "model"]
    mine = judged[0]["feature_id"]
    text = path.read_text("utf-8").replace(judged[0]["reason"], "I know better", 1)
    path.write_text(text.replace(f"{mine},{judged[0]['explanation']},", f"{mine},my own words,", 1), "utf-8")
    n = sum(server.answered.values())
    again = ask("relevance", run, server, "--task", "toxicity", "--method", "judge")
    assert again.code == 0, again.stderr
    assert sum(server.answered.values()) == n
    note = read_notes(path)[int(mine)]
    assert (note.explanation, note.reason, note.explained_by, note.judged_by) == (
        "my own words", "I know better", HUMAN, HUMAN,
    )  # fmt: skip
    assert json.loads(again.stdout)["n_human"] == 1


def test_a_dry_run_counts_calls_and_asks_nothing(run: Path, server: FaultServer) -> None:
    server.script = answer
    found = json.loads(ask("score", run, server, "--dry-run").stdout)
    assert not server.answered
    assert ask("score", run, server).code == 0
    assert sum(server.answered.values()) == sum(found["calls"].values()), "each answer was usable at once"
    words = ("--task", "toxicity", "--method", "judge")
    found = json.loads(ask("relevance", run, server, *words, "--dry-run").stdout)
    assert found["calls"]["judge"] > found["calls"]["interpret"] > 0, "some are explained by now"
    assert found["calls_by_method"] == {"all": 0, "judge": sum(found["calls"].values())}
    n = sum(server.answered.values())
    assert ask("relevance", run, server, *words).code == 0
    assert sum(server.answered.values()) == n + sum(found["calls"].values())


def test_agreement_is_counted_over_what_was_judged() -> None:
    labels = {1: "Yes", 2: "Maybe", 3: "No", 4: "No", 5: "", 6: "Yes"}
    notes = [Note(i, verdict=label, judged_by="model" if label else "") for i, label in labels.items()]
    notes += [Note(7, verdict="No", judged_by="screen"), Note(8, verdict="Yes", judged_by="human")]
    found = agreement(notes, {1, 4, 5}, ("Yes",))
    assert found == {
        "both": 1, "judge_alone": 1, "contrast_alone": 1, "neither": 2, "share": 0.6,
        "kappa": pytest.approx((0.6 - (2 * 2 + 3 * 3) / 25) / (1 - (2 * 2 + 3 * 3) / 25)),
    }  # fmt: skip
    assert agreement([], {1}, ("Yes",))["kappa"] is None


@pytest.mark.slow
def test_a_cheaper_model_may_score_what_a_large_one_explained(run: Path, server: FaultServer) -> None:
    server.script = answer
    assert ask("interpret", run, server).code == 0
    explained = {row["feature_id"]: row["explanation"] for row in rows_of(run)}
    n = sum(server.answered.values())
    done = facsynth("score", run, "--judge-url", server.url, "--judge-model", "small", "--json")
    assert done.code == 1 and "no model 'small'" in done.stderr, "the server does not have it"
    server.models["data"].append({"id": "small", "object": "model"})
    done = facsynth("score", run, "--judge-url", server.url, "--judge-model", "small", "--json")
    assert done.code == 0, done.stderr
    assert {row["feature_id"]: row["explanation"] for row in rows_of(run)} == explained
    assert sum(server.answered.values()) == n + 4 * json.loads(done.stdout)["n_scored"]


@pytest.mark.slow
def test_verdicts_by_hand_are_of_one_task(run: Path, server: FaultServer) -> None:
    server.script = answer
    words = ("--method", "judge", "--task")
    assert ask("relevance", run, server, *words, "toxicity").code == 0
    path = run / "meaning" / "features.csv"
    path.write_text(path.read_text("utf-8-sig").replace(",Yes,it is about", ",Maybe,it is about", 1), "utf-8")
    assert ask("relevance", run, server, *words, "toxicity").code == 0
    n = sum(server.answered.values())
    done = ask("relevance", run, server, *words, "refusal")
    assert done.code == 2 and "holds verdicts by hand for another task: 1, the first for feature" in done.stderr
    assert sum(server.answered.values()) == n


def test_an_explanation_is_that_of_the_plan_unless_a_person_wrote_one_into_the_sheet(
    run: Path, server: FaultServer
) -> None:
    server.script = answer
    assert ask("interpret", run, server).code == 0
    plan = run / "plan.csv"
    first = next(row["explanation"] for row in rows_of(run, "plan.csv") if row["explanation"] and row["keep"] == "yes")
    plan.write_text(plan.read_text("utf-8").replace(first, "typed into the plan"), "utf-8")
    assert facsynth("synthesize", run).code in {0, 4}
    tasks = {t["feature_id"]: t["explanation"] for t in json.loads((run / "targets.json").read_text())["attempted"]}
    assert "typed into the plan" in tasks.values()
