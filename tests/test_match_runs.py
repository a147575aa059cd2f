"""Counterparts of what a run misses: shares, what is carried over, and samples made for A measured in B."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_run
from facsynth.coverage.plan import read_plan
from facsynth.errors import InputError, MismatchError
from facsynth.features.encoded import Encoded
from facsynth.matching import match_spaces
from facsynth.meaning.sheet import HUMAN, Note, read_notes, write_notes
from facsynth.model.sae_saelens import save_sae
from tiny import random_sae
from tiny_cli import Parts, facsynth


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Parts, Path, Path]:
    """A finished run, and one that was measured in the space of another SAE, which shares half of its features."""
    parts = Parts(tmp_path_factory.mktemp("runs"))
    tiny_run.corpus(parts.anchor, 200, 2)
    a, b = parts.folder / "a", parts.folder / "b"
    assert facsynth("run", parts.config, "-o", a).code == 0
    first, other = random_sae(32, 64, k=6), random_sae(32, 64, k=6, rng_seed=1)
    for mine, theirs in ((first.W_enc.T, other.W_enc.T), (first.b_enc, other.b_enc), (first.W_dec, other.W_dec)):
        theirs[32:] = mine.flip(0)[32:]
    save_sae(other, parts.folder / "sae-b", metadata={})
    config = parts.write("b.yaml", parts.changed("sae", "path", str(parts.folder / "sae-b")))
    assert facsynth("missing", parts.seed, "-c", config, "-o", b).code == 0
    return parts, a, b


def before(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "coverage" / "before.json").read_text())
    return found


def counterparts(out: Path) -> dict[int, int]:
    rows = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    return {row["feature_a"]: row["feature_b"] for row in rows if row["counterpart"]}


def test_what_a_run_misses_is_found_in_the_other_space(runs: tuple[Parts, Path, Path], tmp_path: Path) -> None:
    _, a, b = runs
    record = match_spaces(a, b, tmp_path / "m")
    paired = counterparts(tmp_path / "m")
    missing, targets = before(a)["missing"], [*before(a)["missing"], *before(a)["covered"]]
    assert record["of"] == "targets"
    assert record["counterparts"]["n"] == before(a)["n_target"] == len(targets)
    assert record["counterparts"]["n_with_counterpart"] == sum(i in paired for i in targets) > 3
    in_b = sorted(paired[i] for i in missing if i in paired)
    assert (record["missing"]["n"], record["missing"]["in_b"]) == (len(missing), in_b)
    assert in_b
    assert record["missing"]["missing_in_b"] == [j for j in in_b if j in before(b)["missing"]]
    planted = {i: 63 - i for i in range(32)}
    assert sum(paired.get(i) == j for i, j in planted.items()) > 0.6 * sum(i in planted for i in paired)


def test_a_run_in_the_other_space_begins_from_what_was_carried(runs: tuple[Parts, Path, Path], tmp_path: Path) -> None:
    parts, a, b = runs
    match_spaces(a, b, tmp_path / "m")
    paired = counterparts(tmp_path / "m")
    lacked = [i for i in before(a)["missing"] if paired.get(i, -1) in before(b)["missing"]]
    told = {i: f"about the thing {i}" for i in lacked}
    write_notes(a / "meaning" / "features.csv", [Note(i, text, HUMAN) for i, text in told.items()])
    try:
        with pytest.raises(MismatchError, match="was begun with another"):
            match_spaces(a, b, tmp_path / "m")
        done = facsynth("match", a, b, "-o", tmp_path / "n")
        assert done.code == 0, done.stderr
        assert "missing in B too" in done.stdout and "cp -r" in done.stderr
    finally:
        (a / "meaning" / "features.csv").unlink()
    carried = tmp_path / "n" / "carried"
    notes = read_notes(carried / "meaning" / "features.csv")
    assert {i: (notes[paired[i]].explanation, notes[paired[i]].explained_by) for i in lacked} == {
        i: (text, HUMAN) for i, text in told.items()
    }
    rows = read_plan(carried / "plan.csv", [*before(b)["missing"], *before(b)["under"]])
    assert {row.feature_id for row in rows if row.keep} <= {paired[i] for i in lacked}
    carried.rename(tmp_path / "new")
    done = facsynth("run", parts.folder / "b.yaml", "-o", tmp_path / "new")
    assert done.code == 0, done.stderr
    attempted = json.loads((tmp_path / "new" / "targets.json").read_text())["attempted"]
    assert attempted
    assert {t["feature_id"] for t in attempted} <= {paired[i] for i in lacked}
    explained = {paired[i]: text for i, text in told.items()}
    assert all(t["explanation"] == explained[t["feature_id"]] for t in attempted)


def test_samples_made_for_one_model_are_measured_in_the_other(runs: tuple[Parts, Path, Path], tmp_path: Path) -> None:
    parts, a, b = runs
    space = ["--model", parts.model, "--sae", parts.folder / "sae-b", "--dtype", "float32", "--sae-check", "off"]
    assert facsynth("encode", a / "samples.jsonl", *space, "-o", tmp_path / "written").code == 0
    done = facsynth("match", a, b, "-o", tmp_path / "m", "--accepted", tmp_path / "written")
    assert done.code == 0, done.stderr
    assert "fired in B" in done.stdout and "that A recovered" in done.stdout
    record = json.loads((tmp_path / "m" / "match.json").read_text())["accepted"]
    paired, asked = counterparts(tmp_path / "m"), before(a)
    corpus, written = Encoded.open(b / "features" / "anchor"), Encoded.open(tmp_path / "written")
    limits = np.array([maxima[:10][maxima[:10] > 0].mean() / 2 if maxima[0] > 0 else 0
                       for maxima in corpus.profile.top_value])  # fmt: skip
    fires = written.profile.firing_samples(np.zeros(64, np.float32)) * 0
    for row in (row for table in written.shards() for row in table.to_pylist()):
        for feature, activation in zip(row["feature"], row["activation"], strict=True):
            fires[feature] += activation > limits[feature] * 1.05  # a threshold moves to a bin edge
    sure = sum(fires[paired[i]] >= asked["min_support"] for i in asked["missing"] if i in paired)
    assert record["n"] == sum(i in paired for i in asked["missing"])
    assert sure <= record["n_fired"] <= record["n"]
    assert 0 < record["chance"] <= 1
    assert record["recovered"]["n_fired"] <= record["recovered"]["n"] <= record["n"]
    for other in (b / "features" / "anchor", b / "features" / "seed"):
        refused = facsynth("match", a, b, "-o", tmp_path / "y", "--accepted", other)
        assert (refused.code, "is not of what" in refused.stderr) == (1, True), refused.stderr
    foreign = facsynth("match", a, b, "-o", tmp_path / "x", "--accepted", a / "features" / "anchor")
    assert (foreign.code, "come from different feature spaces" in foreign.stderr) == (1, True)


def test_a_damaged_record_of_a_run_is_named(runs: tuple[Parts, Path, Path], tmp_path: Path) -> None:
    _, a, b = runs
    path = a / "coverage" / "before.json"
    whole = path.read_text()
    for key in ("covered", "missing"):
        path.write_text(json.dumps({**json.loads(whole), key: "none"}))
        try:
            with pytest.raises(InputError, match=f"before.json does not hold what it should: {key} is"):
                match_spaces(a, b, tmp_path / "m")
        finally:
            path.write_text(whole)
