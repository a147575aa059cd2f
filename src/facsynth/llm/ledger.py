"""Every call of every writer, in one SQLite table: the only mechanism by which writing resumes.

An intent is committed before a call and its reply after it, so a kill loses what is in flight and nothing else.
`synchronous=FULL` waits for the disk at every commit (about 10 ms), and in turn survives a power cut as well.

The first reply of a call is final, so everything decided from it can be decided again. So is a failure, until somebody
intends the call anew. What a call may cost is reserved with its intent and counts as spent until it is settled.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from facsynth.errors import InputError
from facsynth.llm.budget import NOT_SENT, NOTHING, Amount
from facsynth.llm.database import Database
from facsynth.records import Reply, Request
from facsynth.store import fingerprint

LEDGER_SCHEMA = 3

# `attempts` counts intents: more than one means that calls were sent whose replies were lost, and lost_tokens and
# lost_price hold what was reserved for those.
_TABLE = """
CREATE TABLE calls (
    request_hash TEXT NOT NULL,
    sample_index INTEGER NOT NULL,
    writer TEXT NOT NULL,
    request TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('intent', 'done', 'failed')),
    attempts INTEGER NOT NULL,
    intent_time REAL NOT NULL,
    reserved_tokens INTEGER NOT NULL,
    reserved_price REAL NOT NULL,
    lost_tokens INTEGER NOT NULL DEFAULT 0,
    lost_price REAL NOT NULL DEFAULT 0,
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
INSERT INTO calls (request_hash, sample_index, writer, request, reserved_tokens, reserved_price, state, attempts,
    intent_time)
VALUES (?, ?, ?, ?, ?, ?, 'intent', 1, ?)
ON CONFLICT (request_hash, sample_index) DO UPDATE SET
    attempts = attempts + 1, intent_time = excluded.intent_time,
    lost_tokens = lost_tokens + reserved_tokens, lost_price = lost_price + reserved_price,
    reserved_tokens = excluded.reserved_tokens, reserved_price = excluded.reserved_price,
    state = 'intent', error_kind = NULL
WHERE state = 'intent' OR (state = 'failed' AND prompt_tokens = 0 AND written_tokens = 0)"""
_REFUSE = """
INSERT INTO calls (request_hash, sample_index, writer, request, intent_time, reply, error_kind, state, attempts,
    finish_reason, reserved_tokens, reserved_price, prompt_tokens, written_tokens, latency_s)
VALUES (?, ?, ?, ?, ?, ?, ?, 'failed', 0, 'error', 0, 0, 0, 0, 0)
ON CONFLICT (request_hash, sample_index) DO UPDATE SET
    state = 'failed', reply = excluded.reply, error_kind = excluded.error_kind, finish_reason = 'error',
    prompt_tokens = 0, written_tokens = 0, latency_s = 0, reserved_tokens = 0, reserved_price = 0,
    lost_tokens = lost_tokens + reserved_tokens, lost_price = lost_price + reserved_price
WHERE state = 'intent'"""
_SPARE = """
UPDATE calls SET attempts = attempts - 1, reserved_tokens = 0, reserved_price = 0
WHERE request_hash = ? AND sample_index = ? AND state = 'intent'"""
_SETTLE = """
UPDATE calls SET state = ?, settled_time = ?, reply = ?, finish_reason = ?, prompt_tokens = ?, written_tokens = ?,
    latency_s = ?, error_kind = ?, price = ?,
    lost_tokens = lost_tokens + ? * reserved_tokens, lost_price = lost_price + ? * reserved_price,
    reserved_tokens = 0, reserved_price = 0
WHERE request_hash = ? AND sample_index = ? AND state = 'intent'"""
_REPLY = "reply, finish_reason, prompt_tokens, written_tokens, latency_s"
_TOTALS = """
SELECT count(*) FILTER (WHERE attempts > 0), count(*) FILTER (WHERE state = 'done'),
    count(*) FILTER (WHERE state = 'failed' AND attempts > 0),
    count(*) FILTER (WHERE state = 'intent'), coalesce(sum(prompt_tokens), 0), coalesce(sum(written_tokens), 0),
    coalesce(sum(lost_tokens + reserved_tokens), 0), total(price), total(lost_price + reserved_price)
