"""A run by the command line, on tiny parts: what is printed and kept from the plan to the proof."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from facsynth.settings import load_settings
from facsynth.store import read_json, read_jsonl
from tiny_cli import Done, Parts, facsynth


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return Parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def finished(tiny: Parts) -> tuple[Path, Done]:
    """A run folder, as `missing` begins it and `synthesize` ends it."""
    out = tiny.folder / "finished"
    config = tiny.write("short.yaml", tiny.changed("budget", "features", 4))
    assert facsynth("missing", tiny.seed, "-c", config, "-o", out).code == 0
    return out, facsynth("synthesize", out)


@pytest.mark.parametrize("task", [None, "toxicity"], ids=["no task", "a task with labels"])
def test_a_run_on_stdin_goes_on_without_it(tiny: Parts, task: str | None) -> None:
    out = tiny.folder / f"piped {task}"
    config = tiny.write("piped.yaml", tiny.changed("budget", "features", 1) + (f"task: {task}\n" if task else ""))
    assert facsynth("missing", "-", "-c", config, "-o", out, stdin="river field\noven salt\n").code == 0
    done = facsynth("synthesize", out, "--json")
    assert done.code == 0
    assert json.loads(done.stdout)["n_attempted"] == 1


def test_missing_prints_the_plan_that_it_writes(tiny: Parts) -> None:
    out = tiny.folder / "planned here"
    done = facsynth("missing", tiny.seed, *tiny.options, "-o", out, "--top", "3")
    with (out / "plan.csv").open(encoding="utf-8-sig", newline="") as handle:
        plan = list(csv.DictReader(handle))
    assert done.code == 0
    kept = [row for row in plan if row["keep"] == "yes"]
    assert f"{len(kept)} features to fill" in done.stdout
    assert 0 < len(kept) < len(plan) and f"{len(plan) - len(kept)} features are left out" in done.stderr
    shown = [line.split()[0] for line in done.stdout.splitlines() if " missing " in line and " %" in line]
    assert shown == [row["feature_id"] for row in kept if not row["group"]][:3]
    assert str(out / "plan.csv") in done.stderr
    rows = json.loads(facsynth("missing", tiny.seed, *tiny.options, "-o", out, "--json").stdout)
    assert [str(row["feature_id"]) for row in rows] == [row["feature_id"] for row in plan]
    unfinished = facsynth("show", out)
    assert "missing" in unfinished.stdout
    assert f"facsynth synthesize '{out}'" in unfinished.stderr  # a command that can be copied as it stands


def test_coverage_and_plan_are_printed_before_anything_is_written_for_them(tiny: Parts) -> None:
    out = tiny.folder / "told"
    config = tiny.write("told.yaml", tiny.changed("budget", "features", 3))
    done = facsynth("run", config, "-o", out)
    coverage, plan, summary = (done.stdout.index(text) for text in ("target features", "features to fill", "recovered"))
    assert coverage < plan < summary
    lines = (out / "plan.csv").read_text(encoding="utf-8").splitlines()
    first = next(line for line in lines if ",yes," in line).split(",")[0]
    assert first in done.stdout[plan:summary]
    assert "features to fill" not in facsynth("run", config, "-o", out).stdout, "a finished run is only told of"


def test_a_plan_that_was_changed_too_late_is_followed_by_the_command_that_is_printed(tiny: Parts) -> None:
    out = tiny.folder / "a run"
    config = tiny.write("one.yaml", tiny.changed("budget", "features", 1))
    assert facsynth("run", config, "-o", out).code == 0
    lines = (out / "plan.csv").read_text("utf-8").splitlines(keepends=True)
    lines = [lines[0], next(line for line in lines if ",yes," in line)]
    (out / "plan.csv").write_text("".join(lines), encoding="utf-8")
    done = facsynth("run", config, "-o", out)
    assert done.code == 1
    mkdir, copy, command = done.stderr.splitlines()[-1].strip().replace("NEW", str(tiny.folder / "new")).split(" && ")
    subprocess.run(f"{mkdir} && {copy}", shell=True, check=True)
    assert facsynth(*shlex.split(command)[1:]).code == 0
    attempted = read_json(tiny.folder / "new" / "targets.json")["attempted"]
    assert [str(row["feature_id"]) for row in attempted] == [lines[1].partition(",")[0]]


def test_a_line_is_printed_when_writing_begins(tiny: Parts) -> None:
    config = tiny.write("begin.yaml", tiny.changed("budget", "features", 1))
    lines = facsynth("run", config, "-o", tiny.folder / "begun").stderr.splitlines()
    first = next(line for line in lines if line.startswith("writing"))
    assert re.fullmatch(r"writing 0/\d+", first)


def test_synthesize_prints_the_summary_that_it_writes(tiny: Parts, finished: tuple[Path, Done]) -> None:
    out, done = finished
    summary = read_json(out / "summary.json")
    assert done.code == 0
    assert re.search(rf"attempted +{summary['n_attempted']} ", done.stdout)
    assert re.search(rf"accepted +{summary['n_accepted']} ", done.stdout)
    assert f"facsynth verify {out}" in done.stderr
    again = facsynth("synthesize", out, "--json")
    assert json.loads(again.stdout) == summary
    assert "writing" not in again.stderr


def test_show_and_report_read_a_finished_run(finished: tuple[Path, Done]) -> None:
    out, _ = finished
    samples, provenance = read_jsonl(out / "samples.jsonl"), read_jsonl(out / "provenance.jsonl")
    assert samples
    assert f"{len(samples)} accepted samples" in facsynth("show", out).stdout
    feature = provenance[0]["feature"]
    about = facsynth("show", out, "--feature", feature)
    assert f"feature {feature}, threshold {provenance[0]['threshold']:.2f}" in about.stdout
    assert facsynth("report", out).stdout.strip() == str(out / "report.html")


def test_show_tells_of_features_before_anything_is_written_and_of_files_that_are_gone(tiny: Parts) -> None:
    out = tiny.folder / "early"
    assert facsynth("missing", tiny.seed, *tiny.options, "-o", out).code == 0
    with (out / "plan.csv").open(encoding="utf-8-sig", newline="") as handle:
        feature = next(csv.DictReader(handle))["feature_id"]
    about = facsynth("show", out, "--feature", feature)
    assert f"feature {feature}, missing, not attempted" in about.stdout
    assert "is not finished" in about.stderr
    (out / "coverage" / "before.json").write_text("{", encoding="utf-8")
    done = facsynth("show", out)
    assert (done.code, "coverage/before.json could not be read" in done.stderr) == (0, True)


def test_verify_ends_with_three_where_a_text_was_replaced(finished: tuple[Path, Done]) -> None:
    out, _ = finished
    assert facsynth("verify", out).code == 0
    whole = (out / "samples.jsonl").read_text("utf-8")
    rows = read_jsonl(out / "samples.jsonl")
    rows[0]["messages"][0]["content"] = "an altogether different text"
    try:
        (out / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        done = facsynth("verify", out, "--json")
        table = facsynth("verify", out)
    finally:
        (out / "samples.jsonl").write_text(whole, encoding="utf-8")
    found = json.loads(done.stdout)
    assert (done.code, found["holds"], found["n_samples"]) == (3, False, len(rows))
    assert [(f["row"], f["problem"]) for f in found["findings"]] == [(1, "text changed")]
    assert "1 texts changed" in done.stderr
    assert "text changed" in table.stdout


def test_options_of_run_win_over_its_file(tiny: Parts) -> None:
    out = tiny.folder / "three"
    done = facsynth("run", tiny.config, "-o", out, "--features", "3", "--rng-seed", "5", "--json")
    assert done.code == 0
    assert json.loads(done.stdout)["n_attempted"] == 3
    kept = load_settings(out / "facsynth.yaml")
    assert (kept.budget.features, kept.rng_seed, kept.writer.strength) == (3, 5, 0.6)


def test_a_slip_in_the_settings_does_not_spoil_the_folder(tiny: Parts) -> None:
    out = tiny.folder / "slipped"
    slipped = tiny.write("slipped.yaml", tiny.changed("data", "seed", ["no-such-file.jsonl"]))
    assert facsynth("missing", "no-such-file.jsonl", *tiny.options, "-o", out).code == 1
    assert facsynth("run", slipped, "-o", out).code == 1
    assert facsynth("missing", tiny.seed, *tiny.options, "-o", out).code == 0
    other = facsynth("missing", tiny.seed, *tiny.options, "-o", out, "--threshold", "0.0")
    assert other.code == 1
    assert "begun with another coverage" in other.stderr
