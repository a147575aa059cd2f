"""The whole way on toys: measure, write, keep, measure again, prove."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import tiny_run
from facsynth import pipeline, run_folder
from facsynth.errors import InputError, MismatchError, ModelError
from facsynth.features.encode import FeatureSpace
from facsynth.features.encoded import Encoded
from facsynth.meaning.sheet import Note, write_notes
from facsynth.measure import Measured
from facsynth.proof import verify_run
from facsynth.settings import RunSettings, SaeBlock, dump_settings
from facsynth.store import read_json, read_jsonl, write_json, write_jsonl

Finished = tuple[RunSettings, Path, Path]


def measured(settings: RunSettings, out: Path, cache: Path) -> tuple[Measured, FeatureSpace, Encoded, Encoded]:
    return pipeline.measure_run(settings, out, cache, run_folder.read_unless_known(settings, out))


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
    assert summary["n_attempted"] == len(targets) == 8
    recovered = {t["feature_id"] for t in targets} - set(after["missing"])
    assert summary["n_recovered"] == len(recovered)
    assert summary["recovered"] == pytest.approx(1 - after["n_missing"] / before["n_missing"])
    rejected = read_jsonl(out / "rejected.jsonl")
    assert sum(summary["n_rejected"].values()) == len(rejected)
    assert summary["writer_calls"] == len(rejected) + len(samples)
    assert sum(row["n_candidates"] for row in summary["rungs"]) == len(rejected) + len(samples)
    assert summary["n_control"] >= summary["rungs"][0]["n_candidates"]
    assert (summary["rungs"][0]["rung"], summary["control_tokens"]) == ("plain", 0)


def test_every_accepted_sample_fires_above_its_margin(finished: Finished) -> None:
    _, out, _ = finished
    accepted = Encoded.open(out / "features" / "accepted").profile
    for row in read_jsonl(out / "provenance.jsonl"):
        assert row["activation"] > 1.05 * row["threshold"] - 1e-6
        best = {top.sample_id: top.activation for top in accepted.top_samples(row["feature"])}
        assert best[row["sample_id"]] == pytest.approx(row["activation"], rel=1e-4)


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
    assert verify_run(out, cache).findings == ()
    copy = copied(out, tmp_path)
    rows = read_jsonl(copy / "samples.jsonl")
    rows[0]["messages"][0]["content"] = "an altogether different text"
    write_jsonl(copy / "samples.jsonl", rows)
    found = verify_run(copy, cache)
    assert [f.problem for f in found.findings] == ["text changed"]
    assert not found.holds


def test_verify_tells_rows_that_were_taken_away_or_made_easier(finished: Finished, tmp_path: Path) -> None:
    _, out, cache = finished
    copy = copied(out, tmp_path)
    for name in ("samples.jsonl", "provenance.jsonl"):
        write_jsonl(copy / name, read_jsonl(out / name)[1:])
    n = read_json(out / "summary.json")["n_accepted"]
    with pytest.raises(InputError, match=rf"samples.jsonl holds {n - 1} rows, but the run accepted {n}"):
        verify_run(copy, cache)

    easier = read_jsonl(out / "provenance.jsonl")
    easier[1]["threshold"] /= 2
    write_jsonl(copy / "samples.jsonl", read_jsonl(out / "samples.jsonl"))
    write_jsonl(copy / "provenance.jsonl", easier)
    with pytest.raises(MismatchError, match=r"row 2: the threshold of feature .* in targets\.json"):
        verify_run(copy, cache)

    easier[1]["threshold"] = None
    write_jsonl(copy / "provenance.jsonl", easier)
    with pytest.raises(InputError, match="row 2: threshold is None"):
        verify_run(copy, cache)


def test_verify_refuses_another_space_by_name(finished: Finished, tmp_path: Path) -> None:
    _, out, cache = finished
    copy = copied(out, tmp_path)
    yaml = (copy / "facsynth.yaml").read_text(encoding="utf-8")
    (copy / "facsynth.yaml").write_text(yaml.replace("codes: native", "codes: relu"), encoding="utf-8")
    with pytest.raises(MismatchError, match=r"with another codes\n  recorded  native\n  here      relu"):
        verify_run(copy, cache)


def copied(run: Path, folder: Path) -> Path:
    """A copy of a run folder that may be spoilt."""
    return Path(shutil.copytree(run, folder / "copy"))


def test_a_plan_edited_after_the_run_is_not_passed_over(finished: Finished, tmp_path: Path) -> None:
    settings, out, cache = finished
    copy = copied(out, tmp_path)
    plan = copy / "plan.csv"
    plan.write_text(plan.read_text(encoding="utf-8").replace("yes", "no", 1), encoding="utf-8")
    with pytest.raises(MismatchError, match=r"plan\.csv was changed after samples were begun"):
        pipeline.run(settings, copy, cache)


def test_a_finished_run_without_its_features_is_still_that_run(finished: Finished, tmp_path: Path) -> None:
    settings, out, cache = finished
    copy = copied(out, tmp_path)
    shutil.rmtree(copy / "features")
    assert pipeline.run(settings, copy, cache) == read_json(out / "summary.json")
    with pytest.raises(MismatchError, match="begun with another rng_seed"):
        pipeline.run(settings.model_copy(update={"rng_seed": 7}), copy, cache)


def test_thresholds_that_moved_since_the_targets_were_fixed_are_refused(finished: Finished, tmp_path: Path) -> None:
    settings, out, cache = finished
    copy = copied(out, tmp_path)
    (copy / "manifest.json").unlink()
    moved = settings.model_copy(update={"coverage": settings.coverage.model_copy(update={"threshold": "r0.6"})})
    record = (copy / "coverage" / "before.json").read_bytes()
    with pytest.raises(MismatchError, match="target features or thresholds"):
        pipeline.measure_run(moved, copy, cache, None)
    assert (copy / "coverage" / "before.json").read_bytes() == record


def test_data_that_changed_is_refused_by_a_finished_run_and_other_names_for_it_are_not(
    finished: Finished, tmp_path: Path
) -> None:
    settings, out, cache = finished
    copy = copied(out, tmp_path)
    seed = tmp_path / "moved.jsonl"
    shutil.copy(settings.data.seed[0], seed)
    moved = settings.model_copy(update={"data": settings.data.model_copy(update={"seed": (str(seed),)})})
    assert pipeline.run(moved, copy, cache) == read_json(out / "summary.json")
    seed.write_text('{"text": "river field oven"}\n', encoding="utf-8")
    with pytest.raises(MismatchError, match="begun with another seed"):
        pipeline.run(moved, copy, cache)


def test_device_and_batch_size_may_change_on_the_way(finished: Finished, tmp_path: Path) -> None:
    settings, _, _ = finished
    out = tmp_path
    run_folder.open_run(settings, out, run_folder.read_unless_known(settings, out))
    (out / "features").mkdir()
    smaller = settings.model_copy(update={"writer": settings.writer.model_copy(update={"batch_size": 2})})
    run_folder.open_run(smaller, out, run_folder.read_unless_known(settings, out))
    hotter = settings.model_copy(update={"writer": settings.writer.model_copy(update={"temperature": 2.0})})
    with pytest.raises(MismatchError, match=r"writer\.temperature"):
        run_folder.open_run(hotter, out, run_folder.read_unless_known(settings, out))


def test_a_settings_file_that_a_person_wrote_is_never_lost(finished: Finished, tmp_path: Path) -> None:
    settings, _, cache = finished
    mine = tmp_path / "facsynth.yaml"
    for asked in (settings.model_copy(update={"sae": SaeBlock(path="gone")}), settings):
        mine.write_text("# mine\n" + dump_settings(asked), encoding="utf-8")
        before = mine.read_bytes()
        with pytest.raises(MismatchError, match="says something else"):
            pipeline.run(asked.model_copy(update={"rng_seed": 9}), tmp_path, cache)
        assert mine.read_bytes() == before
        for _ in range(2):  # the second call finds a folder that was begun, and of which nothing came
            if asked is settings:
                run_folder.open_run(asked, tmp_path, run_folder.read_unless_known(asked, tmp_path))
            else:
                with pytest.raises(ModelError, match="no SAE"):
                    pipeline.run(asked, tmp_path, cache)
            assert mine.read_bytes() == before


def test_the_seconds_of_a_run_add_up_over_its_calls(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), pipeline.timed(tmp_path) as seconds:
        assert seconds() < 5
        raise KeyboardInterrupt
    write_json(tmp_path / "seconds.json", {"seconds": 100.0})
    with pipeline.timed(tmp_path) as seconds:
        assert 100 <= seconds() < 105
    assert read_json(tmp_path / "seconds.json")["seconds"] >= 100


def test_what_is_no_run_is_left_alone(finished: Finished, tmp_path: Path) -> None:
    settings, _, cache = finished
    mine = tmp_path / "samples.jsonl"
    mine.write_text("mine\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"holds samples\.jsonl, but no plan\.json of `facsynth run`"):
        pipeline.run(settings, tmp_path, cache)
    assert mine.read_text(encoding="utf-8") == "mine\n"
    assert not (tmp_path / "plan.json").exists()


def test_an_edited_plan_is_followed_before_writing_and_refused_after(finished: Finished, tmp_path: Path) -> None:
    settings, _, cache = finished
    again = tmp_path / "again"
    measured(settings, again, cache)
    lines = (again / "plan.csv").read_text(encoding="utf-8").splitlines()
    kept = [number for number, line in enumerate(lines) if ",yes," in line]
    assert 0 < len(kept) < len(lines) - 1, "some fire in more than half of the anchor, and are not kept"
    dropped = lines[kept[0]].split(",")[0]
    lines[kept[0]] = lines[kept[0]].replace(",yes,", ",no,")
    (again / "plan.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    everything = settings.model_copy(update={"budget": settings.budget.model_copy(update={"features": None})})
    before, space, anchor, _ = measured(everything, again, cache)
    tasks = pipeline.fix_targets(before, everything, again, anchor, space, choose=pipeline.planned)
    assert len(tasks) == len(kept) - 1
    assert int(dropped) not in {task.feature_id for task in tasks}
    (again / "plan.csv").write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    with pytest.raises(MismatchError, match=r"plan\.csv was changed"):
        pipeline.fix_targets(before, everything, again, anchor, space, choose=pipeline.planned)


def test_a_plan_that_nobody_changed_is_written_anew_and_one_that_was_is_kept(
    finished: Finished, tmp_path: Path
) -> None:
    settings, _, cache = finished
    plan, sheet = tmp_path / "plan.csv", tmp_path / "meaning" / "features.csv"
    measured(settings, tmp_path, cache)
    first = plan.read_bytes()
    feature = int(first.splitlines()[1].split(b",")[0])
    sheet.parent.mkdir()
    write_notes(sheet, [Note(feature, "paper", "model", 0.9, verdict="Maybe")])
    measured(settings, tmp_path, cache)
    assert b",Maybe,0.9,paper," in plan.read_bytes() != first
    plan.write_bytes(plan.read_bytes().replace(b",yes,", b",no,", 1))
    changed = plan.read_bytes()
    sheet.unlink()
    measured(settings, tmp_path, cache)
    assert plan.read_bytes() == changed


def test_measuring_again_reads_what_is_there(finished: Finished, tmp_path: Path) -> None:
    settings, out, cache = finished
    before = read_json(out / "coverage/before.json")
    measured(settings, tmp_path / "other", cache)
    assert read_json(tmp_path / "other/coverage/before.json") == before


def test_verify_of_an_unfinished_run_says_how_to_finish_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="facsynth synthesize"):
        verify_run(tmp_path, tmp_path)