FROM calls"""
_SPENT = """
SELECT coalesce(sum(attempts), 0),
    coalesce(sum(coalesce(prompt_tokens, 0) + coalesce(written_tokens, 0) + lost_tokens + reserved_tokens), 0),
    total(coalesce(price, 0) + lost_price + reserved_price)
FROM calls WHERE :but = '' OR substr(writer, 1, length(:but)) != :but"""

Key = tuple[str, int]
"""(request hash, sample index)."""


def key_of(identity: str, request: Request) -> Key:
    """What makes two calls the same call: writer, request, sample index."""
    return fingerprint({"writer": identity, "request": request.as_json()}), request.sample_index


def keyed(identity: str, requests: Sequence[Request]) -> dict[Key, Request]:
    """Requests by their keys, in their order.

    Raises:
        InputError: two are the same call.
    """
    asked: dict[Key, Request] = {}
    for request in requests:
        key = key_of(identity, request)
        if key in asked:
            raise InputError(
                f"a request came twice in one call: sample_index {request.sample_index}, {request.messages}\n"
                "Give equal requests different values of sample_index."
            )
        asked[key] = request
    return asked


@dataclass(frozen=True)
class Intent:
    """A call that is about to be sent."""

    key: Key
    writer: str
    request: Request
    reserved: Amount = NOTHING


@dataclass(frozen=True)
class Settled:
    """A call with its reply."""

    key: Key
    reply: Reply
    price: float = 0.0
    is_lost: bool = False
    """It failed, and may have been paid for all the same: what was reserved stays spent."""


@dataclass(frozen=True)
class Totals:
    """Sums over a ledger. Tokens and price are those of settled calls."""

    calls: int
    answered: int
    failed: int
    unsettled: int
    """Sent, or about to be, when the process ended."""
    prompt_tokens: int
    written_tokens: int
    lost_tokens: int
    """Reserved for calls that were sent and never answered; they may have been spent."""
    price: float
    lost_price: float


@dataclass(frozen=True)
class Call:
    """One settled call, as it was asked and answered."""

    key: Key
    writer: str
    request: dict[str, Any]
    reply: Reply
    price: float


class Ledger:
    """An open ledger file. Several processes may read it; a second one that writes waits its turn."""

    def __init__(self, database: Database) -> None:
        """Use `Ledger.open`."""
        self._database = database

    @classmethod
    def open(cls, path: Path, *, wait_s: float = 30.0) -> Self:
        """Open the file, or begin it where there is none; raises as `Database.open`."""
        return cls(Database.open(path, _TABLE, LEDGER_SCHEMA, wait_s=wait_s))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def path(self) -> Path:
        """The file."""
        return self._database.path

    def close(self) -> None:
        """Let go of the file; the write-ahead log beside it is folded in."""
        self._database.close()

    def lookup(self, keys: Iterable[Key], *, raw: bool = False) -> dict[Key, Reply]:
        """The settled replies among `keys`; `raw`: with all that the writer gave, five times the memory."""
        query = f"SELECT {_REPLY} FROM calls WHERE request_hash = ? AND sample_index = ? AND state != 'intent'"
        with self._database.reading() as connection:
            rows = ((key, connection.execute(query, key).fetchone()) for key in keys)
            return {key: _reply(row, raw) for key, row in rows if row}

    def record(
        self, intents: Iterable[Intent] = (), settled: Iterable[Settled] = (), spared: Iterable[Key] = ()
    ) -> None:
        """Write down, in one transaction and in this order, what is spared, settled and about to be sent.

        Args:
            intents: calls that are answered stay so, and failed ones are open again; one that was intended before,
                and not spared, was lost.
            settled: of intended calls; the first reply of a call is final.
            spared: intended calls that cost nothing and were not answered, as when the endpoint limits.
        """
        now = time.time()
        with self._database.transaction() as connection:
            connection.executemany(_SPARE, spared)
            connection.executemany(_SETTLE, [(*_columns(s, now), *s.key) for s in settled])
            rows = [(*i.key, i.writer, _json(i.request.as_json()), *i.reserved[1:], now) for i in intents]
            connection.executemany(_INTEND, rows)

    def refuse(self, calls: Iterable[tuple[Key, Request]], writer: str, error: str) -> None:
        """Write down why calls of a writer were not made; those that are settled stay so."""
        kind, now = error.split(":", maxsplit=1)[0], time.time()
        body = _json({"text": "", "error": error, "raw": {}})
        with self._database.transaction() as connection:
            rows = [(*key, writer, _json(request.as_json()), now, body, kind) for key, request in calls]
            connection.executemany(_REFUSE, rows)

    def has_answers(self, writer: str) -> bool:
        """Whether a writer ever answered."""
        query = "SELECT 1 FROM calls WHERE writer = ? AND state = 'done' LIMIT 1"
        with self._database.reading() as connection:
            return connection.execute(query, (writer,)).fetchone() is not None

    def totals(self) -> Totals:
        """What was asked, answered and spent so far."""
        with self._database.reading() as connection:
            return Totals(*connection.execute(_TOTALS).fetchone())

    def spent(self, but: str = "") -> Amount:
        """With all that may have been spent; not by writers whose identity begins with `but`."""
        with self._database.reading() as connection:
            return Amount(*connection.execute(_SPENT, {"but": but}).fetchone())

    def errors(self) -> dict[str, int]:
        """How many calls failed, by kind."""
        query = "SELECT error_kind, count(*) FROM calls WHERE state = 'failed' GROUP BY 1 ORDER BY 2 DESC, 1"
        with self._database.reading() as connection:
            return dict(connection.execute(query))

    def latencies(self) -> list[float]:
        """Seconds of each answered call, sorted."""
        query = "SELECT latency_s FROM calls WHERE state = 'done' ORDER BY latency_s"
        with self._database.reading() as connection:
            return [row[0] for row in connection.execute(query)]

    def writers(self) -> list[str]:
        """The identities of the writers that were asked, sorted."""
        with self._database.reading() as connection:
            return [row[0] for row in connection.execute("SELECT DISTINCT writer FROM calls ORDER BY writer")]

    def recorded(self) -> Iterator[Call]:
        """Settled calls, by request hash and sample index: an order that no arrival time enters."""
        query = (
            f"SELECT request_hash, sample_index, writer, request, coalesce(price, 0), {_REPLY} FROM calls "
            "WHERE state != 'intent' ORDER BY request_hash, sample_index"
        )
        with self._database.reading() as connection:
            for request_hash, index, writer, request, price, *reply in connection.execute(query):
                yield Call((request_hash, index), writer, json.loads(request), _reply(reply, True), price)


def _json(value: Any) -> str:
    """ASCII, so that a lone surrogate in a text can be stored too."""
    return json.dumps(value, sort_keys=True)


def _columns(settled: Settled, now: float) -> tuple[Any, ...]:
    """In the order of `_SETTLE`. The kind of an error is what stands before its first colon."""
    reply, is_lost = settled.reply, int(settled.is_lost)
    body = _json({"text": reply.text, "error": reply.error, "raw": reply.raw})
    state, kind = ("failed", reply.error.split(":")[0]) if reply.error else ("done", None)
    kind = kind and kind.encode("utf-8", "replace").decode()  # a lone surrogate cannot be stored as it is
    counts = (reply.prompt_tokens, reply.written_tokens, reply.latency_s)
    return state, now, body, reply.finish_reason, *counts, kind, settled.price, is_lost, is_lost


def _reply(row: Sequence[Any], raw: bool) -> Reply:
    """From the columns of `_REPLY`."""
    body, finish_reason, prompt_tokens, written_tokens, latency_s = row
    found = json.loads(body) | ({} if raw else {"raw": {}})
    return Reply(
        finish_reason=finish_reason,
        prompt_tokens=prompt_tokens,
        written_tokens=written_tokens,
        latency_s=latency_s,
        n_calls=int(not found["error"].startswith(f"{NOT_SENT}:")),
        **found,
    )
