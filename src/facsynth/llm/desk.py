"""Between an endpoint and the ledger: caps are held, and what is asked and answered is on disk before work goes on.

Commits wait for the disk, so they are made together: while one is on its way, the next gathers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from facsynth.errors import IncompleteError
from facsynth.llm.budget import NOTHING, Amount, Budget, worst_tokens
from facsynth.llm.ledger import Intent, Key, Ledger, Settled
from facsynth.llm.wire import FREE, Answered, Fault
from facsynth.records import Reply, Request


class CapReached(IncompleteError):  # noqa: N818 -- it is no mistake
    """One more call could exceed a cap."""

    def __init__(self, cap: str) -> None:
        """`cap`: in words."""
        super().__init__(f"{cap} is reached\nRaise it in a new folder, with a copy of ledger.sqlite in it.")
        self.cap = cap


@dataclass
class _Commit:
    """What goes to disk together."""

    intents: list[Intent] = field(default_factory=list)
    settled: list[Settled] = field(default_factory=list)
    spared: list[Key] = field(default_factory=list)
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class LedgerDesk:
    """A `Desk` for some calls of one writer; for tasks of one event loop."""

    def __init__(
        self,
        calls: Sequence[tuple[Key, Request]],
        ledger: Ledger,
        budget: Budget,
        *,
        identity: str,
        settled: Callable[[int], None],
    ) -> None:
        """Keep `calls`, by their numbers, in `ledger`; `settled` is told how many are."""
        self._calls, self._ledger, self._budget = calls, ledger, budget
        self._identity, self._tell = identity, settled
        self._reserved: dict[int, Amount] = {}
        self._spared: list[Key] = []
        self._next: _Commit | None = None
        self._writing: asyncio.Task[None] | None = None
        self._n_settled = 0

    async def intend(self, number: int) -> None:
        """Reserve and write down.

        Raises:
            CapReached: a cap would be passed if this call and all that are out cost what they can.
        """
        key, request = self._calls[number]
        amount = self._budget.worst(request)
        if cap := self._budget.exceeded(amount):
            raise CapReached(cap)
        self._budget.reserve(amount)
        self._reserved[number] = amount
        commit = self._gathering()
        commit.intents.append(Intent(key, self._identity, request, reserved=amount))
        commit.spared += self._spared
        self._spared.clear()
        await asyncio.shield(commit.done)

    async def settle(self, number: int, found: Answered | Fault, latency_s: float) -> None:
        """Write the reply down, or why there is none."""
        row = (
            self._failed(number, found, latency_s)
            if isinstance(found, Fault)
            else self._replied(number, found, latency_s)
        )
        commit = self._gathering()
        commit.settled.append(row)
        await asyncio.shield(commit.done)
        self._n_settled += 1
        self._tell(self._n_settled)

    def _replied(self, number: int, found: Answered, latency_s: float) -> Settled:
        worst = worst_tokens(self._calls[number][1])  # where the endpoint does not count
        prompt = worst[0] if found.prompt_tokens is None else found.prompt_tokens
        written = worst[1] if found.written_tokens is None else found.written_tokens
        return self._paid(number, Reply(found.text, found.finish_reason, prompt, written, latency_s, raw=found.raw))

    def _failed(self, number: int, found: Fault, latency_s: float) -> Settled:
        """What it cost was said by `lose` or `spare`, but where the endpoint did its work."""
        key, reply = self._calls[number][0], found.as_reply(latency_s)
        if number in self._reserved and found.counts is not None:
            return self._paid(number, reply)
        if number in self._reserved:
            self.lose(number)
        if found.kind not in FREE:
            return Settled(key, reply, is_lost=True)
        self._spared.remove(key)
        self._budget.settle(NOTHING, Amount(calls=1))
        return Settled(key, reply)

    def _paid(self, number: int, reply: Reply) -> Settled:
        spent = self._budget.actual(reply)
        self._budget.settle(self._reserved.pop(number), spent)
        return Settled(self._calls[number][0], reply, spent.money)

    def lose(self, number: int) -> None:
        """Count what was reserved as spent."""
        amount = self._reserved.pop(number)
        self._budget.settle(amount, amount)

    def spare(self, number: int) -> None:
        """Give back what was reserved."""
        self._budget.settle(self._reserved.pop(number), Amount())
        self._spared.append(self._calls[number][0])

    def close(self) -> None:
        """Write down what was not yet, once nothing is out."""
        self._ledger.record(spared=self._spared)
        self._spared.clear()

    def _gathering(self) -> _Commit:
        """The commit that is not on its way yet; started where there is none."""
        if self._next is None:
            self._next = _Commit()
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write())
        return self._next

    async def _write(self) -> None:
        """Commit until nothing has gathered."""
        while (commit := self._next) is not None:
            self._next = None
            try:
                await asyncio.to_thread(self._ledger.record, commit.intents, commit.settled, commit.spared)
                commit.done.set_result(None)
            except Exception as err:  # whatever it is, nobody may wait for it for ever
                commit.done.set_exception(err)
