"""Artifact folders: plan first, shards by write-fsync-rename, manifest last (see `lock`: one process at a time).

Manifest there means done. Without one the same command goes on where it stopped. Other settings in the same
folder are an error that names the setting. Nothing is ever deleted on a mismatch.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from facsynth.errors import InputError, MismatchError, StorageError
from facsynth.records import Failure

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
RESTORE = "It was changed or removed by something else; restore it, or start in a new folder."
SCHEMA = 1
"""Raised by any change of an artifact's form; another number is refused, not guessed at."""


def canonical_json(value: Any) -> str:
    """One string per value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(value: Any) -> str:
    """sha256 of the canonical JSON of `value`, as hex."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, streamed."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file, then fsync and rename it: the file is there whole or not at all.

    Raises:
        StorageError: the disk is full, or the folder cannot be made; the temporary file is removed, older files stay.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")  # process ids repeat on a shared disk
    try:
        write(temporary)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
        _fsync_folder(path.parent)
    except BaseException as err:
        temporary.unlink(missing_ok=True)
        if is_disk_full(err):
            raise disk_full(path) from err
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8, atomically; lone surrogates, as JSON may hold them, are kept."""
    write_bytes(path, text.encode("utf-8", "surrogatepass"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data`, atomically."""
    write_atomic(path, partial(Path.write_bytes, data=data))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, atomically."""
    write_text(
        path, "".join(json.dumps(row, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n" for row in rows)
    )


def read_json(path: Path, *needed: str) -> dict[str, Any]:
    """Read one JSON object of this project's own, which has the keys `needed`.

    Raises:
        InputError: not there, not a JSON object, or a key is not there.
    """
    value = _object(_bytes_of(path), str(path))
    for key in needed:
        if key not in value:
            raise InputError(f"{path} has no {key}\n{RESTORE}")
    return value


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a jsonl file of this project's own; a file that is not there is an empty one.

    Raises:
        InputError: a folder, or a line is not a JSON object.
    """
    lines = _bytes_of(path).split(b"\n") if path.exists() else []
    return [_object(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1) if line]


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as err:
        raise InputError(f"there is no file {path}\n{RESTORE}") from err
    except (IsADirectoryError, NotADirectoryError) as err:
        raise InputError(f"{path} is not a file: {err.strerror}\n{RESTORE}") from err


