"""Every call of every writer, in one SQLite table: the only mechanism by which writing resumes.

An intent is committed before a call and its reply after it, so a kill loses the batch in flight and nothing else.
`synchronous=FULL` waits for the disk twice a batch (about 10 ms), and in turn survives a power cut as well.

The first settled reply of a call is final, also a failed one: everything decided from it can be decided again.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from facsynth.errors import FacsynthError, InputError, MismatchError, StorageError
from facsynth.records import Reply, Request
from facsynth.store import disk_full, fingerprint

LEDGER_SCHEMA = 1
"""Kept in the file (`user_version`); another number is refused, not guessed at."""
_APPLICATION_ID = 0x46414353
"""ASCII "FACS" in the file's header: tells a ledger from any other SQLite file."""
_TINY_DISK = 1 << 20
"""With less room than this, in bytes, SQLite's unspecific "disk I/O error" is a full disk."""

# reserved_tokens, reserved_price and price belong to money caps: what a call may cost, and what it did cost.
# `attempts` counts intents: more than one means that calls were sent whose replies were lost.
_TABLE = """
CREATE TABLE calls (
    request_hash TEXT NOT NULL,
    sample_index INTEGER NOT NULL,
    writer TEXT NOT NULL,
    request TEXT NOT NULL,
    label TEXT NOT NULL,
    batch INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('intent', 'done', 'failed')),
    attempts INTEGER NOT NULL,
    intent_time REAL NOT NULL,
    reserved_tokens INTEGER,
    reserved_price REAL,
    settled_time REAL,
    reply TEXT,
    finish_reason TEXT,
    prompt_tokens INTEGER,
    written_tokens INTEGER,
    price REAL,
    latency_s REAL,
    error_kind TEXT,
    PRIMARY KEY (request_hash, sample_index)
)"""
_INTEND = """
INSERT INTO calls (request_hash, sample_index, writer, request, label, batch, state, attempts, intent_time)
VALUES (?, ?, ?, ?, ?, ?, 'intent', 1, ?)
ON CONFLICT (request_hash, sample_index) DO UPDATE SET
    attempts = attempts + 1, label = excluded.label, batch = excluded.batch, intent_time = excluded.intent_time
WHERE state = 'intent'"""
_SETTLE = """
UPDATE calls SET state = ?, settled_time = ?, reply = ?, finish_reason = ?, prompt_tokens = ?, written_tokens = ?,
    latency_s = ?, error_kind = ?
WHERE request_hash = ? AND sample_index = ? AND state = 'intent'"""
_REPLY = "reply, finish_reason, prompt_tokens, written_tokens, latency_s"
_TOTALS = """
SELECT count(*), count(*) FILTER (WHERE state = 'done'), count(*) FILTER (WHERE state = 'failed'),
    count(*) FILTER (WHERE state = 'intent'), coalesce(sum(prompt_tokens), 0), coalesce(sum(written_tokens), 0),
    total(latency_s)
FROM calls"""

Key = tuple[str, int]
"""(request hash, sample index)."""


def key_of(identity: str, request: Request) -> Key:
    """What makes two calls the same call: writer, request, sample index."""
    return fingerprint({"writer": identity, "request": request.as_json()}), request.sample_index


@dataclass(frozen=True)
class Totals:
    """Sums over a ledger. Tokens and seconds are those of settled calls."""

    calls: int
    answered: int
    failed: int
    unsettled: int
    """Sent, or about to be, when the process ended."""
    prompt_tokens: int
    written_tokens: int
    seconds: float


@dataclass(frozen=True)
class Call:
    """One settled call, as it was asked and answered."""

    key: Key
    writer: str
    request: dict[str, Any]
    label: str
    reply: Reply


