"""Methods side by side on tiny parts: what each is given, equal budgets, what goes on, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

import tiny_run
from test_toxicity import labelled
from tiny_cli import facsynth


def config(folder: Path, **changes: Any) -> Path:
    """An experiment on a model with random weights."""
    run = tiny_run.parts(folder)
    run["data"] = {"anchor": [str(labelled(folder / "anchor.jsonl", 60, 2))]}
    run |= {"task": "toxicity"}
    raw = {
        "evaluate": {"task": "toxicity", "test": str(labelled(folder / "test.jsonl", 40, 5)), "model": run["model"]},
        "run": run,
        "draw": [{"path": str(labelled(folder / "rest.jsonl", 60, 9)), "n": 30}],
        "methods": {"none": None, "plain": None, "fac": None, "random-features": None},
        "budgets": [2, 4],
        "seeds": [0, 1],
    } | changes
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return path


def test_an_experiment_on_tiny_parts_gives_a_table_and_a_plot_and_goes_on(tmp_path: Path) -> None:
    path = config(tmp_path, tokens_of="fac")
    done = facsynth("experiment", path, "-o", tmp_path / "out")
    assert done.code == 0, done.stderr
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    print(done.stdout)
    assert [row["method"] for row in table["rows"][:4]] == ["none", "plain", "fac", "random-features"]
