"""Methods side by side: what each is given, equal budgets, planted truth, what goes on, and what is refused."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import runpy
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import planted
from facsynth.errors import InputError, MismatchError
from facsynth.experimenting.cells import Bench
from facsynth.experimenting.experiment import STAGE, run_experiment
from facsynth.experimenting.settings import ExperimentSettings, load_experiment
from facsynth.experimenting.table import markdown, notes
from facsynth.records import Progress
from facsynth.store import Artifact, write_jsonl
from fault_server import Act, FaultServer
from tiny_cli import facsynth

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FACSYNTH_CACHE", str(tmp_path / "cache"))


def test_the_anchors_own_texts_are_a_method_and_seed_sets_are_drawn_from_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultServer(planted.writes) as server:
        small: dict[str, Any] = {"methods": {"none": None, "anchor": None}, "budgets": [8, 40], "seeds": [3]}
        config = planted.experiment(tmp_path, server, **small)
        done = facsynth("experiment", config, "-o", tmp_path / "out", "--json")
        assert done.code == 0, done.stderr
        assert not server.answered
    found = json.loads(done.stdout)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    _keeps_scores_of_this_experiment_alone(load_experiment(config), tmp_path / "out", tmp_path / "kept.jsonl")
    assert [(row["method"], row["budget"], row["n_samples"]) for row in found["rows"]] == [
        ("none", 8, [0]), ("anchor", 8, [8]), ("none", 40, [0]), ("anchor", 40, [40]),
    ]  # fmt: skip
    of_anchor = found["rows"][-1]
    trained = (tmp_path / "out" / "trained" / "anchor-samples-40-3.jsonl").read_text()
    drawn = [json.loads(line) for line in trained.splitlines()]
    assert of_anchor["n_positive"] == [sum(row["label"] for row in drawn)] and 0 < of_anchor["n_positive"][0] < 40
    assert "| anchor | 40 | {} |".format(*of_anchor["n_positive"]) in markdown(found)
    assert found["ceiling"] == {
        "n_samples": 40, "difference": of_anchor["difference"], "ci95": of_anchor["difference_ci95"],
        "is_above": of_anchor["difference_ci95"][0] > 0,
    }  # fmt: skip
    below = found | {"ceiling": found["ceiling"] | {"is_above": False}}
    above = found | {"ceiling": found["ceiling"] | {"is_above": True}}
    empty = [row | {"n_samples": [0]} for row in found["rows"]]
    for kind, why in (("anchor", "all its rows"), ("fac", "report.html"), ("plain", "n_rejected in the manifests")):
        (told,) = notes({"rows": [row if row["kind"] == "none" else row | {"kind": kind} for row in empty]})
        assert told.startswith("anchor has no samples: ") and why in told
    assert notes(found | {"ceiling": None}) == [] and "no gain is shown" not in notes(above)[0]
    assert "40 of the anchor's own samples give" in notes(below)[0] and "no gain is shown" in notes(below)[0]
    assert notes(below)[0] in markdown(below)
    seed_set = [json.loads(line) for line in (tmp_path / "out" / "seeds" / "3.jsonl").read_text().splitlines()]
    assert sum(row["label"] for row in seed_set) == 40 and len(seed_set) == 160
    raw = yaml.safe_load(config.read_text())
    for key, value, told in (("budgets", [8, 50], "largest_budget"), ("draw", [raw["draw"][0] | {"n": 41}], "draw")):
        config.write_text(yaml.safe_dump(raw | {key: value}, sort_keys=False))
        other = facsynth("experiment", config, "-o", tmp_path / "out")
        assert (other.code, f"was begun with another {told}" in other.stderr) == (1, True)
    held_out = raw["run"] | {"data": raw["run"]["data"] | {"holdout": str(tmp_path / "negative.jsonl")}}
    config.write_text(yaml.safe_dump(raw | {"run": held_out}, sort_keys=False))
    other = facsynth("experiment", config, "-o", tmp_path / "out")
    assert (other.code, "was begun with another holdout" in other.stderr) == (1, True), other.stderr
    config.write_text(yaml.safe_dump(raw, sort_keys=False))
    _refuses_what_does_not_belong(config, tmp_path / "out")
    anchor = (tmp_path / "anchor.jsonl").read_text()
    assert not any(json.dumps(row["messages"]) in anchor for row in seed_set)


def _keeps_scores_of_this_experiment_alone(settings: ExperimentSettings, out: Path, file: Path) -> None:
    scores = runpy.run_path(str(ROOT / "benchmarks" / "scores.py"))
    for runs in ([out], []):
        kept = scores["merged"](settings, file, runs)
        write_jsonl(file, kept)
        assert markdown(scores["table_of"](settings, kept)) == (out / "table.md").read_text()
    assert "so " not in file.read_text(), "no text is kept"
    foreign = [kept[0] | kept[1] | {"experiment": "x"}]
    with pytest.raises(InputError, match="is of another experiment\nKeep another file"):
        scores["kept"].merged(file, foreign, scores["KEY"], [*scores["kept"].SHARED])
    with pytest.raises(InputError, match="nowhere holds no table.json"):
        scores["merged"](settings, file, [out.parent / "nowhere"])
    with pytest.raises(MismatchError, match="was begun with another largest_budget"):
        scores["merged"](settings.model_copy(update={"budgets": (8, 50)}), file, [out])


def _refuses_what_does_not_belong(config: Path, out: Path) -> None:
    items, plan = (out / "results" / "anchor-samples-8-3" / name for name in ("items.jsonl", "plan.json"))
    trained, before = out / "trained" / "anchor-samples-8-3.jsonl", items.read_text()
    items.write_text(before.replace('"sample_id": "', '"sample_id": "f', 1))
    other = facsynth("experiment", config, "-o", out)
    assert (other.code, f"{items.parent} is of other test items" in other.stderr) == (1, True), other.stderr
    items.write_text(before)
    (out / "table.json").unlink()
    (out / "table.json").mkdir()
    folder = facsynth("experiment", config, "-o", out)
    assert (folder.code, "it is a folder where a file should be" in folder.stderr) == (1, True), folder.stderr
    asked = json.loads(plan.read_text())
    plan.write_text(json.dumps(asked | {"parents": asked["parents"] | {"train": "another"}}))
    trained.write_text("what it was trained on\n")
    refused = facsynth("experiment", config, "-o", out)
    assert (refused.code, "another train" in refused.stderr) == (1, True), refused.stderr
    assert trained.read_text() == "what it was trained on\n"


def test_a_rival_writes_for_each_label_as_much_as_the_anchor_has_of_it(tmp_path: Path) -> None:
    shown: list[tuple[str, bool]] = []

    def writes(body: dict[str, Any], times: int) -> Act:
        prompt = body["messages"][-1]["content"]
        lines = re.findall(r"^\d+\. so (.*)", prompt, re.MULTILINE)
        shown.append(("without marks" in prompt, any(set(line.split()) & set(planted.MARKED) for line in lines)))
        return planted.writes(body, times)

    with FaultServer(writes) as server:
        small: dict[str, Any] = {"methods": {"none": None, "self-instruct": None}, "budgets": [8], "seeds": [0]}
        config = planted.experiment(tmp_path, server, **small)
        rows = [json.loads(line) for line in (tmp_path / "anchor.jsonl").read_text().splitlines()]
        kept = [row for n, row in enumerate(rows) if row["label"] or n % 3 == 0] + [rows[-1] | {"label": None}]
        (tmp_path / "anchor.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
        task = yaml.safe_load((tmp_path / "task.yaml").read_text())
        task["labels"]["not toxic"] = "messages without marks"
        (tmp_path / "task.yaml").write_text(yaml.safe_dump(task, sort_keys=False))
        bench = Bench(load_experiment(config), tmp_path / "out", tmp_path / "cache")
        made = bench.make("self-instruct", 0)
    assert [row["label"] for row in made.first(8)] == [0, 1, 1, 1] * 2, "3 of 4 in the anchor are positive"
    assert made.tokens == sorted(made.tokens)
    assert not any(has_mark for is_plain, has_mark in shown if is_plain), "each is shown texts of its own label"
    assert any(has_mark for is_plain, has_mark in shown if not is_plain)


@pytest.mark.slow
def test_an_experiment_goes_on_and_takes_more_seeds_later(tmp_path: Path) -> None:
    with FaultServer(planted.writes) as server:
        small: dict[str, Any] = {"methods": {"none": None, "fac": None, "plain": None}, "budgets": [4], "seeds": [0]}
        config = planted.experiment(tmp_path, server, **small, tokens_of="fac")
        out = tmp_path / "out"
        done = facsynth("experiment", config, "-o", out)
        assert done.code == 0, done.stderr
        assert "4 samples" in done.stdout and "as many written tokens as 4 samples took" in done.stdout
        table, n_asked = (out / "table.json").read_bytes(), sum(server.answered.values())
        found = json.loads(facsynth("experiment", config, "-o", out, "--json").stdout)
        assert (out / "table.json").read_bytes() == table
        assert sum(server.answered.values()) == n_asked, "what is there is not asked for again"
        rows = {(row["axis"], row["method"]): row for row in found["rows"]}
        assert rows["samples", "none"]["n_samples"] == [0] and "difference" not in rows["samples", "none"]
        assert rows["samples", "fac"]["n_samples"] == rows["samples", "plain"]["n_samples"] == [4]
        assert 0 < rows["tokens", "plain"]["tokens"][0] <= rows["samples", "fac"]["tokens"][0]
        assert "fewer than 10" in found["correlations"]["notes"][0]
        assert (out / "plot.svg").read_text().startswith("<svg") and "| fac | 4 |" in (out / "table.md").read_text()
        raw = yaml.safe_load(config.read_text()) | {"seeds": [0, 1]}
        config.write_text(yaml.safe_dump(raw, sort_keys=False))
        more = json.loads(facsynth("experiment", config, "-o", out, "--json").stdout)
        assert (more["seeds"], len(more["rows"][0]["by_seed"])) == ([0, 1], 2)
        raw["draw"][0]["n"] = 10_000
        config.write_text(yaml.safe_dump(raw, sort_keys=False))
        few = facsynth("experiment", config, "-o", tmp_path / "few")
        assert (few.code, "and 10000 are to be drawn" in few.stderr) == (1, True)


@pytest.mark.slow
def test_one_that_was_interrupted_ends_as_one_that_was_not(tmp_path: Path) -> None:
    def stopping(left: int) -> Progress:
        calls = itertools.count(1)

        def progress(what: str, done: int, total: int | None) -> None:
            if threading.current_thread() is threading.main_thread() and next(calls) == left:  # as Ctrl-C does
                raise KeyboardInterrupt

        return progress

    with FaultServer(planted.writes) as server:
        small: dict[str, Any] = {"methods": {"fac": None, "plain": None}, "budgets": [3], "seeds": [0]}
        settings = load_experiment(planted.experiment(tmp_path, server, **small))
        whole = run_experiment(settings, tmp_path / "whole", tmp_path / "cache")
        n_stopped = 0
        for left in (4, 10, 16, 24):
            with contextlib.suppress(KeyboardInterrupt):
                run_experiment(settings, tmp_path / "parts", tmp_path / "cache", stopping(left))
                continue
            n_stopped += 1
        assert n_stopped >= 2
        assert run_experiment(settings, tmp_path / "parts", tmp_path / "cache") == whole
        assert (tmp_path / "parts" / "table.json").read_bytes() == (tmp_path / "whole" / "table.json").read_bytes()


@pytest.mark.slow
def test_controls_attempt_nothing_that_is_missing(tmp_path: Path) -> None:
    with FaultServer(planted.writes) as server:
        few = {"set": {"budget.features": 2}}
        small: dict[str, Any] = {"methods": {"fac": few, "random-features": few, "covered-features": few}}
        bench = Bench(
            load_experiment(planted.experiment(tmp_path, server, budgets=[4], seeds=[0], **small)),
            tmp_path / "out", tmp_path / "cache",
        )  # fmt: skip
        attempted = {}
        for name in bench.settings.methods:
            bench.make(name, 0)
            targets = json.loads((bench.cell(name, 0) / "targets.json").read_text())["attempted"]
            attempted[name] = {target["feature_id"] for target in targets}
    before = json.loads((bench.cell("fac", 0) / "coverage" / "before.json").read_text())
    assert attempted["fac"] <= set(before["missing"]) and attempted["covered-features"] <= set(before["covered"])
    assert not attempted["random-features"] & set(before["missing"])
    assert all(len(ids) == 2 for ids in attempted.values())


@pytest.mark.slow
def test_planted_features_are_worth_more_than_random_ones(tmp_path: Path) -> None:
    with FaultServer(planted.writes) as server:
        done = facsynth("experiment", planted.experiment(tmp_path, server), "-o", tmp_path / "out", "--json")
    assert done.code == 0, done.stderr
    rows = {(row["budget"], row["method"]): row for row in json.loads(done.stdout)["rows"]}
    for budget in (24, 48):
        assert rows[budget, "fac"]["against"] == "random-features"
        assert rows[budget, "fac"]["difference_ci95"][0] > 0
        cells = re.search(rf"^\| {budget} \| 0\.(.*)", (ROOT / "docs" / "RESULTS.md").read_text(), re.MULTILINE)
        assert cells is not None
        told = [float(n) for n in re.findall(r"[+-]?\d\.\d{3}", f"0.{cells[1]}")]
        found = [rows[budget, "random-features"]["value"], rows[budget, "fac"]["value"]]
        found += [rows[budget, "fac"]["difference"], *rows[budget, "fac"]["difference_ci95"]]
        assert told[:-1] == pytest.approx(found, abs=0.01), "what docs/RESULTS.md says"
        assert told[-1] == pytest.approx(rows[budget, "fac"]["p_holm"], abs=0.02)
    assert rows[48, "fac"]["p_holm"] < 0.05


@pytest.mark.slow
def test_where_features_do_not_matter_no_difference_is_told(tmp_path: Path) -> None:
    """Labels drawn at random: of 20 experiments at most two tell one."""
    n_told = 0
    with FaultServer(planted.writes) as server:
        config = planted.experiment(tmp_path, server, budgets=[24], methods={"random-features": None, "fac": None})
        test = (tmp_path / "test.jsonl").read_text().splitlines()
        for repetition in range(20):
            rng = np.random.default_rng(repetition)
            rows = [json.loads(line) | {"label": int(rng.random() < 0.3)} for line in test]
            (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            out = tmp_path / f"out-{repetition}"
            settings = load_experiment(config)
            if repetition:  # what was written is the same, for other labels
                bench = Bench(settings, out, tmp_path / "cache")
                Artifact(out, STAGE, bench.asked, bench.parents)
                for part in ("cells", "seeds", "trained", "features"):
                    shutil.copytree(tmp_path / "out-0" / part, out / part)
            table = run_experiment(settings, out, tmp_path / "cache")
            n_told += any(row.get("p_holm", 1) < 0.05 for row in table["rows"])
    assert n_told <= 2, n_told
