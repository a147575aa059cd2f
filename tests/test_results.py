"""Results of eval side by side: paired, of the same items and seeds, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from facsynth.errors import InputError
from facsynth.evaluating.results import (
    STAGE,
    Result,
    compare_results,
    difference_of,
    keep_result,
    measured,
    read_result,
)
from facsynth.store import Artifact
from tiny_cli import facsynth


def kept(folder: Path, noise: float, n_seeds: int = 4, n_items: int = 60, **asked: Any) -> Path:
    """A result of toxicity whose scores tell labels apart the better the less noise there is."""
    rng = np.random.default_rng(0)
    items = [{"sample_id": f"{n:016x}", "label": int(n % 3 == 0)} for n in range(n_items)]
    labels = np.array([item["label"] for item in items])
    scores = labels + noise * rng.normal(size=(n_seeds, n_items))
    artifact = Artifact(folder, STAGE, {"task": "toxicity", **asked}, {})
    record = {"task": "toxicity", "metric": "AUPRC", **asked, **measured("toxicity", items, scores)}
    keep_result(artifact, Result("toxicity", items, scores, record))
    return folder


def test_a_result_is_read_as_it_was_kept(tmp_path: Path) -> None:
    found = read_result(kept(tmp_path / "a", 1.0))
    assert found.scores.shape == (4, 60)
    assert found.record["value"] == pytest.approx(np.mean(found.record["by_seed"]))
    assert found.items[3] == {"sample_id": f"{3:016x}", "label": 1}


def test_the_better_one_is_told_and_a_copy_of_itself_is_not(tmp_path: Path) -> None:
    folders = [kept(tmp_path / name, noise) for name, noise in (("a", 1.5), ("b", 0.2), ("same", 1.5))]
    better, same = compare_results(folders)["pairs"]
    assert better["ci95"][0] > 0.1 and better["p_holm"] == pytest.approx(2 * better["p"]) and better["p"] < 0.01
    assert (same["difference"], same["ci95"], same["p_holm"]) == (0.0, [0.0, 0.0], 1.0)
    done = facsynth("compare", *folders)
    assert done.code == 0
    assert "better" in done.stdout and "no difference told" in done.stdout
    assert json.loads(facsynth("compare", *folders, "--json").stdout) == compare_results(folders)


def test_results_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    a = kept(tmp_path / "a", 1.0)
    fewer = facsynth("compare", a, kept(tmp_path / "b", 1.0, n_items=30))
    assert (fewer.code, "other test items cannot be compared" in fewer.stderr) == (1, True)
    one, two = (kept(tmp_path / f"seed-{n}", 1.0, n_seeds=1, seeds=[n]) for n in (0, 1))
    assert "of other seeds cannot be compared" in facsynth("compare", one, two).stderr
    seeds = facsynth("compare", a, kept(tmp_path / "c", 1.0, n_seeds=2))
    assert (seeds.code, "other numbers of seeds" in seeds.stderr) == (1, True)
    other = kept(tmp_path / "d", 1.0)
    rows = (other / "items.jsonl").read_text().replace(f"{3:016x}", f"{999:016x}")
    (other / "items.jsonl").write_text(rows)
    assert "on other test items" in facsynth("compare", a, other).stderr
    mixed = facsynth("compare", a, tmp_path / "nowhere")
    assert (mixed.code, f"{tmp_path / 'nowhere'} is not there" in mixed.stderr) == (1, True), mixed.stderr
    assert facsynth("compare", a).code == 2
    assert facsynth("compare", a, a, "--relevance", "all").code == 2
    (other / "items.jsonl").write_text(rows.replace('"scores"', '"score"'))
    broken = facsynth("compare", a, other)
    assert (broken.code, "has no scores of every item and seed" in broken.stderr) == (1, True)
    (other / "manifest.json").unlink()
    assert "is not finished" in facsynth("compare", a, other).stderr


def test_an_item_that_one_result_lacks_counts_for_neither(tmp_path: Path) -> None:
    scores = {"a": [[1.0, 0.0, np.nan, 0.5]], "b": [[1.0, np.nan, 1.0, 1.0]]}
    for name, rows in scores.items():
        items = [{"sample_id": f"{n:016x}"} for n in range(4)]
        found = np.array(rows)
        record = {"task": "instruction", "metric": "win rate", **measured("instruction", items, found)}
        artifact = Artifact(tmp_path / name, STAGE, {"task": "instruction"}, {"who": name})
        keep_result(artifact, Result("instruction", items, found, record))
    assert np.isnan(read_result(tmp_path / "b").scores[0, 1])
    found_in = [tmp_path / "a", tmp_path / "b"]
    compared = compare_results(found_in)
    assert [one["value"] for one in compared["results"]] == [0.5, 1.0]
    assert compared["pairs"][0]["difference"] == pytest.approx(np.mean([1.0, 1.0]) - np.mean([1.0, 0.5]))
    assert compared["pairs"][0]["n_items"] == 2
    assert "that of the 2 of 4 test items that have a score in both" in facsynth("compare", *found_in).stderr


def test_items_that_are_all_alike_have_an_interval_too() -> None:
    """Clopper and Pearson's, of as many items as the kind has that there are fewest of."""
    items = [{"sample_id": f"{n:016x}"} for n in range(10)]
    found = measured("reward", items, np.ones((2, 10)))
    assert found["ci95"] == pytest.approx([0.025**0.1, 1.0])
    assert found["ci95"][0] == pytest.approx(binomtest(10, 10).proportion_ci().low)
    labelled = [item | {"label": int(n < 2)} for n, item in enumerate(items)]
    one = np.array([[float(n < 2) for n in range(10)]])
    assert measured("toxicity", labelled, one)["ci95"] == pytest.approx([0.025**0.5, 1.0])
    of_bench = [item | {"subset": "hep-go" if n < 3 else "refusals-offensive"} for n, item in enumerate(items)]
    assert measured("reward", of_bench, np.ones((1, 10)))["ci95"] == pytest.approx([0.025 ** (1 / 3), 1.0])
    of_others = [item | {"subset": f"subset {n}"} for n, item in enumerate(items)]
    assert measured("reward", of_others, np.ones((1, 10)))["ci95"] == pytest.approx([0.025**0.1, 1.0])
    lost = difference_of("instruction", items, np.ones((1, 10)), np.zeros((1, 10)))
    assert (lost.low, lost.high) == pytest.approx((-1.0, -1 + 2 * (1 - 0.025**0.1)))
    assert lost.p == pytest.approx(2 * 0.5**10, abs=1e-3)
    few = difference_of("instruction", items[:3], np.ones((1, 3)), np.zeros((1, 3)))
    assert few.p == 0.25, "three coins fall alike as often"
    same = difference_of("instruction", items, np.ones((1, 10)), np.ones((1, 10)))
    assert (same.low, same.high, same.p) == (0.0, 0.0, 1.0)