def _object(data: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(data.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as err:
        told = {RecursionError: "it is nested too deeply", ValueError: "a number has thousands of digits"}
        raise InputError(f"{name} is not JSON: {told.get(type(err), err)}\n{RESTORE}") from err
    if not isinstance(value, dict):
        raise InputError(f"{name} holds a {type(value).__name__}, not an object\n{RESTORE}")
    return value


class Artifact:
    """A folder in the making, or done. `settings` and `parents` are what its content depends on."""

    def __init__(
        self,
        folder: Path,
        stage: str,
        settings: Mapping[str, Any],
        parents: Mapping[str, str],
        *,
        may_hold: Collection[str] = (),
    ) -> None:
        """Open or begin the folder; `may_hold` are files that may lie in it before it is begun.

        Raises:
            InputError: it is not empty, and what is in it is no artifact: nothing there is touched.
            MismatchError: the folder holds another stage, or the same stage with other settings or parents.
        """
        self.folder, self.settings, self.parents = folder, dict(settings), dict(parents)
        plan = {"stage": stage, "schema": SCHEMA, "settings": dict(settings), "parents": dict(parents)}
        self.fingerprint = fingerprint(plan)
        plan_path = folder / "plan.json"
        if plan_path.exists():
            _check_plan(folder, read_json(plan_path, *plan), json.loads(canonical_json(plan)))
        else:
            _check_free(folder, stage, may_hold)
            write_json(plan_path, plan)

    @classmethod
    def reopen(cls, folder: Path, stage: str) -> Artifact:
        """Open a folder as it is.

        Raises:
            InputError: it holds no artifact of that stage.
        """
        path = folder / "plan.json"
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}\nName one that `facsynth {stage}` made.")
        plan = read_json(path, "settings", "parents") if path.exists() else {}
        if plan.get("stage") != stage:
            found = plan.get("stage", "no plan.json")
            raise InputError(f"{folder} holds no result of `facsynth {stage}` (found {found})\nName one that does.")
        if not isinstance(plan["settings"], dict) or not isinstance(plan["parents"], dict):
            raise InputError(f"{path} has settings or parents that are no object\n{RESTORE}")
        return cls(folder, stage, plan["settings"], plan["parents"])

    @property
    def manifest(self) -> dict[str, Any] | None:
        """What `finish` wrote; None while the artifact is in the making.

        Raises:
            MismatchError: it was written for another plan.
        """
        path = self.folder / "manifest.json"
        if not path.exists():
            return None
        manifest = read_json(path)
        if manifest.get("fingerprint") != self.fingerprint:
            raise MismatchError(
                f"{path} does not belong to the plan.json beside it\n"
                "One of them was changed by something else; restore it, or choose another folder with -o."
            )
        return manifest

    def has(self, name: str) -> bool:
        """Whether the shard is complete."""
        return (self.folder / name).exists()

    def write(self, name: str, write: Callable[[Path], None], failures: Iterable[Failure] = ()) -> None:
        """Write one shard, its failures first, so that a shard that is there has its failures listed."""
        rows = [asdict(failure) for failure in failures]
        if rows:
            write_jsonl(self.folder / f"{name}.failures.jsonl", rows)
        else:  # of an earlier try, which was killed before the shard
            (self.folder / f"{name}.failures.jsonl").unlink(missing_ok=True)
        write_atomic(self.folder / name, write)

    def finish(self, **counts: Any) -> dict[str, Any]:
        """Gather the failures, write the manifest last, and return it."""
        lists = [*self.folder.glob("*.failures.jsonl"), *self.folder.glob("shards/*.failures.jsonl")]
        rows = [row for path in sorted(lists) for row in read_jsonl(path)]
        write_jsonl(self.folder / "failures.jsonl", rows)
        manifest = {"fingerprint": self.fingerprint, "schema": SCHEMA, "n_failures": len(rows), **counts}
        write_json(self.folder / "manifest.json", manifest)
        return manifest


def _check_free(folder: Path, stage: str, may_hold: Collection[str]) -> None:
    """Refuse to begin in a folder with files of somebody else; hidden ones (.lock, .git) do not count."""
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    foreign = [name for name in there if not name.startswith(".") and name not in may_hold]
    if foreign:
        raise InputError(
            f"{folder} holds {foreign[0]}, but no plan.json of `facsynth {stage}`: it belongs to something else\n"
            "Choose an empty or a new folder with -o. Nothing was changed."
        )


def _check_plan(folder: Path, found: dict[str, Any], asked: dict[str, Any]) -> None:
    for part in ("stage", "schema"):
        if found.get(part) != asked[part]:
            raise MismatchError(
                f"{folder} holds {part} {found.get(part)}, asked for {asked[part]}\nChoose another folder with -o."
            )
    for part in ("settings", "parents"):
        before, now = _leaves(found.get(part, {})), _leaves(asked[part])
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                what = f"another {key}" if part == "settings" else f"another {key}, by its content"
                raise MismatchError(
                    f"{folder} was begun with {what}\n"
                    f"  there  {_shown(before.get(key))}\n  asked  {_shown(now.get(key))}\n"
                    "Ask for the same again to go on with it, or start in another folder. Nothing was changed."
                )


def _leaves(value: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """Settings by their dotted names."""
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= _leaves(inner, f"{name}{key}.") if isinstance(inner, dict) and inner else {f"{name}{key}": inner}
    return found


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "nothing" if value is None else str(value)


def is_disk_full(err: BaseException) -> bool:
    """Whether no room is why `err` was raised; safetensors raises an error of its own, which has it in words only."""
    words = ("No space left on device", "File too large")
    return getattr(err, "errno", None) in NO_ROOM or any(text in str(err) for text in words)


def disk_full(path: Path) -> StorageError:
    """The one wording for a full disk."""
    free = shutil.disk_usage(next(folder for folder in path.absolute().parents if folder.is_dir())).free
    return StorageError(
        f"the disk is full: {path} could not be written ({free / 1e6:.1f} MB free; or see your quota and ulimit -f)\n"
        "What was finished before is kept. Make room and run the same command again."
    )


def make_folder(folder: Path) -> None:
    """Make a folder, and those it lies in.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        if is_disk_full(err):
            raise disk_full(folder) from err
        raise StorageError(
            f"the folder {folder} cannot be made: {err.strerror}\nChoose another folder with -o."
        ) from err


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
