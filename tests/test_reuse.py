"""The note of folders encoded before: a help that may be gone or damaged, and never more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from facsynth.features.reuse import N_REMEMBERED, known_folders, remember
from tiny_cli import Parts, facsynth


def finished(folder: Path) -> Path:
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    return folder


def test_finished_folders_are_known_latest_first_and_once_while_they_are_there(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert known_folders(cache, "f") == []
    a, b = finished(tmp_path / "a"), finished(tmp_path / "b")
    for folder in (a, b, a):
        remember(cache, "f", folder)
    assert known_folders(cache, "f") == [a, b]
    assert known_folders(cache, "another") == []
    (a / "manifest.json").unlink()
    assert known_folders(cache, "f") == [b]


def test_no_more_than_a_few_folders_are_remembered(tmp_path: Path) -> None:
    folders = [finished(tmp_path / str(n)) for n in range(N_REMEMBERED + 2)]
    for folder in folders:
        remember(tmp_path / "cache", "f", folder)
    assert known_folders(tmp_path / "cache", "f") == folders[:1:-1]


@pytest.mark.parametrize(
    "note",
    [{"folders": None}, {"folders": 3}, {"folders": "abc"}, {"folders": {"a": 1}}, {"folders": [None, 3, ["a"], {}]},
     {"folders": ["\0", "x" * 5000, "/proc/1/root/nowhere", "\ud800"]}, {}, [], None],
)  # fmt: skip
def test_a_damaged_note_is_none_and_is_written_anew(tmp_path: Path, note: Any) -> None:
    path = tmp_path / "cache" / "encoded" / "f.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(note))
    assert known_folders(tmp_path / "cache", "f") == []
    a = finished(tmp_path / "a")
    remember(tmp_path / "cache", "f", a)
    assert known_folders(tmp_path / "cache", "f") == [a]


def test_a_command_passes_over_a_damaged_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACSYNTH_CACHE", str(tmp_path / "cache"))
    tiny = Parts(tmp_path)
    assert facsynth("missing", tiny.seed, *tiny.options, "-o", tmp_path / "a").code == 0
    (note,) = (tmp_path / "cache" / "encoded").iterdir()
    note.write_text('{"folders": null}')
    assert facsynth("missing", tiny.seed, *tiny.options, "-o", tmp_path / "b").code == 0
    assert str(tmp_path / "b") in note.read_text()
