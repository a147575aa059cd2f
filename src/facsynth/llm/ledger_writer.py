"""The way from a stage to a writer: through the ledger, batch by batch, so that nothing is asked twice."""

from __future__ import annotations

from collections.abc import Sequence

from facsynth.errors import InputError, ModelError
from facsynth.llm.ledger import Key, Ledger, key_of
from facsynth.protocols import Writer
from facsynth.records import Progress, Reply, Request, no_progress


class LedgerWriter:
    """A writer that asks another one only for what the ledger does not hold."""

    def __init__(
        self,
        writer: Writer,
        ledger: Ledger,
        *,
        whole_batches: bool = True,
        label: str = "",
        progress: Progress = no_progress,
    ) -> None:
        """Wrap `writer`.

        Args:
            writer: who is asked.
            ledger: where everything is kept.
            whole_batches: True where a reply may depend on its batch (local writing): a batch with anything
                unanswered is written whole. False where requests are independent (an endpoint): only the
                unanswered ones are sent.
            label: what the calls are for, for instance the wave; kept with each.
            progress: called before the first batch and after each, with the requests done.
        """
        self._writer = writer
        self._ledger = ledger
        self._whole_batches = whole_batches
        self._label = label
        self._progress = progress

    @property
    def identity(self) -> str:
        """The wrapped writer's."""
        return self._writer.identity

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
        asked: dict[Key, Request] = {}
        for request in requests:
            key = key_of(self.identity, request)
            if key in asked:
                raise InputError(
                    f"a request came twice in one call: sample_index {request.sample_index}, {request.messages}\n"
                    "Give equal requests different values of sample_index."
                )
            asked[key] = request
        keys, size, replies = list(asked), self.batch_size, []
        self._progress("writing", 0, len(keys))
        for number, start in enumerate(range(0, len(keys), size)):
            batch = {key: asked[key] for key in keys[start : start + size]}
            replies += self._write_batch(batch, number)
            self._progress("writing", len(replies), len(keys))
        return replies

    def _write_batch(self, batch: dict[Key, Request], number: int) -> list[Reply]:
        answered = self._ledger.lookup(batch)
        open_calls = {key: request for key, request in batch.items() if key not in answered}
        if open_calls:
            self._ledger.intend(self.identity, open_calls, label=self._label, batch=number)
            sent = batch if self._whole_batches else open_calls
            replies = self._writer.write(list(sent.values()))
            if len(replies) != len(sent):
                raise ModelError(
                    f"the writer {self.identity} was asked for {len(sent)} replies and gave {len(replies)}\n"
                    "A writer answers every request in order, a failed one with a Reply whose `error` says why."
                )
            self._ledger.settle(dict(zip(sent, replies, strict=True)))
            answered = self._ledger.lookup(batch)
        return [answered[key] for key in batch]
