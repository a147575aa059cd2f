"""The embedded model: found without running its package, converted once, converted again where it is not whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from facsynth.errors import ModelError
from facsynth.model.embedded import INSTALL, NAME, embedded_model, find_gguf, is_complete, remove_left_behind
from facsynth.store import write_json


def make_package(folder: Path, *files: str) -> str:
    package = folder / "llm_somewhere"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('llama.cpp is not here')")
    for name in files:
        (package / name).write_bytes(b"GGUF")
    return package.name


def test_the_file_is_found_without_importing_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = make_package(tmp_path, "b.gguf", "a.gguf", "notes.txt")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_gguf(name) == tmp_path / name / "a.gguf"
    assert name not in sys.modules


def test_a_missing_package_is_an_error_with_the_install_line() -> None:
    with pytest.raises(ModelError, match="needs the package no-such-package, which is not installed") as caught:
        find_gguf("no_such_package")
    assert INSTALL in str(caught.value)


def test_a_package_without_its_file_is_an_error_with_the_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = make_package(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match=r"holds no \.gguf file") as caught:
        find_gguf(name)
    assert INSTALL in str(caught.value)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" * 10)
    return path


@pytest.fixture
def converted(tmp_path: Path, source: Path) -> Path:
    folder = tmp_path / "converted"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    record = {"source": [source.name, 40], "sha256": "…", "files": {"model.safetensors": 7, "config.json": 2}}
    write_json(folder / "source.json", record)
    return folder


def test_a_whole_conversion_is_complete(converted: Path, source: Path) -> None:
    assert is_complete(converted, source)


@pytest.mark.parametrize("damage", ["gone", "no record", "torn record", "lost", "cut", "another source"])
def test_a_half_written_conversion_is_not_complete(damage: str, converted: Path, source: Path) -> None:
    weights, record = converted / "model.safetensors", converted / "source.json"
    if damage == "no record":
        record.unlink()
    elif damage == "torn record":
        record.write_text(record.read_text()[:20])
    elif damage == "lost":
        weights.unlink()
    elif damage == "cut":
        weights.write_bytes(b"weig")
    elif damage == "another source":
        source.write_bytes(b"GGUF")
    assert not is_complete(converted.with_name("gone") if damage == "gone" else converted, source)


def test_what_a_killed_conversion_left_behind_is_removed_and_a_running_one_stays(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    for pid in (ended.pid, os.getpid()):
        (tmp_path / f".{NAME}.{pid}.tmp").mkdir()
        (tmp_path / f".{NAME}.{pid}.tmp" / "model.safetensors").write_bytes(b"weights")
    remove_left_behind(tmp_path / NAME)
    assert [path.name for path in tmp_path.iterdir()] == [f".{NAME}.{os.getpid()}.tmp"]


@pytest.mark.slow
def test_the_model_is_converted_once_and_again_where_a_file_is_cut(tmp_path: Path) -> None:
    from facsynth.model.backbone import load_backbone

    folder = embedded_model(tmp_path)
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert embedded_model(tmp_path) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == times

    backbone = load_backbone(folder, hook_point="layers.14", dtype="float32", cache=tmp_path)
    ids = np.array(backbone.tokenizer("The capital of France is Paris.")["input_ids"], dtype=np.int32)
    norms = backbone.activations([ids], [np.ones(len(ids), dtype=bool)]).norm(dim=1)
    assert backbone.d_model == 576 and backbone.tokenizer.chat_template
    assert norms[0] > 10_000 > 1_000 > norms[1:].max()  # the attention sink at the first position, and the rest

    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: 1 << 20])
    assert load_backbone(embedded_model(tmp_path), hook_point="layers.14", cache=tmp_path).d_model == 576
    assert [path.name for path in (tmp_path / "models").iterdir()] == [NAME]
