"""The way from a stage to a writer in this process: through the ledger, batch by batch, so that nothing is asked twice.

A reply may depend on its batch: one with anything unanswered is written whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from facsynth.errors import ModelError
from facsynth.llm.ledger import Intent, Key, Ledger, Settled, keyed
from facsynth.protocols import Writer
from facsynth.records import Progress, Reply, Request, no_progress


class LedgerWriter:
    """A writer that asks another one only for what the ledger does not hold."""

    def __init__(
        self,
        writer: Writer,
        ledger: Ledger,
        *,
        role: str = "",
        progress: Progress = no_progress,
    ) -> None:
        """Wrap `writer`.

        Args:
            writer: who is asked.
            ledger: where everything is kept.
            role: what its identity begins with, to be told from others in the same ledger.
            progress: called before the first batch and after each, with the requests done.
        """
        self.identity = role + writer.identity
        self._writer = writer
        self._ledger = ledger
        self._progress = progress

    @property
    def batch_size(self) -> int:
        """The wrapped writer's."""
        return self._writer.batch_size

    def write(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer every request, from the ledger where it can; batches are cut in the given order.

        Raises:
            InputError: two requests are the same call.
            ModelError: the wrapped writer gave more or fewer replies than it was asked for.
        """
        asked = keyed(self.identity, requests)
        keys, size, replies = list(asked), self.batch_size, []
        self._progress("writing", 0, len(keys))
        for start in range(0, len(keys), size):
            batch = {key: asked[key] for key in keys[start : start + size]}
            replies += self._write_batch(batch)
            self._progress("writing", len(replies), len(keys))
        return replies

    def _write_batch(self, batch: dict[Key, Request]) -> list[Reply]:
        answered = self._ledger.lookup(batch)
        open_calls = {key: request for key, request in batch.items() if key not in answered}
        if open_calls:
            self._ledger.record([Intent(k, self.identity, r) for k, r in open_calls.items()])
            replies = self._writer.write(list(batch.values()))
            if len(replies) != len(batch):
                raise ModelError(
                    f"the writer {self.identity} was asked for {len(batch)} replies and gave {len(replies)}\n"
                    "A writer answers every request in order, a failed one with a Reply whose `error` says why."
                )
            self._ledger.record(settled=map(Settled, batch, replies))
            answered = self._ledger.lookup(batch)
        return [answered[key] for key in batch]
