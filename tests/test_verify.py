"""A second look at accepted samples."""

from __future__ import annotations

from typing import Any

import pytest

from facsynth.errors import InputError
from facsynth.records import Measurement, Message, Sample
from facsynth.synthesis.accept import text_sha256
from facsynth.synthesis.verify import verify

SAMPLE = Sample((Message("user", "How long do eggs keep?"),))
ROW: dict[str, Any] = {
    "feature": 5, "activation": 2.0, "threshold": 1.0, "text_sha256": text_sha256("How long do eggs keep?"),
}  # fmt: skip


def fires(activation: float) -> Measurement:
    return Measurement({5: (activation, 1)}, lambda position: "")


@pytest.mark.parametrize(
    ("sample", "activation", "problem", "holds"),
    [
        (SAMPLE, 2.0, "", True),
        (SAMPLE, 2.0015, "", True),
        (SAMPLE, 2.01, "marginal", True),
        (SAMPLE, 0.99, "does not fire", False),
        (SAMPLE, 1.0, "does not fire", False),
        (Sample((Message("user", "Another text."),)), 2.0, "text changed", False),
        (Sample((Message("user", "Another text."),)), 0.0, "text changed", False),
    ],
)
def test_a_sample_is_told_apart(sample: Sample, activation: float, problem: str, holds: bool) -> None:
    found = verify([sample], [ROW], [fires(activation)])
    assert [f.problem for f in found.findings] == ([problem] if problem else [])
    assert found.holds is holds
    if problem:
        assert found.findings[0].fires is (activation > 1.0)


def test_a_text_that_cannot_be_encoded_does_not_fire() -> None:
    assert verify([SAMPLE], [ROW], [None]).findings[0].problem == "does not fire"


def test_a_row_added_by_hand_is_an_error() -> None:
    with pytest.raises(InputError, match="2 samples, provenance.jsonl 1"):
        verify([SAMPLE, SAMPLE], [ROW], [fires(2), fires(2)])
