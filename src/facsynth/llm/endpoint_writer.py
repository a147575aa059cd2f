"""An endpoint as a writer: asked only for what the ledger does not hold, within the caps, each answer kept as it comes.

Before: `synthesis` and `llm.structured` have requests. Inside: `llm.endpoint` sends them, `llm.desk` keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from facsynth.errors import SettingsError
from facsynth.llm.address import EndpointSettings
from facsynth.llm.budget import NOT_SENT, Budget
from facsynth.llm.desk import CapReached, LedgerDesk
from facsynth.llm.endpoint import Endpoint
from facsynth.llm.ledger import Key, Ledger, keyed
from facsynth.records import Progress, Reply, Request, no_progress
from facsynth.store import fingerprint

PASSING = frozenset({"created", "permission", "loaded_instances", "status"})
"""What endpoints say of a model that changes while the model stays."""


def identity_of(settings: EndpointSettings, described: Mapping[str, Any] | None) -> str:
    """The model, what the endpoint says of it, and what every request says: not the address, and no key."""
    entry = {key: value for key, value in (described or {}).items() if key not in PASSING}
    parts = {"model": settings.model, "api": settings.api, "extra": dict(settings.extra), "described": entry}
    return f"{settings.model}@{fingerprint(parts)[:16]}"


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
        self._progress = progress

    def write(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer every request, from the ledger where it can.

        A request that no cap has room for gets a Reply with the error `budget: …`, and no row in the ledger.

        Raises:
            InputError: two requests are the same call.
            SettingsError: a request asks to steer, or to begin a reply in a chat, which no endpoint can.
            ModelError, IncompleteError: as `Endpoint.ask`.
        """
        for request in requests:
            if request.steering or (request.prefix and self._endpoint.settings.api == "chat"):
                raise SettingsError("an endpoint cannot steer, or begin a reply in a chat\nSet writer.strength to 0.")
        asked = keyed(self.identity, requests)
        answered = self._ledger.lookup(asked)
        missing = [(key, request) for key, request in asked.items() if key not in answered]
        reason = ""
        if missing:
            reason = self._send(missing, len(answered), len(asked))
            answered = self._ledger.lookup(asked)
        not_sent = Reply("", "error", 0, 0, 0.0, error=f"{NOT_SENT}: {reason}")
        return [answered.get(key, not_sent) for key in asked]

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
