"""Selecting from a pool, on toys: what is chosen fires, what it closes is not written for, and it is decided once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import tiny_run
from facsynth import filling, pipeline
from facsynth.errors import MismatchError, SettingsError
from facsynth.proof import verify_run
from facsynth.settings import RunSettings, parse_settings
from facsynth.store import read_json, read_jsonl
from tiny_cli import Parts, facsynth


def pool_of(folder: Path, n: int = 60) -> Path:
    """Chats about what the anchor is about, with one reply each."""
    path = tiny_run.corpus(folder / "pool.jsonl", n, 3)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["messages"].append({"role": "assistant", "content": f"reply {number}"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings_of(folder: Path, *, n: int | None = None, max_candidates: int = 0, **data: Any) -> RunSettings:
    parts = tiny_run.parts(folder, n_latents=128)
    parts["data"] |= {"pool": [str(pool_of(folder))]} | data
    parts["budget"] |= {"features": 12, "n_selected": n, "max_candidates": max_candidates}
    parts["writer"]["rungs"] = ["steered"]
    return parse_settings(parts, "the test")


def closed(out: Path) -> set[int]:
    """Features that have from the pool all that they want."""
    fired = Counter(
        f for row in read_jsonl(out / "provenance.jsonl") if row["source"] == "selected" for f in row["fires"]
    )
    return {
        t["feature_id"] for t in read_json(out / "targets.json")["attempted"] if fired[t["feature_id"]] >= t["n_wanted"]
    }


def test_what_is_selected_fires_and_is_kept_whole(tmp_path: Path) -> None:
    settings, out = settings_of(tmp_path), tmp_path / "run"
    summary = pipeline.run(settings, out, tmp_path / "cache")
    rows, provenance = read_jsonl(out / "samples.jsonl"), read_jsonl(out / "provenance.jsonl")
    in_pool = read_jsonl(tmp_path / "pool.jsonl")
    assert len(rows) == summary["n_selected"] == summary["n_accepted"] > 0
    assert all(row in in_pool for row in rows)
    assert all(row["activation"] > 1.05 * row["threshold"] for row in provenance)
    assert {(row["source"], row["writer"], row["written_for"]) for row in provenance} == {("selected", None, None)}
    assert verify_run(out, tmp_path / "cache").holds
    assert summary["after"] > summary["before"]
    assert summary["writer_calls"] == 0
    (pool,) = summary["rungs"]
    assert (pool["rung"], pool["n_closed"], pool["written_tokens"]) == ("pool", len(closed(out)), 0)
    assert closed(out)


def test_a_row_of_the_pool_that_no_trainer_could_read_is_not_selected(tmp_path: Path) -> None:
    settings, out = settings_of(tmp_path), tmp_path / "run"
    rows = read_jsonl(tmp_path / "pool.jsonl")
    for row in rows[::2]:
        row["messages"][1]["content"] = [{"type": "image"}]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = pipeline.run(settings, out, tmp_path / "cache")
    selected = read_jsonl(out / "samples.jsonl")
    assert selected and all(row in rows[1::2] for row in selected)
    assert summary["n_rejected"]["has turns that are no texts"] > 0


def test_what_the_pool_closes_is_not_written_for(tmp_path: Path) -> None:
    settings, out = settings_of(tmp_path, n=1, max_candidates=6), tmp_path / "run"
    summary = pipeline.run(settings, out, tmp_path / "cache")
    written_for = {row["written_for"] for row in read_jsonl(out / "provenance.jsonl")} - {None}
    written_for |= {row["feature"] for row in read_jsonl(out / "rejected.jsonl")} - {None}
    assert closed(out)
    assert not written_for & closed(out)
    assert written_for
    assert summary["n_recovered"] >= len(closed(out))
    assert verify_run(out, tmp_path / "cache").holds


def test_as_many_as_were_asked_for_and_those_that_close_most(tmp_path: Path) -> None:
    found = []
    for n in (1, 3):
        settings = settings_of(tmp_path, n=n)
        pipeline.run(settings, out := tmp_path / f"run{n}", tmp_path / "cache")
        found.append([row["sample_id"] for row in read_jsonl(out / "provenance.jsonl")])
    assert [len(ids) for ids in found] == [1, 3]
    assert found[0] == found[1][:1]


def test_samples_of_seed_set_and_anchor_add_nothing(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, pool=[str(tmp_path / "anchor.jsonl")])
    summary = pipeline.run(settings, tmp_path / "run", tmp_path / "cache")
    assert summary["n_selected"] == 0


@pytest.mark.slow
def test_it_is_decided_once_and_for_one_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, out = settings_of(tmp_path), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(filling, "synthesize", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pipeline.run(settings, out, tmp_path / "cache")
    chosen = (out / "selection" / "selected.jsonl").read_bytes()
    pipeline.run(settings, out, tmp_path / "cache")
    assert (out / "selection" / "selected.jsonl").read_bytes() == chosen
    again = pipeline.run(settings_of(tmp_path), tmp_path / "again", tmp_path / "cache")
    assert (tmp_path / "again" / "samples.jsonl").read_bytes() == (out / "samples.jsonl").read_bytes()
    assert again["n_selected"]
    (out / "manifest.json").unlink()
    tiny_run.corpus(tmp_path / "pool.jsonl", 5, 9)
    with pytest.raises(MismatchError, match="corpus"):
        pipeline.run(settings, out, tmp_path / "cache")


def test_other_forms_are_selected_though_none_are_written(tmp_path: Path) -> None:
    chats = [
        {"messages": [{"role": "user", "content": "river field"}, {"role": "assistant", "content": f"{word} bread"}]}
        for word in tiny_run.WORDS
    ]
    for name, rows in (("a", chats), ("s", chats[:1]), ("p", [*chats, {"messages": [
        {"role": "user", "content": "table window glass"}, {"role": "assistant", "content": " ".join(tiny_run.WORDS)},
    ]}])):  # fmt: skip
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {key: [str(tmp_path / f"{key[0]}.jsonl")] for key in ("anchor", "seed", "pool")}
    settings = settings_of(tmp_path, form="chat", **files)
    summary = pipeline.run(settings, tmp_path / "run", tmp_path / "cache")
    assert summary["n_selected"] == 1
    assert read_jsonl(tmp_path / "run" / "samples.jsonl")[0]["messages"][1]["content"] == " ".join(tiny_run.WORDS)
    assert verify_run(tmp_path / "run", tmp_path / "cache").holds


def test_the_command_says_what_it_closed(tmp_path: Path) -> None:
    parts, pool = Parts(tmp_path), pool_of(tmp_path)
    done = facsynth("select", parts.seed, "--pool", pool, *parts.options, "-n", 2, "-o", tmp_path / "run")
    assert done.code == 0, done.stderr
    assert "  pool " in done.stdout
    assert "nothing was to be written" in done.stdout
    shown = (tmp_path / "run" / "report.html").read_text()
    assert "selected from the pool" in shown


def test_a_pool_is_tried_before_anything_is_measured_and_its_bad_rows_are_said(tmp_path: Path) -> None:
    parts, run = Parts(tmp_path), tmp_path / "run"
    for pool in (tmp_path / "none.jsonl", parts.write("empty.jsonl", "")):
        done = facsynth("select", parts.seed, "--pool", pool, *parts.options, "-o", run)
        assert done.code == 1
        assert pool.name in done.stderr
        assert "encoding" not in done.stderr
    pool = parts.write("odd.jsonl", '{}\n{"messages": []}\n' + parts.anchor.read_text())
    done = facsynth("select", parts.seed, "--pool", pool, *parts.options, "-o", run)
    assert done.code == 0, done.stderr
    assert "note: pool: rows that could not be used: 2" in done.stderr


def test_a_pool_that_adds_nothing_is_said_and_there_is_nothing_to_verify(tmp_path: Path) -> None:
    parts, run = Parts(tmp_path), tmp_path / "run"
    done = facsynth("select", parts.seed, "--pool", parts.seed, *parts.options, "-o", run)
    assert done.code == 0, done.stderr
    assert "note: nothing was selected" in done.stderr
    assert "not measured: no plain samples were written" in done.stdout
    proved = facsynth("verify", run)
    assert proved.code == 0, proved.stderr
    assert f"there is nothing to verify: no sample of {run} was accepted" in proved.stdout


def test_a_pool_from_stdin_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot come from stdin"):
        settings_of(tmp_path, pool=["-"])
