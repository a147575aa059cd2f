"""Prove accepted samples again: the same texts, encoded alone in float32, must still fire.

Before: a finished run's `samples.jsonl` and `provenance.jsonl`. It tells a changed text from one that does not
fire, and a real loss from numerical noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from facsynth.errors import InputError
from facsynth.records import Measurement, Sample
from facsynth.synthesis.accept import text_sha256

TOLERANCE = 1e-3
"""Relative difference to the recorded activation that counts as the same."""


@dataclass(frozen=True)
class Finding:
    """One sample that is not as recorded."""

    row: int
    """Of samples.jsonl, from 1."""
    feature: int
    problem: str
    """text changed · does not fire · marginal."""
    recorded: float
    found: float
    threshold: float
    fires: bool


@dataclass(frozen=True)
class Verification:
    """What a second look found."""

    n_samples: int
    findings: tuple[Finding, ...]

    def n(self, problem: str) -> int:
        """How many have this problem."""
        return sum(finding.problem == problem for finding in self.findings)

    @property
    def holds(self) -> bool:
        """No text was changed, and every feature fires; marginal ones may be there."""
        return all(finding.problem == "marginal" for finding in self.findings)


def verify(
    samples: Sequence[Sample | None], provenance: Sequence[Mapping[str, Any]], measured: Sequence[Measurement | None]
) -> Verification:
    """Compare samples with what is recorded of them.

    Args:
        samples: accepted samples, in order; None where a row holds no sample any more.
        provenance: their rows, same order.
        measured: what they fire now, None where that is nothing.

    Raises:
        InputError: samples and provenance are not of one length.
    """
    if len(samples) != len(provenance):
        raise InputError(
            f"samples.jsonl holds {len(samples)} samples, provenance.jsonl {len(provenance)} rows\n"
            "Rows were added or removed by hand; restore the files, or run the synthesis again."
        )
    findings = []
    for number, (sample, row, found) in enumerate(zip(samples, provenance, measured, strict=True), start=1):
        activation = found.maxima.get(row["feature"], (0.0, 0))[0] if found else 0.0
        fires = activation > row["threshold"]
        problem = ""
        if sample is None or text_sha256(sample.text) != row["text_sha256"]:
            problem = "text changed"
        elif not fires:
            problem = "does not fire"
        elif abs(activation - row["activation"]) > TOLERANCE * abs(row["activation"]):
            problem = "marginal"
        if problem:
            findings.append(
                Finding(number, row["feature"], problem, row["activation"], activation, row["threshold"], fires)
            )
    return Verification(len(samples), tuple(findings))
