"""Artifact folders: one process at a time, one stage and its settings alone, nothing lost or swept that is not ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from facsynth.errors import InputError, MismatchError, StorageError
from facsynth.lock import locked
from facsynth.records import Failure
from facsynth.store import SCHEMA, Artifact, read_json, read_jsonl, write_json


@pytest.mark.parametrize(
    "act", [lambda path: write_json(path / "value.json", 1), lambda path: locked(path).__enter__()]
)
def test_a_file_where_the_folder_should_be_is_a_storage_error(act: Any, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError, match=r"the folder .*taken/run cannot be made: Not a directory"):
        act(tmp_path / "taken" / "run")


HOLDER = """
import sys, time
from pathlib import Path
from facsynth.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_held_by_another_process_is_refused_with_its_id_until_it_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(StorageError, match=rf"is in use by process {process.pid}\n"), locked(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
        with pytest.raises(StorageError, match=rf"is in use by process {os.getpid()}\n"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass


def test_only_what_our_own_killed_processes_left_is_swept(tmp_path: Path) -> None:
    ours, foreign = tmp_path / "ours", tmp_path / "foreign"
    Artifact(ours, "encode", {}, {})
    foreign.mkdir()
    (foreign / "plan.json").write_text("{}")
    for folder in (ours, foreign):
        (folder / "deep").mkdir()
        (folder / "deep" / ".00001.parquet.0123456789abcdef.tmp").write_text("half")
        (folder / "deep" / ".work.tmp").write_text("mine")
        (folder / ".folder.1.tmp").mkdir()
        with locked(folder):
            pass
    assert sorted(path.name for path in ours.rglob(".*.tmp")) == [".folder.1.tmp", ".work.tmp"]
    assert len(list(foreign.rglob(".*.tmp"))) == 3


def test_an_artifact_is_not_begun_among_files_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "allowed").write_text("")
    (tmp_path / "cfg.json").write_text("mine")
    with pytest.raises(InputError, match=r"holds cfg\.json, but no plan\.json of `facsynth train-sae`"):
        Artifact(tmp_path, "train-sae", {}, {}, may_hold=["allowed"])
    assert not (tmp_path / "plan.json").exists()
    (tmp_path / "cfg.json").unlink()
    Artifact(tmp_path, "train-sae", {}, {}, may_hold=["allowed"])


SETTINGS = {"codes": "native", "form": "chat", "list": [1, 2]}
PARENTS = {"corpus": "a" * 64}


def test_an_artifact_is_done_when_its_manifest_is_there(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path / "a", "encode", SETTINGS, PARENTS)
    assert (artifact.manifest, artifact.has("one")) == (None, False)
    artifact.write("one", lambda path: Path.write_text(path, "1"))
    again = Artifact(tmp_path / "a", "encode", dict(reversed(SETTINGS.items())), PARENTS)
    assert again.has("one") and again.fingerprint == artifact.fingerprint
    manifest = again.finish(n_samples=3)
    assert manifest == artifact.manifest == Artifact.reopen(tmp_path / "a", "encode").manifest
    assert manifest == {"fingerprint": artifact.fingerprint, "schema": SCHEMA, "n_failures": 0, "n_samples": 3}
    assert Artifact.reopen(tmp_path / "a", "encode").settings == SETTINGS


@pytest.mark.parametrize(
    ("stage", "settings", "parents", "message"),
    [
        ("train-sae", SETTINGS, PARENTS, "holds stage encode, asked for train-sae"),
        ("encode", {**SETTINGS, "codes": "relu"}, PARENTS, "another codes\n  there  native\n  asked  relu"),
        ("encode", {**SETTINGS, "list": [1]}, PARENTS, r"another list\n  there  1, 2\n  asked  1"),
        ("encode", {**SETTINGS, "new": 1}, PARENTS, "another new\n  there  nothing\n  asked  1"),
        ("encode", {"codes": "native", "form": "chat"}, PARENTS, "another list"),
        ("encode", SETTINGS, {"corpus": "b" * 64}, "another corpus"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused_and_nothing_changes(
    stage: str, settings: dict[str, Any], parents: dict[str, str], message: str, tmp_path: Path
) -> None:
    Artifact(tmp_path, "encode", SETTINGS, PARENTS).write("one", lambda path: Path.write_text(path, "1"))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(MismatchError, match=message):
        Artifact(tmp_path, stage, settings, parents)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_another_schema_is_refused(tmp_path: Path) -> None:
    Artifact(tmp_path, "encode", SETTINGS, PARENTS)
    write_json(tmp_path / "plan.json", read_json(tmp_path / "plan.json") | {"schema": SCHEMA + 1})
    for opening in (
        lambda: Artifact(tmp_path, "encode", SETTINGS, PARENTS),
        lambda: Artifact.reopen(tmp_path, "encode"),
    ):
        with pytest.raises(MismatchError, match=f"holds schema {SCHEMA + 1}, asked for {SCHEMA}"):
            opening()


def test_reopening_what_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no result of `facsynth encode` \(found no plan.json\)"):
        Artifact.reopen(tmp_path, "encode")
    Artifact(tmp_path, "train-sae", {}, {})
    with pytest.raises(InputError, match=r"holds no result of `facsynth encode` \(found train-sae\)"):
        Artifact.reopen(tmp_path, "encode")


def test_failures_of_all_shards_are_gathered_and_those_of_folders_inside_are_not(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path, "encode", {}, {})
    write = lambda path: Path.write_text(path, "x")  # noqa: E731
    artifact.write("shards/00001", write, [Failure("b", "no content", "raw")])
    artifact.write("shards/00000", write, [Failure("a", "größer \ud800")])
    artifact.write("whole", write, [Failure("c", "cut")])
    artifact.write("shards/00002", write)
    Artifact(tmp_path / "features" / "seed", "encode", {}, {}).write("shards/1", write, [Failure("d", "not ours")])
    assert artifact.finish()["n_failures"] == 3
    assert [row["where"] for row in read_jsonl(tmp_path / "failures.jsonl")] == ["a", "b", "c"]
    assert read_jsonl(tmp_path / "failures.jsonl")[1] == {"where": "b", "reason": "no content", "raw": "raw"}
