"""What is there already: a candidate that is equal to it, or nearly, adds nothing.

Before: seed set and anchor, and what was accepted. After: `synthesis.loop` rejects copies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from facsynth.synthesis.accept import CleanSettings
from facsynth.text.holdout import LEFT_OUT, Holdout
from facsynth.text.meanings import BATCH, Encode, Meanings
from facsynth.text.overlap import WordRuns

RUN_WORDS = 5
"""Words in a row by which near duplicates are known."""
THERE_ALREADY, NEARLY_THERE = "is there already", "is nearly there already"
IN_OTHER_WORDS = "is there already in other words"


@dataclass
class Seen:
    """Some samples, by ids and runs of words."""

    ids: set[str]
    runs: WordRuns
    clean: CleanSettings
    holdout: Holdout | None = None
    """What no sample may hold."""
    meanings: Meanings | None = None
    """Where texts in other words are told too."""

    @classmethod
    def of(
        cls,
        samples: Iterable[tuple[str, str]],
        clean: CleanSettings,
        holdout: Holdout | None = None,
        encode: Encode | None = None,
    ) -> Seen:
        """Of sample ids with their texts."""
        ids: set[str] = set()
        waiting: list[str] = []
        meanings = Meanings(encode) if encode else None

        def texts() -> Iterator[str]:
            for sample_id, text in samples:
                ids.add(sample_id)
                if meanings:
                    waiting.append(text)
                    if len(waiting) == BATCH:
                        meanings.add(*waiting)
                        waiting.clear()
                yield text

        runs = WordRuns(texts(), RUN_WORDS)
        if meanings and waiting:
            meanings.add(*waiting)
        return cls(ids, runs, clean, holdout, meanings)

    def nothing(self, clean: CleanSettings) -> Seen:
        """The same encoder, and nothing seen yet."""
        return Seen.of([], clean, encode=self.meanings.encode if self.meanings else None)

    def add(self, sample_id: str, text: str) -> None:
        """One more."""
        self.ids.add(sample_id)
        self.runs.add(text)
        if self.meanings:
            self.meanings.add(text)

    def has(self, sample_id: str, text: str) -> str:
        """Why a sample adds nothing; empty where it adds something."""
        if sample_id in self.ids:
            return THERE_ALREADY
        if self.holdout and self.holdout.holds(text):
            return LEFT_OUT
        if self.runs.share(text) > self.clean.near:
            return NEARLY_THERE
        is_alike = self.meanings and self.clean.alike is not None and self.meanings.nearest(text) > self.clean.alike
        return IN_OTHER_WORDS if is_alike else ""


NOTHING_SEEN = Seen.of([], CleanSettings())
