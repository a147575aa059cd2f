"""Artifact folders: whole files or none, one process at a time, nothing lost on a mismatch, a kill or a full disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facsynth.errors import InputError, MismatchError, StorageError
from facsynth.lock import locked
from facsynth.records import Failure
from facsynth.store import (
    SCHEMA,
    Artifact,
    canonical_json,
    file_sha256,
    fingerprint,
    read_json,
    read_jsonl,
    write_atomic,
    write_json,
    write_jsonl,
)

text = st.text(st.characters(), max_size=20)  # lone surrogates too: a file name may hold them
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@given(value=values)
def test_json_is_read_back_as_written(scratch: Path, value: Any) -> None:
    write_json(scratch / "value.json", {"value": value})
    assert read_json(scratch / "value.json") == {"value": value}
    write_jsonl(scratch / "rows.jsonl", [{"value": value}, {"": "\u2028\r\n\x85"}])
    assert read_jsonl(scratch / "rows.jsonl") == [{"value": value}, {"": "\u2028\r\n\x85"}]


@given(st.dictionaries(text, values, max_size=5))
def test_a_fingerprint_does_not_depend_on_key_order(value: dict[str, Any]) -> None:
    backwards = dict(reversed(list(value.items())))
    assert fingerprint(value) == fingerprint(backwards)
    assert fingerprint(value) == fingerprint(json.loads(canonical_json(value)))
    assert fingerprint(value) != fingerprint({**value, "one more": 1})


def test_fingerprints_stay_what_they_are() -> None:
    """Known values: a change of these makes every folder of every user another one."""
    assert fingerprint({"b": [1, 2.5, None, True], "a": "größer"}) == (
        "640aac855c7733f1a2a3234a3719d6fafd9330c89d59720235da33a9db309576"
    )
    with pytest.raises(ValueError, match="JSON compliant"):
        fingerprint(float("nan"))


def test_a_missing_or_broken_file_is_an_input_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file .*gone\.json"):
        read_json(tmp_path / "gone.json")
    for data in (b"{", b'{"a": "\xff"}', b""):
        (tmp_path / "broken.json").write_bytes(data)
        with pytest.raises(InputError, match=r"broken\.json is not JSON"):
            read_json(tmp_path / "broken.json")
    (tmp_path / "list.json").write_bytes(b"[1]")
    with pytest.raises(InputError, match=r"list\.json holds a list, not an object\n"):
        read_json(tmp_path / "list.json")
    (tmp_path / "other.json").write_bytes(b'{"a": 1}')
    assert read_json(tmp_path / "other.json", "a") == {"a": 1}
    with pytest.raises(InputError, match=r"other\.json has no b\n"):
        read_json(tmp_path / "other.json", "a", "b")
    for data in (b'{"a": 1}\n{"a":\n', b'{"a": 1}\n{"a": "\xff"}\n'):
        (tmp_path / "rows.jsonl").write_bytes(data)
        with pytest.raises(InputError, match=r"rows\.jsonl, line 2 is not JSON"):
            read_jsonl(tmp_path / "rows.jsonl")
    assert read_jsonl(tmp_path / "gone.jsonl") == []


@pytest.mark.parametrize(
    ("content", "words"),
    [("[" * 100_000, "is nested too deeply"), ('{"a": ' + "9" * 5000 + "}", "a number has thousands of digits")],
)
def test_what_the_parser_itself_trips_over_is_no_json(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "value.json"
    path.write_text(content, encoding="utf-8")
    for read in (read_json, read_jsonl):
        with pytest.raises(InputError, match=rf"value\.json.* is not JSON: (it )?{words}\nIt was changed or removed"):
            read(path)


def test_a_folder_where_a_file_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    for read in (read_json, read_jsonl):
        with pytest.raises(InputError, match=r"rows is not a file: Is a directory\nIt was changed or removed"):
            read(tmp_path / "rows")


def test_a_failed_write_leaves_the_older_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, fail)
    assert read_json(path) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["value.json"]


WRITER = """
import sys
from pathlib import Path
from facsynth.store import write_atomic

def slowly(path):
    with path.open("w") as handle:
        for _ in range(2000):
            handle.write(str(number % 10) * 30)
            handle.flush()

for number in range(1 << 30):
    write_atomic(Path(sys.argv[1]), slowly)
"""


def test_a_file_is_whole_after_kill_9_at_any_moment(tmp_path: Path) -> None:
    path = tmp_path / "value"
    seen = set()
    for attempt in range(6):
        path.unlink(missing_ok=True)
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)]) as process:
            while not path.exists() and process.poll() is None:
                time.sleep(0.005)
            time.sleep(0.013 * attempt)
            process.send_signal(signal.SIGKILL)
        found = path.read_text()
        assert len(found) == 60_000 and len(set(found)) == 1
        seen.add(found[0])
    assert len(seen) > 1, "it was written more than once"


FILLER = """
import os, sys
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from safetensors.numpy import save_file
from facsynth.errors import StorageError
from facsynth.store import Artifact, read_json, write_atomic, write_json
folder = Path(sys.argv[1])
artifact = Artifact(folder / "run", "encode", {}, {})
write_json(folder / "run" / "shard", {"finished": 1})
numbers = np.random.default_rng(0).random(500_000)
writers = {
    "parquet": lambda path: pq.write_table(pa.table({"a": numbers}), path),
    "safetensors": lambda path: save_file({"a": numbers}, path),
    "npz": lambda path: np.savez(path.open("wb"), a=numbers),
    "text": lambda path: path.write_text("x" * 3_000_000),
}
for name, write in writers.items():
    try:
        write_atomic(folder / "run" / name, write)
    except StorageError as err:
        assert "the disk is full" in str(err) and name in str(err) and "run the same command again" in str(err)
        print(name)
assert read_json(folder / "run" / "shard") == {"finished": 1}
assert sorted(os.listdir(folder / "run")) == ["plan.json", "shard"], os.listdir(folder / "run")
assert Artifact(folder / "run", "encode", {}, {}).manifest is None
with (folder / "filler").open("wb", buffering=0) as filler:
    try:
        while True:
            filler.write(bytes(4096))
    except OSError:
        pass
try:
    [(folder / "new" / str(n)).mkdir(parents=True) for n in range(1 << 20)]
except OSError:
    pass
try:
    write_json(folder / "another" / "deep" / "value.json", 1)
except StorageError as err:
    print("folder" if "the disk is full" in str(err) else err)
"""


def test_a_full_disk_is_a_storage_error_and_what_was_finished_stays(tmp_path: Path) -> None:
    script = (
        f"mount -t tmpfs -o size=1m,nr_inodes=200 tmpfs {tmp_path} && exec {sys.executable} -c '{FILLER}' {tmp_path}"
    )
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no file system of its own can be mounted here: {done.stderr.strip()}")
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.split() == ["parquet", "safetensors", "npz", "text", "folder"]


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


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
