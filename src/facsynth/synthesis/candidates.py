"""What was written and what became of it: rows of the files that waves leave."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

CONTROL = -1
SELECTED = -2


@dataclass(frozen=True)
class Candidate:
    """One reply and what became of it: a row of the wave's file."""

    written_for: int
    """The feature of its prompt; `CONTROL` for a plain sample, `SELECTED` for one of a pool."""
    text: str
    reason: str
    """Empty where accepted."""
    feature: int = -1
    """The feature it is accepted for; where rejected, that of its prompt."""
    activation: float = 0.0
    position: int = 0
    span: str = ""
    fires: tuple[int, ...] = ()
    """Attempted features above their acceptance limit; of a plain sample, above their threshold."""
    sample_id: str = ""
    prompt_hash: str = ""
    strength: float = 0.0
    log_prob: float | None = None
    """Mean of its tokens, in nats, as the unsteered model finds it; None where that was not asked."""
    n_calls: int = 1
    prompt_tokens: int = 0
    written_tokens: int = 0
    row: dict[str, Any] = field(default_factory=dict, hash=False)
    """Of a pool: all of it, in the form's layout."""

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

    @property
    def n_selected(self) -> int:
        """Accepted samples of a pool."""
        return sum(candidate.written_for == SELECTED for candidate in self.accepted)

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
