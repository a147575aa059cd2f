"""What was written and what became of it: rows of the files that waves leave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from facsynth.records import Message, Sample
from facsynth.text.forms import to_row

PLAIN_RUNG, SPANS_RUNG, STEERED_RUNG = RUNGS = ("plain", "spans", "steered")
POOL_RUNG = "pool"
"""Before them: what was selected."""
ORDER = (POOL_RUNG, *RUNGS)
CHOICES = "\n\nChoices:"
"""Between the question of an A/B sample and its answers."""
CONTROL = -1
SELECTED = -2
PLAIN = -3


@dataclass(frozen=True)
class Candidate:
    """One reply and what became of it: a row of the wave's file."""

    written_for: int
    """The feature of its prompt; `PLAIN` for one that names none, `CONTROL` for one that only gives the chance level,
    `SELECTED` for one of a pool."""
    text: str
    reason: str
    """Empty where accepted."""
    feature: int = -1
    """The feature it is accepted for; where rejected, that of its prompt."""
    activation: float | None = None
    """Of `feature`, highest over what must fire; None: not measured."""
    position: int = 0
    span: str = ""
    fires: tuple[int, ...] = ()
    """Attempted features above their acceptance limit; of a sample of the control, above their threshold."""
    rung: str = ""
    """Of the ladder."""
    sample_id: str = ""
    prompt_hash: str = ""
    strength: float = 0.0
    log_prob: float | None = None
    """Mean of its tokens, in nats, as the unsteered model finds it; None where that was not asked."""
    score: int | None = None
    """The lowest mark of a judge, 1 to 5; None where none was asked, or none was given."""
    n_calls: int = 1
    """0: it was asked for before, and costs nothing again."""
    prompt_tokens: int = 0
    written_tokens: int = 0
    row: dict[str, Any] = field(default_factory=dict, hash=False)
    """All of it, in the form's layout; empty where it is a message alone."""
    flaw: str = ""
    """Of the rejected reply of a pair."""
    fault_at: str = ""
    """The part that it is rejected for before it is measured, where that is not the message: it is not steered."""

    @property
    def message(self) -> str:
        """What was written first, without the replies that its form has besides."""
        turns = self.row.get("messages") or self.row.get("prompt")
        return str(turns[0]["content"] if turns else self.row.get("question", self.text).partition(CHOICES)[0])

    @property
    def whole(self) -> dict[str, Any]:
        """All of it, in the form's layout."""
        return self.row or to_row(Sample((Message("user", self.text),)), "message")

    def changed(self, **changes: Any) -> Candidate:
        """The same with other values."""
        return Candidate(**{**asdict(self), **changes})

    @classmethod
    def of_row(cls, row: dict[str, Any]) -> Candidate:
        """From a row of a wave's file."""
        return cls(**{**row, "fires": tuple(row["fires"])})


@dataclass(frozen=True)
class Synthesis:
    """What was selected, and what was written, all of it, in the order of asking."""

    accepted: list[Candidate]
    """The selected ones first."""
    rejected: list[Candidate]
    gave_up: dict[int, int]
    """feature_id → candidates spent on it."""
    control: list[Candidate]
    """Plain samples; `fires` are the features above their threshold, as in `recovered`."""
    stop_reason: str
    progress: Sequence[tuple[int, int, int, int]] = ()
    """(written tokens, attempted features that have all they want, candidates, accepted ones) by then, a wave each."""

    @property
    def n_selected(self) -> int:
        """Accepted samples of a pool."""
        return sum(candidate.written_for == SELECTED for candidate in self.accepted)

    def rungs(self, wanted: Mapping[int, int]) -> list[dict[str, Any]]:
        """What each rung cost and gave, in the order they were tried: candidates, accepted ones, samples that features
        lacked (`wanted`: feature_id → how many), features that have all they lacked by them, tokens.
        """
        found: dict[str, Counter[str]] = {}
        for candidate in (*self.accepted, *self.rejected):
            figures = found.setdefault(candidate.rung, Counter())
            figures.update({"n_candidates": 1, "n_accepted": int(not candidate.reason)})
            figures.update({"prompt_tokens": candidate.prompt_tokens, "written_tokens": candidate.written_tokens})
        lacking = Counter(wanted)
        for candidate in self.accepted:
            new = [feature for feature in candidate.fires if lacking[feature] > 0]
            lacking.subtract(new)
            found[candidate.rung].update({"n_new": len(new), "n_closed": sum(lacking[f] == 0 for f in new)})
        names = ("n_candidates", "n_accepted", "n_new", "n_closed", "prompt_tokens", "written_tokens")
        order = sorted(found, key=ORDER.index)
        return [{"rung": rung, **{name: found[rung][name] for name in names}} for rung in order]

    @property
    def paid_control(self) -> list[Candidate]:
        """Plain samples that were asked for to give the chance level, and for nothing else."""
        return [candidate for candidate in self.control if candidate.n_calls]

    @property
    def candidate_tokens(self) -> int:
        """Written for features, accepted or not."""
        return _written(self.accepted) + _written(self.rejected)

    @property
    def control_tokens(self) -> int:
        """Written beside, for the chance level."""
        return _written(self.control)


def _written(candidates: Iterable[Candidate]) -> int:
    return sum(candidate.written_tokens for candidate in candidates)
