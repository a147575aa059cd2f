"""Whatever the files of a run hold, `show` and `report` end in figures, a notice or a message, never in a traceback."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from facsynth.cli.proving import report, show
from facsynth.errors import FacsynthError, InputError
from facsynth.report import shapes
from facsynth.report.read import read_run
from facsynth.settings import DataBlock, RunSettings, dump_settings
from facsynth.store import write_json
from fake_run import make_run

FILES = (
    "summary.json",
    "coverage/before.json",
    "coverage/after.json",
    "targets.json",
    "samples.jsonl",
    "provenance.jsonl",
    "rejected.jsonl",
    "gave_up.jsonl",
)
DEEP: list[Any] = []
for _ in range(900):
    DEEP = [DEEP]
JUNK = (
    None, "x", "", True, -1, 0, 1.5, 10**400, 1e308, -1e308, float("nan"), float("inf"), [], {}, [1], [None],
    ["x", "y"], [[1, 2]], {"a": None}, {"feature_id": None}, {"role": "user"}, "\ud800", "\x1b[2J", DEEP,
)  # fmt: skip
N_CASES = 80


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, small, with settings that can be read."""
    run = make_run(tmp_path_factory.mktemp("runs") / "whole", n_features=3, n_others=2)
    write_json(run / "plan.json", {"stage": "run"})
    settings = RunSettings(data=DataBlock(seed=("a.jsonl",), anchor=("b.jsonl",)))
    (run / "facsynth.yaml").write_text(dump_settings(settings), encoding="utf-8")
    return run


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to every value inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*at, key)
        if len(at) < 9:
            yield from places(inner, (*at, key))


def damage(value: Any, rng: random.Random) -> None:
    """Put something else in one place of a JSON value, or take it out."""
    *way, key = rng.choice(list(places(value)))
    for part in way:
        value = value[part]
    if rng.random() < 0.2:
        del value[key]
    else:
        value[key] = json.loads(json.dumps(rng.choice(JUNK)))


def damage_file(path: Path, rng: random.Random) -> str:
    """Damage a file by its content, or as a whole; says how."""
    data, how = path.read_bytes(), rng.choice(["value"] * 8 + ["cut", "digits", "folder"])
    if how == "value":
        rows = [json.loads(line) for line in data.splitlines()] if path.suffix == ".jsonl" else [json.loads(data)]
        for _ in range(rng.randint(1, 3)):
            if rows and any(True for _ in places(rows[0])):
                damage(rows if path.suffix == ".jsonl" else rows[0], rng)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif how == "folder":
        path.unlink()
        path.mkdir()
    else:
        cut = rng.randrange(len(data))
        path.write_bytes(data[:cut] + (b'{"a": ' + b"9" * 5000 + b"}" if how == "digits" else b""))
    return how


def test_no_damage_to_the_files_of_a_run_ends_in_a_traceback(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(7)
    feature = json.loads((whole / "targets.json").read_text("utf-8"))["attempted"][0]["feature_id"]
    n_noticed = 0
    for case in range(N_CASES):
        run = Path(shutil.copytree(whole, tmp_path / f"{case}"))
        name = rng.choice(FILES)
        how = damage_file(run / name, rng)
        for command in (lambda: show(run, None, 20), lambda: show(run, feature, 20), lambda: report(run)):  # noqa: B023
            try:
                command()
            except FacsynthError as err:
                assert len(str(err).splitlines()) > 1, (case, name, how, str(err))
            except Exception as err:
                pytest.fail(f"case {case}: {name} damaged by {how}: {err!r}")
        n_noticed += f"note: {name} could not be read and is left out" in capsys.readouterr().err
        shutil.rmtree(run)
    assert n_noticed > N_CASES / 2


def test_a_whole_run_has_the_shape_that_is_asked_for(whole: Path) -> None:
    files = read_run(whole)
    assert files.notices == ()
    assert all([files.summary, files.before, files.after, files.targets, files.provenance, files.rejected])


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"n": 1, "rows": []}, ""),
        ({"rows": []}, "there is no n"),
        ({"n": None, "rows": []}, "n is null"),
        ({"n": True, "rows": []}, "n is true"),
        ({"n": -1, "rows": []}, "n is -1"),
        ({"n": float("nan"), "rows": []}, "n is NaN"),
        ({"n": [1], "rows": []}, "n is a list"),
        ({"n": 1, "rows": [{"share": 1.1}]}, "rows is a list"),
        ({"n": 1, "rows": [{"share": 1}], "more": "is not looked at"}, ""),
    ],
)
def test_the_first_field_that_does_not_fit_is_named(value: dict[str, Any], found: str) -> None:
    rows = shapes.list_of(shapes.object_of({"share": shapes.is_share}))
    assert shapes.misfit(value, {"n": shapes.is_count, "rows": rows}) == found


def test_a_row_that_does_not_fit_is_named_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "rejected.jsonl"
    path.write_text('{"feature": 1, "reason": "x"}\n{"feature": [], "reason": "x"}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"rejected.jsonl does not hold .*: row 2, feature is a list\nIt was changed"):
        shapes.read_rows(path, shapes.REJECTED)
