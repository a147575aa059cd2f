"""What plain samples recover by chance: the scale that `recovered` is read on.

After `synthesis`, whose control samples it is handed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facsynth.coverage.richness import expected_coverage, extrapolated_coverage
from facsynth.errors import InputError


@dataclass(frozen=True)
class ChanceLevel:
    """The share of the attempted features that plain-prompt samples would recover."""

    value: float
    n_samples: float
    """The number of plain samples that it stands for."""
    n_control: int
    """The number that were written."""
    extrapolated: bool
    """More than were written: an estimate (error about 0.09 at ten times as many) instead of exact rarefaction."""


def chance_at_samples(
    control_firing: npt.ArrayLike, n_control: int, n_samples: float, n_needed: npt.ArrayLike = 1
) -> ChanceLevel:
    """Chance level at an equal number of accepted samples.

    Args:
        control_firing: [n_attempted], how many of the control samples fire each attempted feature, by the same
            rule of acceptance; 0 for those that none fires.
        n_control: how many control samples were written.
        n_samples: how many samples were accepted.
        n_needed: how many firing samples recover a feature: one number, or [n_attempted].

    Raises:
        InputError: no control samples, or no attempted features.
    """
    firing = np.asarray(control_firing, dtype=np.int64)
    if n_control < 1 or len(firing) < 1:
        raise InputError(
            f"no chance level from {n_control} control samples and {len(firing)} attempted features\n"
            "Give plain samples a share of the writing budget: budget.control in the settings file."
        )
    if n_samples > n_control:
        value = extrapolated_coverage(firing, n_control, n_samples, n_needed)
        return ChanceLevel(value, n_samples, n_control, extrapolated=True)
    value = expected_coverage(firing, n_control, round(n_samples), len(firing), n_needed)
    return ChanceLevel(value, n_samples, n_control, extrapolated=False)


def chance_at_tokens(
    control_firing: npt.ArrayLike,
    n_control: int,
    control_tokens: int,
    written_tokens: int,
    n_needed: npt.ArrayLike = 1,
) -> ChanceLevel:
    """Chance level at equal written tokens: as many plain samples as `written_tokens` would have bought.

    Raises:
        InputError: as `chance_at_samples`, or the control wrote no tokens.
    """
    if control_tokens < 1:
        raise InputError("the control samples hold no written tokens, so there is no chance level at equal tokens")
    return chance_at_samples(control_firing, n_control, n_control * written_tokens / control_tokens, n_needed)
