"""Answers compared by a reward model: a Bradley-Terry head that was trained on preference pairs, as `eval reward` does.

Before: pairs, and the model whose final states it reads. After: `duels` keeps its verdicts as those of any judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from facsynth.evaluating.fitting import Setup
from facsynth.evaluating.reward import Pair, Pairs, by_head
from facsynth.model.hashes import model_hash
from facsynth.records import Message, Sample
from facsynth.store import fingerprint
from facsynth.tasks.instruction import Duel, Letter, Verdict
from facsynth.tasks.reward import FEWEST, check_enough


@dataclass(frozen=True)
class Rater:
    """Rates the two answers of a duel each by itself: their order does not matter."""

    pairs: Pairs
    setup: Setup
    """The model; one seed."""

    def __post_init__(self) -> None:
        """Refuse too few pairs, before anything is trained."""
        check_enough(len(self.pairs.pairs), fewest=FEWEST)

    @property
    def name(self) -> str:
        """What the judge is called: it is worth no more than its pairs and its model are."""
        of = fingerprint(
            [self.pairs.fingerprint, model_hash(self.setup.folder, self.setup.cache), self.setup.model.dtype]
        )
        return f"stand-in: a reward head on {len(self.pairs.pairs):,} pairs ({of[:8]})"

    def verdicts(self, duels: Sequence[Duel]) -> list[Verdict]:
        """The answer with the higher reward is better; equal rewards are a tie, and so are equal answers."""
        rated = Pairs([_pair(duel) for duel in duels], 0, [], "")
        scores = by_head(self.pairs, rated, self.setup).scores[0]
        return [_verdict(duel, float(score)) for duel, score in zip(duels, scores, strict=True)]


def _pair(duel: Duel) -> Pair:
    asked = Message("user", duel.instruction)
    ours, reference = (Sample((asked, Message("assistant", text))) for text in (duel.ours, duel.reference))
    return Pair(Sample((asked,)), ours, reference, None)


def _verdict(duel: Duel, score: float) -> Verdict:
    if duel.ours == duel.reference:
        return Verdict(None, None, 0.5)
    letters: tuple[Letter, Letter] = ("tie", "tie") if score == 0 else ("A", "B") if score > 0 else ("B", "A")
    return Verdict(*letters, 0.5 if score == 0 else float(score > 0))
