"""How many requests are out at once: what the endpoint takes, found by asking for a little more.

Starts low and grows by one with every reply until the first 429; a 429 takes a quarter away, and every 25 replies give
one back. Requests wait while the endpoint says so (Retry-After), else 1 s, 2 s and so on. After that one of them goes
ahead, and the others as soon as there is a reply to any. Further 429s take nothing away until a request was let through
that was sent after the first: what lasts says nothing more of how many are too many.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from facsynth.errors import IncompleteError

START = 4
DECREASE = 0.75
REPLIES_PER_STEP = 25
SHORTEST_PAUSE_S, FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0, 60.0


class Limiter:
    """The slots of one model at one endpoint; for tasks of one event loop."""

    def __init__(self, ceiling: int, max_wait_s: float, tell: Callable[[float, str], None]) -> None:
        """Begin with few slots.

        Args:
            ceiling: never more than so many.
            max_wait_s: for a first reply after the endpoint began to limit.
            tell: called with seconds and reason when everything is to wait.
        """
        self.limit = float(min(START, ceiling))
        """Slots now; a fraction is on its way to the next one."""
        self._ceiling, self._max_wait_s, self._tell = ceiling, max_wait_s, tell
        self._in_flight, self._waiting = 0, deque[asyncio.Future[None]]()
        self._ramping, self._paused_until = True, 0.0
        self._limited_at, self._passed_at = 0.0, 0.0
        self._waits_since, self._n_pauses, self._reason = 0.0, 0, ""
        self._woken = asyncio.Event()

    async def acquire(self, stop: Sequence[object]) -> float | None:
        """Wait for a slot; when it was given, for `limited` to know which requests an earlier cut already answers.

        None as soon as there is something in `stop`.

        Raises:
            IncompleteError: the endpoint has let nothing through for `max_wait_s`.
        """
        while not stop:
            now = time.monotonic()
            if self._waits_since and self._paused_until - self._waits_since > self._max_wait_s:
                raise self._gave_up()
            if now < self._paused_until:
                await self.sleep(self._paused_until - now)
            elif self._in_flight < self._slots:
                self._in_flight += 1
                return now
            else:
                waiter = asyncio.get_running_loop().create_future()
                self._waiting.append(waiter)
                await waiter
        return None

    async def sleep(self, seconds: float) -> None:
        """As long, or until `wake_all`."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), seconds)

    def release(self) -> None:
        """Give a slot back."""
        self._in_flight -= 1
        self._wake(self._slots - self._in_flight)

    @property
    def _slots(self) -> int:
        """One while nothing was answered since the endpoint said to wait."""
        return 1 if self._n_pauses else int(self.limit)

    def wake_all(self) -> None:
        """Let every task look again whether it is still to wait."""
        self._wake(len(self._waiting))
        self._woken.set()
        self._woken = asyncio.Event()

    def _wake(self, n: int) -> None:
        while n > 0 and self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():  # a task that was cancelled
                waiter.set_result(None)
                n -= 1

    def succeeded(self, sent_at: float) -> None:
        """A request that got its slot at `sent_at` was let through, whatever came of it."""
        self._waits_since, self._n_pauses = 0.0, 0
        self._passed_at = max(self._passed_at, sent_at)
        step = 1.0 if self._ramping else 1 / REPLIES_PER_STEP
        self.limit = min(float(self._ceiling), self.limit + step)

    def limited(self, sent_at: float, retry_after_s: float | None, reason: str, *, cut: bool = True) -> None:
        """The endpoint said to wait, to a request that got its slot at `sent_at`; `cut`: because of too many."""
        now = time.monotonic()
        self._waits_since = self._waits_since or now
        self._reason = reason
        if retry_after_s is not None:
            self._paused_until = max(self._paused_until, now + retry_after_s)
        if sent_at < self._limited_at:  # of the burst that was answered already
            return
        if cut and self._passed_at >= self._limited_at:
            self.limit = max(1.0, self.limit * DECREASE)
        self._limited_at, self._ramping = now, self._ramping and not cut
        if retry_after_s is None:
            pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**self._n_pauses) * random.uniform(0.75, 1.25)
        else:  # some say 0
            pause = max(retry_after_s, min(FIRST_PAUSE_S, SHORTEST_PAUSE_S * 2.0**self._n_pauses))
        self._n_pauses += 1
        self._paused_until = max(self._paused_until, now + pause)
        self._tell(self._paused_until - now, reason)

    def _gave_up(self) -> IncompleteError:
        return IncompleteError(
            f"the endpoint lets nothing through: {self._reason}\n"
            f"It would be waited for longer than {self._max_wait_s:g} s (--max-wait). What was answered is kept; the "
            "same command goes on."
        )


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, of a number or a date; None where nothing is said, or nothing that can be read."""
    milliseconds = headers.get("retry-after-ms", "")
    if re.fullmatch(r"\d+(\.\d*)?", milliseconds):
        return float(milliseconds) / 1000
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d*)?", value):
        return float(value)
    try:
        then = parsedate_to_datetime(value)
        now = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
        return max(0.0, (then - now).total_seconds())
    except (ValueError, TypeError, OverflowError):  # no date; or one of the two has a time zone and the other has none
        return None
