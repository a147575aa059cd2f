"""One process at a time in a folder, and what killed ones left half-written."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facsynth.errors import InputError, StorageError
from facsynth.store import make_folder, read_json

_HALF_WRITTEN = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; the kernel lets go when the process ends, however it ends.

    Raises:
        StorageError: another process holds it, or it cannot be made.
    """
    make_folder(folder)
    path = folder / ".lock"
    with path.open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            raise StorageError(
                f"{folder} is in use by process {holder}\nWait for it to end, or choose another folder."
            ) from err
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        _sweep(folder)
        yield


def _sweep(folder: Path) -> None:
    """Remove what killed processes left half-written, where the folder is one of ours."""
    try:
        read_json(folder / "plan.json", "stage", "schema", "settings", "parents")
    except (InputError, OSError):
        return
    for left in folder.rglob(".*.tmp"):
        if _HALF_WRITTEN.fullmatch(left.name) and left.is_file():
            left.unlink(missing_ok=True)
