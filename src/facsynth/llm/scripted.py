"""A writer that answers from a script: for tests, dry runs, examples, and for replaying a recorded run.

Its tokens are words, so its counts are exact but not those of any model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from facsynth.errors import InputError, SettingsError
from facsynth.llm.ledger import Ledger, key_of
from facsynth.records import Reply, Request

Answer = str | Reply
"""A str is what is written after the request's prefix; a Reply is given back as it is."""


class ScriptedWriter:
    """Answers from a list, in the order of asking, or from a function of the request.

    Only a function answers the same after an interruption: a list starts again at its beginning.
    """

    def __init__(
        self,
        answers: Sequence[Answer] | Callable[[Request], Answer],
        *,
        identity: str = "scripted",
        batch_size: int = 8,
    ) -> None:
        """Set the script; a request beyond the end of a list gets a Reply with an error."""
        if batch_size < 1:
            raise SettingsError(f"batch_size is {batch_size}; a batch holds at least 1 request")
        self.identity = identity
        self.batch_size = batch_size
        self.history: list[Request] = []
        """Every request so far, in the order of asking."""
        self._answer = answers if callable(answers) else _in_order(answers)

    @classmethod
    def replay(cls, ledger: Ledger, *, identity: str | None = None, batch_size: int = 8) -> ScriptedWriter:
        """Answer what the ledger holds, and only that; `write` raises InputError where it is asked for anything else.

        Args:
            ledger: open as long as the writer is used.
            identity: the recorded writer to stand in for; may be left out where there is only one.
            batch_size: as of any writer.

        Raises:
            InputError: `identity` is none of those recorded, or left out where there is not exactly one.
        """
        writers = ledger.writers()
        if identity is None and len(writers) == 1:
            identity = writers[0]
        if identity is None or identity not in writers:
            asked = "no writer was named" if identity is None else f"asked for writer {identity}"
            raise InputError(
                f"{ledger.path} cannot be replayed: {asked}, it holds {', '.join(writers) or 'no calls'}\n"
                "Name one of its writers, or give the ledger of another run."
            )
        recorded_as = identity

        def answer(request: Request) -> Reply:
            key = key_of(recorded_as, request)
            found = ledger.lookup([key], raw=True).get(key)
            if found is None:
                raise InputError(
                    f"{ledger.path} does not hold a call that is asked for: it is of another run, or of one that did "
                    "not end\nGo on with the endpoint, without --replay."
                )
            return found

        return cls(answer, identity=identity, batch_size=batch_size)

    def write(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer every request from the script."""
        replies = []
        for request in requests:
            self.history.append(request)
            answer = self._answer(request)
            replies.append(answer if isinstance(answer, Reply) else _reply(request, answer))
        return replies


def _in_order(answers: Sequence[Answer]) -> Callable[[Request], Answer]:
    left: Iterator[Answer] = iter(answers)
    return lambda request: next(left, _error(f"script ended: it holds {len(answers)} replies"))


def _reply(request: Request, text: str) -> Reply:
    prompt_tokens = sum(len(message.content.split()) for message in request.messages)
    written = len(text.split())
    return Reply(request.prefix + text, "stop", prompt_tokens=prompt_tokens, written_tokens=written, latency_s=0.0)


def _error(error: str) -> Reply:
    return Reply("", "error", prompt_tokens=0, written_tokens=0, latency_s=0.0, error=error)
