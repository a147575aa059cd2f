"""The experiments of docs/RESULTS.md, each on a few rows of its real data and for a budget of a few samples."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from facsynth.experimenting.settings import load_experiment
from facsynth.names import p_of
from tiny_cli import facsynth

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("FACSYNTH_TEST_DATA", ROOT.parent / "shared" / "data"))
N_ROWS = {"anchor": 120, "judge": 24, "test": 30}
"""Of a file, about, by its name; of any other 60."""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not DATA.is_dir(), reason="the data sets are not there")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `benchmarks/experiment_data.py` writes, cut to rows spread over each file."""
    out = tmp_path_factory.mktemp("evidence") / "data"
    subprocess.run([sys.executable, ROOT / "benchmarks" / "experiment_data.py", DATA, out], check=True)
    for path in out.rglob("*.jsonl"):
        lines, n = path.read_text().splitlines(keepends=True), N_ROWS.get(path.stem, 60)
        path.write_text("".join(lines[:: max(len(lines) // n, 1)]))
    return out


METHODS = {"none", "fac", "plain"}


@pytest.mark.parametrize("name", ["toxicity", "traffic", "large", "rivals", "reward", "steering", "instruction"])
def test_each_table_of_the_results_can_be_made(name: str, data: Path, tmp_path: Path) -> None:
    example = ROOT / "examples" / "experiments" / f"{name}.yaml"
    raw = yaml.safe_load(example.read_text().replace("runs/data", str(data)))
    if base := raw.pop("base", ""):
        raw = yaml.safe_load(example.with_name(base).read_text().replace("runs/data", str(data))) | raw
    methods = {"none", "fac", "self-instruct", "magpie", "synalign"} if name == "rivals" else METHODS
    raw["methods"] = {method: block for method, block in raw["methods"].items() if method in methods}
    raw |= {"budgets": [3], "seeds": [0], "tokens_of": ""}
    raw["draw"] = [block | {"n": min(block["n"], 30)} for block in raw["draw"]]
    raw["run"]["budget"] = {"max_candidates": 4, "features": 4}
    raw["evaluate"] |= {"answer_tokens": 8, "epochs": 1} if name == "instruction" else {}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    of_task = dict.fromkeys(("traffic", "large", "rivals"), "toxicity")
    assert load_experiment(tmp_path / "small.yaml").evaluate.task == of_task.get(name, name)
    done = facsynth("experiment", tmp_path / "small.yaml", "-o", tmp_path / "out", "--json")
    assert done.code == 0, done.stderr
    table = json.loads(done.stdout)
    if name == "steering" and not table["is_measurable"]:
        assert "rows" not in table, "no method is compared"
        return
    rows = {row["method"]: row for row in table["rows"]}
    assert set(rows) == methods and rows["none"]["n_samples"] == [0]
    assert all(row["ci95"][0] <= row["value"] <= row["ci95"][1] for row in rows.values())
    assert all(0 <= row["p"] <= row["p_holm"] <= 1 for row in rows.values() if "against" in row)
    assert all(0 < rows[method]["n_samples"][0] <= 3 for method in methods - {"none"})
    if name == "toxicity":
        by_label = runpy.run_path(str(ROOT / "benchmarks" / "by_label.py"))
        apart = by_label["compared"](load_experiment(tmp_path / "small.yaml"), tmp_path / "out", 2)
        assert {row["method"] for row in apart} == {"fac", "plain"}
        for method in ("fac", "plain"):
            positive = rows[method]["n_positive"][0]
            there = {row["positive"]: row["n"] for row in apart if row["method"] == method}
            others = rows[method]["n_samples"][0] - positive
            assert there == {label: [min(n, 2)] for label, n in ((True, positive), (False, others)) if n}


def test_the_table_of_selected_samples_can_be_made(data: Path, tmp_path: Path) -> None:
    example = ROOT / "examples" / "experiments" / "selection.yaml"
    raw = yaml.safe_load(example.read_text().replace("runs/data", str(data))) | {"budgets": [3], "seeds": [0]}
    raw["draw"] = [block | {"n": min(block["n"], 30)} for block in raw["draw"]]
    raw["run"]["coverage"]["min_support"] = 1
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    done = facsynth("experiment", tmp_path / "small.yaml", "-o", tmp_path / "out", "--json")
    assert done.code == 0, done.stderr
    n_samples = {row["method"]: row["n_samples"] for row in json.loads(done.stdout)["rows"]}
    assert n_samples == {"real": [3], "none": [0], "pool": [2], "anchor": [3]}


NAMES = {
    "fac": "missing features, two steps, steered", "fac-default": "missing features, by default (one step)",
    "fac-unchecked": "two steps, labels not checked",
    "fac-one-step": "spans alone, not steered", "random-features": "random features", "plain": "plain prompt",
    "self-instruct": "Self-Instruct", "magpie": "Magpie", "synalign": "SynAlign", "anchor": "the anchor's own samples",
    "any-sample": "missing is what no seed sample fires", "shuffled-spans": "spans of another feature",
    "pool": "selected from a pool", "none": "no synthesis", "real": "any of the pool",
}  # fmt: skip
"""Of methods, in docs/RESULTS.md."""
KEPT = {path.stem: path for path in sorted((ROOT / "docs" / "evidence").glob("*.jsonl"))}


@pytest.mark.parametrize("name", KEPT)
def test_the_figures_of_the_results_are_those_of_the_scores_that_are_kept(name: str) -> None:
    scores = runpy.run_path(str(ROOT / "benchmarks" / "scores.py"))
    table = scores["compared"](ROOT / "examples" / "experiments" / f"{name}.yaml", KEPT[name], [], None)
    results = (ROOT / "docs" / "RESULTS.md").read_text()
    (section,) = [part for part in re.split(r"(?m)^###? ", results) if f"docs/evidence/{name}.jsonl" in part]
    assert len(table["seeds"]) > 1 and not table["unfinished"]
    for method in dict.fromkeys(row["method"] for row in table["rows"]):
        of_method = [row for row in table["rows"] if row["method"] == method]
        lines = [line for line in section.splitlines() if line.startswith(f"| {NAMES[method]} |")]
        axes = [axis for axis in ("samples", "tokens") if any(row["axis"] == axis for row in of_method)]
        for axis, line in zip(axes if method != "none" else axes[:1], lines, strict=False):
            rows = [row for row in of_method if row["axis"] == axis]
            assert re.findall(r"\| (0\.\d{3})", line) == [f"{row['value']:.3f}" for row in rows], (method, axis)
            changes = [_change(row) for row in rows if "difference" in row]
            assert not changes or any(change in line for change in changes), (method, axis, changes)
        assert len(lines) >= len(axes) - (method == "none"), f"{method} has no line on an axis"


def test_the_differences_of_missing_features_to_others_are_those_of_the_scores() -> None:
    scores = runpy.run_path(str(ROOT / "benchmarks" / "scores.py"))
    table = scores["compared"](ROOT / "examples" / "experiments" / "traffic.yaml", KEPT["traffic"], [], "fac")
    results = (ROOT / "docs" / "RESULTS.md").read_text().partition("Missing features, two steps, against the others")[2]
    for method in ("fac-default", "plain", "random-features", "fac-unchecked", "anchor"):
        name = NAMES[method].removeprefix("two steps, ").removeprefix("missing features, ")
        rows = [row for row in table["rows"] if row["method"] == method]
        ends = [(-row["difference"], *(-end for end in reversed(row["difference_ci95"]))) for row in rows]
        cells = [f"{value:+.3f} ({low:+.2f} to {high:+.2f})" for value, low, high in ends]
        assert f"| {name} | {' | '.join(cells)} |" in results, (method, cells)


def _change(row: dict[str, Any]) -> str:
    low, high = row["difference_ci95"]
    return f"{row['difference']:+.3f} ({low:+.2f} to {high:+.2f}), p {p_of(row['p_holm'])}"