class Ledger:
    """An open ledger file. Several processes may read it; a second one that writes waits its turn."""

    def __init__(self, path: Path, database: sqlite3.Connection, wait_s: float) -> None:
        """Use `Ledger.open`."""
        self.path = path
        self._database = database
        self._wait_s = wait_s

    @classmethod
    def open(cls, path: Path, *, wait_s: float = 30.0) -> Self:
        """Open the file, or begin it where there is none.

        Args:
            path: its folder is made where it is missing.
            wait_s: how long to wait for another process that is in the middle of a transaction.

        Raises:
            InputError: the file is damaged or not a ledger; it is left as it is.
            MismatchError: a ledger of another schema; it is left as it is.
            StorageError: the disk is full, or another process does not let go.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with _explained(path, wait_s):
            ledger = cls(path, sqlite3.connect(path, timeout=wait_s, isolation_level=None), wait_s)
        try:
            ledger._begin()
        except BaseException:
            ledger.close()
            raise
        return ledger

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; the write-ahead log beside it is folded in."""
        self._database.close()

    def lookup(self, keys: Iterable[Key]) -> dict[Key, Reply]:
        """The settled replies among `keys`."""
        query = f"SELECT {_REPLY} FROM calls WHERE request_hash = ? AND sample_index = ? AND state != 'intent'"
        with _explained(self.path, self._wait_s):
            rows = ((key, self._database.execute(query, key).fetchone()) for key in keys)
            return {key: _reply(row) for key, row in rows if row}

    def intend(self, writer: str, asked: Mapping[Key, Request], *, label: str = "", batch: int = 0) -> None:
        """Say what will be asked of which writer identity, in one transaction; calls that are settled stay so.

        `label` says what the calls are for, for instance the wave; `batch` counts within it.
        """
        now = time.time()
        rows = [(*key, writer, _json(request.as_json()), label, batch, now) for key, request in asked.items()]
        with self._transaction():
            self._database.executemany(_INTEND, rows)

    def settle(self, replies: Mapping[Key, Reply]) -> None:
        """Store the replies of intended calls, all in one transaction; the first reply of a call is final."""
        now = time.time()
        with self._transaction():
            self._database.executemany(_SETTLE, [(*_columns(reply, now), *key) for key, reply in replies.items()])

    def totals(self) -> Totals:
        """What was asked, answered and spent so far."""
        with _explained(self.path, self._wait_s):
            row = self._database.execute(_TOTALS).fetchone()
        return Totals(*row)

    def writers(self) -> list[str]:
        """The identities of the writers that were asked, sorted."""
        with _explained(self.path, self._wait_s):
            return [row[0] for row in self._database.execute("SELECT DISTINCT writer FROM calls ORDER BY writer")]

    def recorded(self) -> Iterator[Call]:
        """Settled calls, by request hash and sample index: an order that no arrival time enters."""
        query = (
            f"SELECT request_hash, sample_index, writer, request, label, {_REPLY} FROM calls "
            "WHERE state != 'intent' ORDER BY request_hash, sample_index"
        )
        with _explained(self.path, self._wait_s):
            for request_hash, sample_index, writer, request, label, *reply in self._database.execute(query):
                yield Call((request_hash, sample_index), writer, json.loads(request), label, _reply(reply))

    def _begin(self) -> None:
        """Check what the file is before anything in it is changed; set it up where it is empty."""
        with self._transaction():
            if self._is_empty():
                self._database.execute(_TABLE)
                self._database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                self._database.execute(f"PRAGMA user_version = {LEDGER_SCHEMA}")
        with _explained(self.path, self._wait_s):
            self._database.execute("PRAGMA synchronous = FULL")
            self._use_wal(time.monotonic() + self._wait_s)

    def _use_wal(self, deadline: float) -> None:
        # Two processes that switch a new file at once are refused without SQLite's own waiting. A file system
        # without shared memory keeps its rollback journal: slower, and just as safe.
        while True:
            try:
                self._database.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as err:
                if err.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.01)

    def _is_empty(self) -> bool:
        application = self._database.execute("PRAGMA application_id").fetchone()[0]
        schema = self._database.execute("PRAGMA user_version").fetchone()[0]
        if (application, schema) == (0, 0) and not self._database.execute("SELECT 1 FROM sqlite_master").fetchone():
            return True
        if application != _APPLICATION_ID:
            raise InputError(f"{self.path} is an SQLite file, but not a ledger of facsynth\nGive another path.")
        if schema != LEDGER_SCHEMA:
            raise MismatchError(
                f"{self.path} is a ledger of schema {schema}; this version of facsynth reads schema {LEDGER_SCHEMA}\n"
                "Go on with the version that began it, or start in another folder. Nothing was changed."
            )
        return False

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        # The connection as a context commits, or rolls back whatever ended the block.
        with _explained(self.path, self._wait_s), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            yield


def _json(value: Any) -> str:
    """ASCII, so that a lone surrogate in a text can be stored too."""
    return json.dumps(value, sort_keys=True)


def _columns(reply: Reply, now: float) -> tuple[Any, ...]:
    """In the order of `_SETTLE`. The kind of an error is what stands before its first colon."""
    body = _json({"text": reply.text, "error": reply.error, "raw": reply.raw})
    state, kind = ("failed", reply.error.split(":")[0]) if reply.error else ("done", None)
    counts = (reply.prompt_tokens, reply.written_tokens, reply.latency_s)
    return state, now, body, reply.finish_reason, *counts, kind


def _reply(row: Sequence[Any]) -> Reply:
    """From the columns of `_REPLY`."""
    body, finish_reason, prompt_tokens, written_tokens, latency_s = row
    return Reply(
        finish_reason=finish_reason,
        prompt_tokens=prompt_tokens,
        written_tokens=written_tokens,
        latency_s=latency_s,
        **json.loads(body),
    )


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
