"""The experiments of docs/RESULTS.md, each on a few rows of its real data and for a budget of a few samples."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from facsynth.experimenting.settings import load_experiment
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


def benchmark(name: str, *words: object) -> str:
    """What a benchmark prints."""
    command = [sys.executable, ROOT / "benchmarks" / name, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


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
        words = [tmp_path / "small.yaml", tmp_path / "kept.jsonl"]
        first = benchmark("by_label.py", *words, tmp_path / "out", "-n", "2")
        assert benchmark("by_label.py", *words, "-n", "2") == first, "of what is kept too"
        apart = [[cell.strip() for cell in line.split("|")[1:4]] for line in first.splitlines()[2:]]
        for method in ("fac", "plain"):
            positive = rows[method]["n_positive"][0]
            there = {label: n for name, label, n in apart if name == method}
            others = rows[method]["n_samples"][0] - positive
            assert there == {label: str(min(n, 2)) for label, n in (("positive", positive), ("other", others)) if n}


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
