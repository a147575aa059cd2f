"""The figures of docs/RESULTS.md are those of the scores that are kept."""

from __future__ import annotations

import re
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from facsynth.experimenting.settings import load_experiment
from facsynth.names import p_of

ROOT = Path(__file__).parents[1]
RESULTS = (ROOT / "docs" / "RESULTS.md").read_text()
NAMES = {
    "fac": "missing features, two steps, steered", "fac-default": "missing features, by default (one step)",
    "fac-unchecked": "two steps, labels not checked", "covered-features": "relevant features that are not missing",
    "fac-not-steered": "spans alone, not steered", "random-features": "random features", "plain": "plain prompt",
    "self-instruct": "Self-Instruct", "magpie": "Magpie", "synalign": "SynAlign", "anchor": "the anchor's own samples",
    "any-sample": "missing is what no seed sample fires", "shuffled-spans": "spans of another feature",
    "pool": "selected from a pool", "none": "no synthesis", "real": "any of the pool",
}  # fmt: skip
"""Of methods, in docs/RESULTS.md."""
SHORT = {"fac-default": "by default (one step)", "fac-unchecked": "labels not checked"}
KEPT = {path.stem: path for path in sorted((ROOT / "docs" / "evidence").glob("*.jsonl"))}
BY_LABEL = {path.stem: path for path in sorted((ROOT / "docs" / "evidence" / "by-label").glob("*.jsonl"))}

APART = {"traffic": ("fac", (20, 10)), "rivals": ("fac", (20,)), "toxicity": ("none", (50,)), "large": ("plain", (20,))}
"""Of samples by label: what they are compared with, and how many there are."""

pytestmark = pytest.mark.slow


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a file of benchmarks holds, by its name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return lambda name: runpy.run_path(str(ROOT / "benchmarks" / name))


def config_of(name: str) -> Path:
    return ROOT / "examples" / "experiments" / f"{name}.yaml"


def section_of(name: str) -> str:
    (found,) = [part for part in re.split(r"(?m)^###? ", RESULTS) if f"docs/evidence/{name}.jsonl" in part]
    return found


@pytest.mark.parametrize("name", KEPT)
def test_the_figures_of_the_results_are_those_of_the_scores_that_are_kept(name: str, benchmark: Any) -> None:
    table = benchmark("scores.py")["compared"](config_of(name), KEPT[name], [], None)
    section = section_of(name)
    assert len(table["seeds"]) > 1 and not table["unfinished"]
    for method in dict.fromkeys(row["method"] for row in table["rows"]):
        of_method = [row for row in table["rows"] if row["method"] == method]
        lines = [line for line in section.splitlines() if line.startswith(f"| {NAMES[method]} |")]
        axes = [axis for axis in ("samples", "tokens") if any(row["axis"] == axis for row in of_method)]
        for axis, line in zip(axes if method != "none" else axes[:1], lines, strict=False):
            rows = [row for row in of_method if row["axis"] == axis]
            assert re.findall(r"\| (0\.\d{3})", line) == [f"{row['value']:.3f}" for row in rows], (method, axis)
            changes = [change_of(row) for row in rows if "difference" in row]
            assert not changes or any(change in line for change in changes), (method, axis, changes)
            if axis == "samples" and method != "none" and "| toxic of " in section:
                assert any(f" {positives_of(row)} |" in line for row in rows), (method, list(map(positives_of, rows)))
        assert len(lines) >= len(axes) - (method == "none"), f"{method} has no line on an axis"


def test_the_differences_of_missing_features_to_others_are_those_of_the_scores(benchmark: Any) -> None:
    table = benchmark("scores.py")["compared"](config_of("traffic"), KEPT["traffic"], [], "fac")
    results = RESULTS.partition("Missing features, two steps, against the others")[2]
    for method in dict.fromkeys(row["method"] for row in table["rows"] if row["method"] not in {"fac", "none"}):
        rows = [row for row in table["rows"] if row["method"] == method]
        ends = [(-row["difference"], *(-end for end in reversed(row["difference_ci95"]))) for row in rows]
        cells = [f"{value:+.3f} ({low:+.2f} to {high:+.2f})" for value, low, high in ends]
        name = SHORT.get(method, NAMES[method])
        assert f"| {name} | {' | '.join(cells)} |" in results, (method, cells)


@pytest.mark.parametrize("name", BY_LABEL)
def test_the_figures_by_label_are_those_of_the_scores_that_are_kept(name: str, benchmark: Any) -> None:
    by_label = benchmark("by_label.py")
    fits = by_label["kept"].merged(BY_LABEL[name], [], by_label["KEY"], by_label["SHARED"])
    section = section_of(name)
    against, sizes = APART[name]
    for n in sizes:
        for row in by_label["compared"](fits, n, against):
            if row["label"] == "positive" or against == "none":
                assert change_by_label(row) in section, (row["method"], row["label"], n, change_by_label(row))
    for row in by_label["compared"](fits, sizes[0], "none"):
        lines = [line for line in section.splitlines() if line.startswith(f"| {NAMES[row['method']]}")]
        if row["label"] == "other" and "others, against none" in section:
            assert any(change_by_label(row) in line for line in lines), (row["method"], change_by_label(row))
    assert load_experiment(config_of(name)).seeds == tuple(sorted({fit["rng_seed"] for fit in fits[1:]}))


def change_by_label(row: dict[str, Any]) -> str:
    d = row["told"]
    return f"{d.value:+.3f} ({d.low:+.2f} to {d.high:+.2f}), p {p_of(row['p'])}"


def positives_of(row: dict[str, Any]) -> str:
    return range_of(row["n_positive"])


def range_of(counts: Sequence[int]) -> str:
    return f"{min(counts)} to {max(counts)}" if len(set(counts)) > 1 else str(counts[0])


def change_of(row: dict[str, Any]) -> str:
    low, high = row["difference_ci95"]
    return f"{row['difference']:+.3f} ({low:+.2f} to {high:+.2f}), p {p_of(row['p_holm'])}"
