"""What is there already: a candidate that is equal to it, or nearly, adds nothing.

Before: seed set and anchor, and what was accepted. After: `synthesis.loop` rejects copies.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from facsynth.synthesis.accept import CleanSettings
from facsynth.text.holdout import LEFT_OUT, Holdout
from facsynth.text.overlap import WordRuns

RUN_WORDS = 5
"""Words in a row by which near duplicates are known."""
THERE_ALREADY, NEARLY_THERE = "is there already", "is nearly there already"


@dataclass
class Seen:
    """Some samples, by ids and runs of words."""

    ids: set[str]
    runs: WordRuns
    near: float
    holdout: Holdout | None = None
    """What no sample may hold."""

    @classmethod
    def of(cls, samples: Iterable[tuple[str, str]], clean: CleanSettings, holdout: Holdout | None = None) -> Seen:
        """Of sample ids with their texts."""
        ids: set[str] = set()

        def texts() -> Iterable[str]:
            for sample_id, text in samples:
                ids.add(sample_id)
                yield text

        return cls(ids, WordRuns(texts(), RUN_WORDS), clean.near, holdout)

    def add(self, sample_id: str, text: str) -> None:
        """One more."""
        self.ids.add(sample_id)
        self.runs.add(text)

    def has(self, sample_id: str, text: str) -> str:
        """Why a sample adds nothing; empty where it adds something."""
        if sample_id in self.ids:
            return THERE_ALREADY
        if self.holdout and self.holdout.holds(text):
            return LEFT_OUT
        return NEARLY_THERE if self.runs.share(text) > self.near else ""


NOTHING_SEEN = Seen.of([], CleanSettings())
