"""The whole way on toys: measure, write, keep, measure again, prove."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import tiny_run
from facsynth import pipeline
from facsynth.errors import InputError, MismatchError
from facsynth.features.encoded import Encoded
from facsynth.settings import RunSettings
from facsynth.store import read_json, read_jsonl

Finished = tuple[RunSettings, Path, Path]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("tiny")
    settings = tiny_run.settings(folder)
    pipeline.run(settings, folder / "run", folder / "cache")
    yield settings, folder / "run", folder / "cache"


def test_a_run_leaves_everything_that_others_rely_on(finished: Finished) -> None:
    _, out, _ = finished
    names = (
        "summary.json samples.jsonl provenance.jsonl rejected.jsonl gave_up.jsonl targets.json coverage/before.json "
        "coverage/after.json features/anchor/manifest.json features/seed/manifest.json ledger.sqlite report.html "
        "facsynth.yaml plan.csv manifest.json"
    )
    assert [name for name in names.split() if not (out / name).exists()] == []


def test_the_figures_of_a_run_agree_with_each_other(finished: Finished) -> None:
    _, out, _ = finished
    summary, before, after = (
        read_json(out / n) for n in ("summary.json", "coverage/before.json", "coverage/after.json")
    )
    samples, provenance = read_jsonl(out / "samples.jsonl"), read_jsonl(out / "provenance.jsonl")
    targets = read_json(out / "targets.json")["attempted"]
    assert len(samples) == len(provenance) == summary["n_accepted"] > 0
    assert before["n_covered"] + before["n_missing"] == before["n_target"] == after["n_target"]
    assert summary["after"] == after["value"] >= summary["before"] == before["value"]
    assert summary["n_attempted"] == len(targets) == 12
    recovered = {t["feature_id"] for t in targets} - set(after["missing"])
    assert summary["n_recovered"] == len(recovered)
    assert summary["recovered"] == pytest.approx(1 - after["n_missing"] / before["n_missing"])
    rejected = read_jsonl(out / "rejected.jsonl")
    assert sum(summary["n_rejected"].values()) == len(rejected)
    assert summary["writer_calls"] == len(rejected) + len(samples) + summary["n_control"]


def test_every_accepted_sample_fires_above_its_margin(finished: Finished) -> None:
    _, out, _ = finished
    accepted = Encoded.open(out / "features" / "accepted").profile
    for row in read_jsonl(out / "provenance.jsonl"):
        assert row["activation"] > 1.05 * row["threshold"] - 1e-6
        best = {top.sample_id: top.activation for top in accepted.top_samples(row["feature"])}
        assert best.get(row["sample_id"], row["activation"]) == pytest.approx(row["activation"], rel=1e-4)


def test_a_finished_run_is_not_done_again(finished: Finished) -> None:
    settings, out, cache = finished
    before = (out / "ledger.sqlite").stat().st_mtime_ns, (out / "samples.jsonl").stat().st_mtime_ns
    pipeline.run(settings, out, cache)
    assert ((out / "ledger.sqlite").stat().st_mtime_ns, (out / "samples.jsonl").stat().st_mtime_ns) == before


def test_other_settings_in_the_same_folder_are_refused_by_name(finished: Finished) -> None:
    settings, out, cache = finished
    other = settings.model_copy(update={"rng_seed": 7})
    with pytest.raises(MismatchError, match="rng_seed"):
        pipeline.run(other, out, cache)


def test_verify_holds_and_tells_a_changed_text(finished: Finished, tmp_path: Path) -> None:
    _, out, cache = finished
    assert pipeline.verify_run(out, cache).findings == ()
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("facsynth.yaml", "provenance.jsonl"):
        (copy / name).write_bytes((out / name).read_bytes())
    rows = read_jsonl(out / "samples.jsonl")
    rows[0]["messages"][0]["content"] = "an altogether different text"
    (copy / "samples.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    found = pipeline.verify_run(copy, cache)
    assert [f.problem for f in found.findings] == ["text changed"]
    assert not found.holds


def test_an_edited_plan_is_followed_before_writing_and_refused_after(finished: Finished, tmp_path: Path) -> None:
    settings, out, cache = finished
    again = tmp_path / "again"
    pipeline.measure_run(settings, again, cache)
    lines = (again / "plan.csv").read_text(encoding="utf-8").splitlines()
    dropped = lines[1].split(",")[0]
    assert "yes" in lines[1]
    lines[1] = lines[1].replace("yes", "no")
    (again / "plan.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    everything = settings.model_copy(update={"budget": settings.budget.model_copy(update={"features": None})})
    before, space, anchor, _ = pipeline.measure_run(everything, again, cache)
    tasks = pipeline.fix_targets(before, everything, again, anchor, space)
    assert len(tasks) == len(lines) - 2
    assert int(dropped) not in {task.feature_id for task in tasks}
    (again / "plan.csv").write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    with pytest.raises(MismatchError, match=r"plan\.csv was changed"):
        pipeline.fix_targets(before, everything, again, anchor, space)
    del out


def test_measuring_again_reads_what_is_there(finished: Finished, tmp_path: Path) -> None:
    settings, out, cache = finished
    before = read_json(out / "coverage/before.json")
    pipeline.measure_run(settings, tmp_path / "other", cache)
    assert read_json(tmp_path / "other/coverage/before.json") == before


def test_verify_of_an_unfinished_run_says_how_to_finish_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="facsynth synthesize"):
        pipeline.verify_run(tmp_path, tmp_path)
