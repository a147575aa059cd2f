"""The rungs of writing, from cheap to dear, and when one is left: each is for what the one before left open.

plain: messages asked for in bulk, by a prompt that names no feature, of which coverage selects. spans: the feature's
spans as examples. steered: along its direction besides, with a strength that is found for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from facsynth.records import NON_FINITE
from facsynth.synthesis.accept import BROKEN, WRITER_ERROR
from facsynth.synthesis.candidates import Candidate

WINDOW_TOKENS = 1000
"""Written for features, over which a yield is told; of plain samples every wave is a window."""
RAISE = 1.5
"""What a strength without effect is raised by, as long as none is known that breaks texts."""
STRONGEST = 8.0
"""Beyond it nothing changes: steering is bounded by the residual's norm. Then the search begins anew."""


class Yield:
    """New samples per 1,000 written tokens, told window by window; a window ends with the wave that fills it."""

    def __init__(self, least: float, window_tokens: int = WINDOW_TOKENS) -> None:
        """`least` is what a window must give not to be a poor one."""
        self.least, self.window_tokens = least, window_tokens
        self.n_poor = 0
        """Poor windows in a row, up to now."""
        self._n_new, self._n_tokens = 0, 0

    def take(self, n_new: int, n_tokens: int) -> None:
        """Add what a wave gave and cost."""
        self._n_new, self._n_tokens = self._n_new + n_new, self._n_tokens + n_tokens
        if self._n_tokens >= self.window_tokens:
            is_poor = 1000 * self._n_new < self.least * self._n_tokens or not self._n_tokens
            self.n_poor = self.n_poor + 1 if is_poor else 0
            self._n_new, self._n_tokens = 0, 0


class Strength:
    """The strength that a feature is steered with: between one without effect and one that breaks texts."""

    def __init__(self, first: float) -> None:
        """Begin with `first`."""
        self._first = first
        self.now, self._low, self._high = first, 0.0, float("inf")

    def take(self, candidates: Sequence[Candidate]) -> None:
        """Bisect by what a wave with this strength became; where it fires the feature, and in sound texts, it stays.

        Faults of replies say nothing, as these are not steered; nor do errors of a writer that are not due to it.
        """
        told = [c for c in candidates if not c.fault_at and (is_broken(c) or not c.reason.startswith(WRITER_ERROR))]
        if not told:
            return
        if 2 * sum(map(is_broken, told)) > len(told):
            self._high = self.now
        elif not any(candidate.written_for in candidate.fires for candidate in told):
            self._low = self.now
        else:
            return
        self.now = RAISE * self._low if self._high == float("inf") else (self._low + self._high) / 2
        if self.now > STRONGEST:
            self.now, self._low = self._first, 0.0


def is_broken(candidate: Candidate) -> bool:
    """Whether its text is what steering too strongly leaves, or nothing at all."""
    reason = candidate.reason.removeprefix(f"{WRITER_ERROR}: ")
    return reason.partition(":")[0] in {*BROKEN, NON_FINITE}
