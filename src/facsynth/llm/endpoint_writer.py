"""An endpoint as a writer: asked only for what the ledger does not hold, within the caps, each answer kept as it comes.

Before: `synthesis` and `llm.structured` have requests. Inside: `llm.endpoint` sends them, `llm.desk` keeps them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from facsynth.errors import IncompleteError, SettingsError
from facsynth.llm.address import EndpointSettings
from facsynth.llm.budget import NOT_SENT, Budget
from facsynth.llm.desk import CapReached, LedgerDesk
from facsynth.llm.endpoint import Endpoint
from facsynth.llm.ledger import Key, Ledger, keyed
from facsynth.llm.wire import PASSING
from facsynth.records import ASSISTANT, Progress, Reply, Request, no_progress
from facsynth.store import fingerprint

AT_WORK = 16
"""Threads that may be in `write`; waves have two."""
ENOUGH = 4
"""Requests that all fail say something of the endpoint."""
LASTING = frozenset({"id", "root", "parent", "owned_by", "max_model_len", "quantization", "meta"})
"""What endpoints say of a model that changes with it alone: not prices, dates or what is loaded."""


def identity_of(settings: EndpointSettings, described: Mapping[str, Any] | None) -> str:
    """The model, what the endpoint says of it, and what every request says: not the address, and no key."""
    entry = {key: value for key, value in (described or {}).items() if key in LASTING}
    parts = {"model": settings.model, "api": settings.api, "extra": dict(settings.extra), "described": entry}
    return f"{settings.model}@{fingerprint(parts)[:16]}"


def is_passing(error: str) -> bool:
    """Whether a later command may find better: the endpoint was not there, or a cap had no room."""
    return _kind(error) in {*PASSING, NOT_SENT}


def _kind(error: str) -> str:
    return error.split(":", maxsplit=1)[0]


def _is_open(reply: Reply | None) -> bool:
    """Whether it is to be asked for."""
    return reply is None or is_passing(reply.error)


class EndpointWriter:
    """A writer, as `protocols.Writer` says."""

    def __init__(
        self,
        endpoint: Endpoint,
        ledger: Ledger,
        budget: Budget,
        *,
        identity: str,
        progress: Progress = no_progress,
    ) -> None:
        """Wrap `endpoint`.

        Args:
            endpoint: open as long as the writer is used.
            ledger: where everything is kept; `budget` goes on from what it says was spent.
            budget: the caps.
            identity: as `identity_of` gives it.
            progress: called with the requests done.
        """
        self.identity = identity
        self.batch_size = endpoint.settings.concurrency
        self._endpoint, self._ledger, self._budget = endpoint, ledger, budget
        endpoint.has_answered |= ledger.has_answers(identity)
        self._progress = progress
        self._at_work = threading.Semaphore(AT_WORK)
        self._is_closed = False

    def close(self) -> None:
        """Ask for nothing more, and wait until no thread is in `write`: the ledger then holds what was out."""
        self._is_closed = True
        for _ in range(AT_WORK):
            self._at_work.acquire()
        self._at_work.release(AT_WORK)

    def write(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer every request, from the ledger where it can.

        A request that no cap has room for gets a Reply with the error `budget: …`. It, and one that failed because of
        what the endpoint was like, is asked again by the next call.

        Raises:
            InputError: two requests are the same call.
            SettingsError: a request asks to steer, to begin a reply in a chat, or to write the user's turn, which no
                endpoint can.
            ModelError, IncompleteError: as `Endpoint.ask`; or the endpoint answered nothing that is asked for now; or
                the writer is closed.
        """
        for request in requests:
            if request.steering or (request.prefix and self._endpoint.settings.api == "chat"):
                raise SettingsError(
                    "an endpoint cannot steer, or begin a reply in a chat\nSet writer.rungs to [plain, spans]."
                )
            if request.role != ASSISTANT:
                raise SettingsError(
                    f"an endpoint writes no turn of the {request.role}: it needs the bare template of the chat\n"
                    "Take a writer in this process, or leave out what asks for it."
                )
        asked = keyed(self.identity, requests)
        before = self._ledger.lookup(asked)
        missing = [(key, request) for key, request in asked.items() if _is_open(before.get(key))]
        if not missing:
            return [before[key] for key in asked]
        with self._at_work:
            if self._is_closed:
                raise IncompleteError("the endpoint is closed: the run has ended\nThe same command goes on.")
            reason = self._send(missing, len(asked) - len(missing), len(asked))
        found = self._ledger.lookup(asked)
        if reason:
            left = [(key, request) for key, request in missing if _is_open(found.get(key))]
            error = f"{NOT_SENT}: {reason}"
            self._ledger.refuse(left, self.identity, error)
            lookup = self._ledger.lookup(asked)  # failed ones stay so there
            found = {key: replace(r, error=error) if _is_open(r) else r for key, r in lookup.items()}
        self._check_any([found[key] for key, _ in missing if key not in before])
        return [found[key] for key in asked]

    def _check_any(self, replies: Sequence[Reply]) -> None:
        """Refuse to go on with an endpoint that answers nothing, as long as another command may find it better."""
        if len(replies) >= ENOUGH and all(_kind(reply.error) in PASSING for reply in replies):
            raise IncompleteError(
                f"the endpoint answered none of {len(replies)} requests: {replies[-1].error}\n"
                "What was answered before is kept; the same command asks again."
            )

    def _send(self, calls: Sequence[tuple[Key, Request]], n_known: int, n: int) -> str:
        """Ask for what is missing; why the rest was not sent, where a cap has no room."""

        def settled(n_settled: int) -> None:
            self._progress("writing", n_known + n_settled, n)

        settled(0)
        desk = LedgerDesk(calls, self._ledger, self._budget, identity=self.identity, settled=settled)
        try:
            self._endpoint.ask([request for _, request in calls], desk)
        except CapReached as reached:
            return reached.cap
        finally:
            desk.close()
        return ""