def test_an_interval_ends_where_figures_do() -> None:
    scores = np.array([[1.0, 1.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    items = [{"sample_id": f"{n:016x}"} for n in range(4)]
    assert measured("instruction", items, scores)["ci95"] == [0.0, 1.0], "two seeds that differ so tell nothing"
    assert measured("steering", items, 2 * scores - 1)["ci95"] == [-1.0, 1.0]


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("items.jsonl", '"scores": [', '"scores": ["x", ', "no scores of every item and seed"),
        ("items.jsonl", '"scores": [', '"scores": [null, ', "no scores of every item and seed"),
        ("items.jsonl", '"scores": [', '"scores": [[1.0], ', "no scores of every item and seed"),
        ("items.jsonl", '"scores": [', '"scores": [NaN, ', "no scores of every item and seed"),
        ("items.jsonl", '"label": 1', '"label": "x"', "items that are none of toxicity"),
        ("items.jsonl", '"label": 1', '"label": 0', "one of them was changed"),
        ("result.json", '"value": 0.', '"value": 1.', "one of them was changed"),
        ("result.json", '"ci95"', '"ci96"', "has no ci95"),
        ("result.json", '"ci95": [', '"ci95": [[],', "no figure with its interval"),
        ("plan.json", '"parents": {}', '"parents": []', "parents that are no object"),
    ],
)
def test_a_result_that_was_changed_is_named(tmp_path: Path, file: str, old: str, new: str, told: str) -> None:
    path = kept(tmp_path / "a", 1.0) / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=told):
        read_result(tmp_path / "a")


def test_a_result_whose_items_became_of_one_kind_is_named(tmp_path: Path) -> None:
    path = kept(tmp_path / "a", 1.0) / "items.jsonl"
    path.write_text(path.read_text().replace('"label": 0', '"label": 1'))
    with pytest.raises(InputError, match="items.jsonl has items that are none of toxicity"):
        read_result(tmp_path / "a")
