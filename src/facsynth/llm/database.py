"""One SQLite file of this project's own: opened or begun, in WAL mode, with errors a user can act on."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from facsynth.errors import FacsynthError, InputError, MismatchError, StorageError
from facsynth.store import disk_full

_APPLICATION_ID = 0x46414353
"""ASCII "FACS" in the file's header: tells a ledger from any other SQLite file."""
_TINY_DISK = 1 << 20
"""With less room than this, in bytes, SQLite's unspecific "disk I/O error" is a full disk."""


class Database:
    """An open file. Several processes may read it; a second one that writes waits its turn.

    Threads take turns with it.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, wait_s: float) -> None:
        """Use `Database.open`."""
        self.path = path
        self._connection = connection
        self._wait_s = wait_s
        self._turn = threading.RLock()

    @classmethod
    def open(cls, path: Path, table: str, schema: int, *, wait_s: float) -> Self:
        """Open the file, or begin it where there is none.

        Args:
            path: its folder is made where it is missing.
            table: the statement that makes the only table.
            schema: its number, kept in the file; another one is refused, not guessed at.
            wait_s: how long to wait for another process that is in the middle of a transaction.

        Raises:
            InputError: the file is damaged or not a ledger; it is left as it is.
            MismatchError: a ledger of another schema; it is left as it is.
            StorageError: the disk is full, or another process does not let go.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with _explained(path, wait_s):
            connection = sqlite3.connect(path, timeout=wait_s, isolation_level=None, check_same_thread=False)
        database = cls(path, connection, wait_s)
        try:
            database._begin(table, schema)
        except BaseException:
            database.close()
            raise
        return database

    def close(self) -> None:
        """Let go of the file, once no thread is in it; the write-ahead log beside it is folded in."""
        with self._turn:
            self._connection.close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, outside a transaction."""
        with self._turn, _explained(self.path, self._wait_s):
            yield self._connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The connection in a transaction: committed at the end, rolled back after whatever ended the block."""
        with self._turn, _explained(self.path, self._wait_s), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection

    def _begin(self, table: str, schema: int) -> None:
        """Check what the file is before anything in it is changed; set it up where it is empty."""
        with self.transaction() as connection:
            if self._is_empty(schema):
                connection.execute(table)
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {schema}")
        with self.reading() as connection:
            connection.execute("PRAGMA synchronous = FULL")
            self._use_wal(time.monotonic() + self._wait_s)

    def _use_wal(self, deadline: float) -> None:
        # Two processes that switch a new file at once are refused without SQLite's own waiting. A file system
        # without shared memory keeps its rollback journal: slower, and just as safe.
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as err:
                if err.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.01)

    def _is_empty(self, asked: int) -> bool:
        application = self._connection.execute("PRAGMA application_id").fetchone()[0]
        schema = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if (application, schema) == (0, 0) and not self._connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            return True
        if application != _APPLICATION_ID:
            raise InputError(f"{self.path} is an SQLite file, but not a ledger of facsynth\nGive another path.")
        if schema != asked:
            raise MismatchError(
                f"{self.path} is a ledger of schema {schema}; this version of facsynth reads schema {asked}\n"
                "Go on with the version that began it, or start in another folder. Nothing was changed."
            )
        return False


@contextmanager
def _explained(path: Path, wait_s: float) -> Iterator[None]:
    """Turn what SQLite says about the file or the disk into errors a user can act on."""
    try:
        yield
    except sqlite3.Error as err:
        explained = _explain(path, err, wait_s)
        if explained is None:  # a bug of ours
            raise
        raise explained from err


def _explain(path: Path, err: sqlite3.Error, wait_s: float) -> FacsynthError | None:
    code = getattr(err, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return InputError(
            f"{path} is damaged or not a ledger: {err}\n"
            "Restore it from a copy, save what is left of it with `sqlite3 FILE .recover`, or move it away: "
            "then the same command writes again what it held."
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL):
        return StorageError(
            f"{path} is in use by another process (waited up to {wait_s:g} s): {err}\n"
            "Wait for it to end, or choose another folder."
        )
    if code == sqlite3.SQLITE_IOERR and shutil.disk_usage(path.parent).free < _TINY_DISK:
        code = sqlite3.SQLITE_FULL
    if code == sqlite3.SQLITE_FULL:
        return disk_full(path)
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return StorageError(
            f"{path} cannot be read and written: {err}\n"
            "See whether it is a file, whether it and its folder are yours to write, and whether the disk is sound."
        )
    return None
