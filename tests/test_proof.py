"""`facsynth verify` on a run whose texts were changed afterwards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from facsynth import pipeline
from facsynth.errors import InputError
from facsynth.settings import load_settings
from facsynth.store import read_jsonl, write_jsonl
from tiny_cli import Parts, facsynth


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACSYNTH_CACHE", str(folder / "cache"))
        tiny = Parts(folder)
        config = tiny.write("few.yaml", tiny.changed("budget", "features", 4))
        assert facsynth("run", config, "-o", folder / "run").code == 0
        yield folder / "run"


def messages(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


@pytest.mark.parametrize(
    "row",
    [
        *(messages(text) for text in ("", "   ", "\n\u2003", "\0", "<s></s>", "Another text.")),
        {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "assistant", "content": "An answer."}]},
        {"messages": []},
        {},
    ],
)
def test_a_text_that_was_emptied_taken_out_or_replaced_is_a_changed_text(
    finished: Path, tmp_path: Path, row: dict[str, Any]
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    rows = read_jsonl(run / "samples.jsonl")
    assert len(rows) > 1
    write_jsonl(run / "samples.jsonl", [rows[0], row, *rows[2:]])
    done = facsynth("verify", run, "--json")
    found = json.loads(done.stdout)
    assert (done.code, found["holds"], found["n_samples"]) == (3, False, len(rows))
    assert [(f["row"], f["problem"], f["fires"]) for f in found["findings"]] == [(2, "text changed", False)]
    assert "1 texts changed, 0 do not fire, 0 are marginal" in done.stderr


def test_a_run_whose_every_text_is_gone_is_still_told_row_by_row(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    n_rows = len(read_jsonl(run / "samples.jsonl"))
    write_jsonl(run / "samples.jsonl", [messages("")] * n_rows)
    done = facsynth("verify", run)
    assert done.code == 3
    assert f"0 of {n_rows} samples fire their feature as recorded" in done.stdout
    assert f"{n_rows} texts changed" in done.stderr


@pytest.mark.parametrize("damage", ["gone", "broken"])
def test_a_finished_run_whose_samples_are_damaged_is_not_said_to_be_done(
    finished: Path, tmp_path: Path, damage: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    if damage == "gone":
        (run / "samples.jsonl").unlink()
    else:
        (run / "samples.jsonl").write_text("{broken\n")
    with pytest.raises(InputError, match=r"samples.jsonl"):
        pipeline.run(load_settings(run / "facsynth.yaml"), run, tmp_path / "cache")


@pytest.mark.parametrize("key", ["activation", "threshold"])
@pytest.mark.parametrize("value", ["Infinity", "NaN", "1e999", "null", "3"])
def test_a_figure_that_is_no_finite_number_is_refused_with_its_row(
    finished: Path, tmp_path: Path, key: str, value: str
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    first, *rest = (run / "provenance.jsonl").read_text("utf-8").splitlines(keepends=True)
    row = json.loads(first)
    row[key] = "HERE"
    (run / "provenance.jsonl").write_text("".join([json.dumps(row).replace('"HERE"', value) + "\n", *rest]), "utf-8")
    done = facsynth("verify", run)
    assert done.code == 1
    assert f"provenance.jsonl, row 1: {key} is " in done.stderr
    assert "restore it" in done.stderr
