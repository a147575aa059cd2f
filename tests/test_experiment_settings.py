"""The file of an experiment: what is refused, what a base gives, budgets, and what is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from facsynth.coverage.plan import PlanRow
from facsynth.errors import SettingsError
from facsynth.experimenting.cells import Bench, Made, by_sample
from facsynth.experimenting.choosing import _exchanged
from facsynth.experimenting.experiment import Point, points
from facsynth.experimenting.settings import load_experiment
from facsynth.records import Span
from facsynth.store import read_jsonl, write_jsonl

EXAMPLES = sorted((Path(__file__).parent.parent / "examples" / "experiments").glob("*.yaml"))
MINIMAL: dict[str, Any] = {
    "evaluate": {"task": "toxicity", "test": "test.jsonl"},
    "run": {"task": "toxicity", "data": {"anchor": "anchor.jsonl"}},
    "draw": [{"path": "rest.jsonl", "n": 10}],
    "methods": {"none": None, "fac": {}},
}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(MINIMAL | changes, sort_keys=False))
    return path


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_experiments(path: Path) -> None:
    found = load_experiment(path)
    assert len(points(found)) >= 2
    assert all(found.kind(name) for name in found.methods)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"methods": {"none": None, "fca": None}}, "did you mean `fac`?"),
        ({"methods": {"none": None, "mine": {"kind": "plain", "share": 0.5}}}, "mine has no features"),
        ({"methods": {"none": None, "real": None}}, "name the files of real"),
        ({"methods": {"none": None, "pool": None}}, "names none"),
        ({"methods": {"none": None}}, "two methods or more"),
        ({"methods": {"none": None, "../a": {"kind": "anchor"}}}, "leave out /"),
        ({"methods": {"none": {"set": {"writer.steps": 2}}, "fac": None}}, "none makes no run"),
        ({"run": {"data": {"anchor": ["a.jsonl"]}}}, "would have no label"),
        ({"methods": {"none": None, "fac": {"set": {"writer.temprature": 1}}}}, "did you mean `temperature`?"),
        ({"tokens_of": "none"}, "no method that writes"),
        ({"tokens_of": "fac", "token_budgets": [7]}, "token_budgets are some of the budgets"),
        ({"budgets": [50, 50]}, "twice"),
        ({"run": {"task": "toxicity", "data": {"anchor": "a.jsonl", "seed": "s.jsonl"}}}, "The seed set is drawn"),
        ({"base": "experiment.yaml"}, "Name another experiment's file"),
        ({"sweep": 1}, "unknown key `sweep`"),
        ({"evaluate": MINIMAL["evaluate"] | {"strength": 0.1}}, "strength is of steering, and the task is toxicity"),
        ({"methods": {"none": None, "random-features": {"wrong": 0.5}}}, "leave out wrong"),
        ({"methods": {"none": None, "fac": False}}, "fac is true or false; leave out a method that is not to be tried"),
        ({"methods": {"none": None, "fac": "real"}}, "fac is a string; leave out"),
        ({"methods": {"none": None, "fac": {"set": {"data.seed": "x"}}}}, "the set of fac names data.seed"),
        ({"methods": {"none": None, "fac": {"set": {"data.anchor": "x"}}}}, "the set of fac names data.anchor"),
        ({"methods": {"none": None, "fac": {"set": {"rng_seed": 5}}}}, "the set of fac names rng_seed"),
        ({"run": MINIMAL["run"] | {"rng_seed": 5}}, "Each of seeds is the random seed of its runs"),
        ({"methods": {"none": None, "covered-features": {"wrong": 0.5}}}, "leave out wrong"),
        ({"methods": {"none": None, "fac": {"sets": {}}}}, "did you mean `set`?"),
        ({"methods": {"none": None, "a" * 101: {"kind": "anchor"}}}, "what is beyond 100 bytes"),
        ({"methods": {"none": None, "a\u202eb": {"kind": "anchor"}}}, "what cannot be printed"),
        ({"budgets": [True]}, "should be a valid integer"),
        ({"budgets": []}, "name at least one"),
        ({"seeds": [2**32]}, "less than 4294967296"),
        ({"token_budgets": [50]}, "say of which method, tokens_of"),
        ({"run": {"task": "toxicity", "data": 3}}, "run.data is a number"),
        ({"run": MINIMAL["run"] | {"writer": 3}, "methods": {"none": None, "fac": {"set": {"writer.steps": 2}}}},
         "`writer` is a number"),
    ],
)  # fmt: skip
def test_an_experiment_that_means_nothing_is_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_experiment(written(tmp_path, **changes))
    assert told in str(caught.value)


def test_an_experiment_or_a_base_that_is_not_there_is_named_with_the_way_out(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.yaml", written(tmp_path, base="gone.yaml")):
        with pytest.raises(
            SettingsError, match=r"no settings file .*gone.yaml\nName the file of an experiment: examples"
        ):
            load_experiment(path)


def test_a_file_says_only_what_differs_from_its_base(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "more.yaml").write_text("base: experiment.yaml\nseeds: [7]\nrun: {budget: {features: 3}}\n")
    found = load_experiment(tmp_path / "more.yaml")
    assert (found.seeds, list(found.methods)) == ((7,), ["none", "fac"])
    run = found.run_of("fac", tmp_path / "seed.jsonl", 7)
    assert (run.rng_seed, run.data.holdout) == (7, ("test.jsonl",)), "nothing that is tested with is written"
    assert (run.task, run.budget.features) == ("toxicity", 3), "of run and evaluate key by key"
    data = {**MINIMAL["run"]["data"], "holdout": "more.jsonl"}
    own = load_experiment(written(tmp_path, run=MINIMAL["run"] | {"data": data}))
    assert own.run_of("fac", tmp_path / "seed.jsonl", 7).data.holdout == ("more.jsonl", "test.jsonl")
    (tmp_path / "again.yaml").write_text("base: more.yaml\n")
    (tmp_path / "more.yaml").write_text("base: again.yaml\n")
    with pytest.raises(SettingsError, match="base is"):
        load_experiment(tmp_path / "more.yaml")


def test_the_axis_of_tokens_has_what_writes_and_what_is_compared_with(tmp_path: Path) -> None:
    methods = {"none": None, "anchor": None, "fac": None, "plain": None}
    found = points(load_experiment(written(tmp_path, methods=methods, tokens_of="fac", budgets=[5, 9])))
    assert [p for p in found if p.axis == "tokens" and p.budget == 9] == [
        Point(name, "tokens", 9) for name in ("none", "fac", "plain")
    ]
    assert sum(p.axis == "samples" for p in found) == 8
    some = written(tmp_path, methods=methods, tokens_of="fac", budgets=[5, 9], token_budgets=[5])
    assert {p.budget for p in points(load_experiment(some)) if p.axis == "tokens"} == {5}


def test_budgets_are_nested() -> None:
    made = Made([{"n": n} for n in range(4)], [10, 10, 25, 40])
    assert made.first(3) == made.first(4)[:3]
    assert [made.tokens_for(n) for n in (1, 2, 3, 9)] == [10, 10, 25, 40]
    assert [len(made.within(tokens)) for tokens in (9, 10, 24, 40)] == [0, 2, 2, 4]
    assert Made([], []).tokens_for(5) == 0
    assert by_sample([10, 10, 25, 25, 25, 40]) == [5, 10, 15, 20, 25, 40], "a wave's tokens are its samples' alike"
    assert by_sample([10, 10, 40], [2, 2, 3]) == [5, 10, 20], "also those of samples beyond the budget"


def test_a_row_is_drawn_once_though_two_files_have_it(tmp_path: Path) -> None:
    texts = ["the river in winter", "a mountain of glass", "what now", "tell me of bread", "how does one sail"]
    rows = [{"messages": [{"role": "user", "content": text}], "label": n % 2} for n, text in enumerate(texts)]
    for name, part in {"anchor": rows[:1], "test": rows[:1], "rest": rows[1:], "more": rows[1:]}.items():
        write_jsonl(tmp_path / f"{name}.jsonl", part)
    changes = {
        "evaluate": {"task": "toxicity", "test": str(tmp_path / "test.jsonl")},
        "run": {"task": "toxicity", "data": {"anchor": str(tmp_path / "anchor.jsonl")}},
        "draw": [{"path": str(tmp_path / f"{name}.jsonl"), "n": 2} for name in ("rest", "more")],
    }  # fmt: skip
    bench = Bench(load_experiment(written(tmp_path, **changes)), tmp_path / "out", tmp_path / "cache")
    path = bench.seed_set(0)
    drawn = path.read_text()
    assert sorted(drawn.splitlines()) == sorted((tmp_path / "rest.jsonl").read_text().splitlines())
    for other in (drawn[:40], "\n".join(reversed(drawn.splitlines())) + "\n"):
        path.write_text(other)
        bench = Bench(bench.settings, bench.out, bench.cache)
        assert bench.seed_set(0).read_text() == drawn, "what was cut, or is of another folder, is drawn again"


def test_shuffled_spans_are_those_of_another_feature() -> None:
    rows = [PlanRow(n, "missing", 1, 0.1, 0.0, keep=True, explanation=f"e{n}") for n in range(5)]
    spans = {n: [Span(n, f"text {n}", "t", 1.0, "id", 0)] for n in range(5)}
    changed, given = _exchanged(rows, spans, np.random.default_rng(0))
    assert [row.feature_id for row in changed] == list(range(5))
    for row in changed:
        (span,) = given[row.feature_id]
        assert span.feature_id != row.feature_id
        assert row.explanation == f"e{span.feature_id}"
    assert sorted(s.feature_id for (s,) in given.values()) == list(range(5))


def test_neither_rows_near_what_is_tested_with_nor_those_without_a_label_are_drawn(tmp_path: Path) -> None:
    words = (
        "the quick brown fox jumps over the lazy dog while all the cats of the town sit on the wall and watch it run"
    )
    rows = {"test": [words], "anchor": [words + ", slowly", f"and so, {words}", "hello there", "what now", "no label"]}
    rows["rest"] = [f"but then, {words}", "what now", "hello"]
    for name, texts in rows.items():
        made = [{"messages": [{"role": "user", "content": text}], "label": 1} for text in texts]
        if name == "anchor":
            del made[-1]["label"]
        write_jsonl(tmp_path / f"{name}.jsonl", made)
    changes = {
        "evaluate": {"task": "toxicity", "test": str(tmp_path / "test.jsonl")},
        "run": {"task": "toxicity", "data": {"anchor": str(tmp_path / "anchor.jsonl")}},
        "draw": [{"path": str(tmp_path / "rest.jsonl"), "n": 1}], "methods": {"none": None, "anchor": None},
    }  # fmt: skip
    bench = Bench(load_experiment(written(tmp_path, **changes)), tmp_path / "out", tmp_path / "cache")
    drawn = [row["messages"][0]["content"] for row in bench.make("anchor", 0).rows]
    assert sorted(drawn) == ["hello there", "what now"]
    (of_seed,) = read_jsonl(bench.seed_set(0))
    assert of_seed["messages"][0]["content"] == "hello"
