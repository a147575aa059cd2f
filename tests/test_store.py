"""Files of an artifact: read back as written, the same fingerprint for ever, whole after a kill or on a full disk."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facsynth.errors import InputError
from facsynth.store import (
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


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
