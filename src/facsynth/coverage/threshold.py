"""Above which activation a feature counts as active; fixed once and used unchanged for every set of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from facsynth.bins import Floats, round_to_edge
from facsynth.errors import SettingsError
from facsynth.profile import SCALE_KEYS, Profile, check_same_space


@dataclass(frozen=True)
class Threshold:
    """Above which activation a feature counts as active: a number, a share of its maximum, or a quantile."""

    value: float
    kind: str = ""
    """As written before the number: nothing (absolute), r (of the robust maximum), q (percent of firing samples)."""

    def __post_init__(self) -> None:
        allowed = {"": self.value >= 0, "r": 0 < self.value <= 1, "q": 0 < self.value < 100}
        if not (math.isfinite(self.value) and allowed.get(self.kind, False)):
            raise _bad_threshold(str(self))

    @classmethod
    def parse(cls, text: str) -> Threshold:
        """Read "0.0", "1.5", "r0.5" or "q90".

        Raises:
            SettingsError: anything else.
        """
        kind = text[:1] if text[:1] in ("r", "q") else ""
        try:
            return cls(float(text.removeprefix(kind)), kind)
        except (ValueError, SettingsError) as err:
            raise _bad_threshold(text) from err

    def __str__(self) -> str:
        number = str(float(self.value))
        return self.kind + (number.removesuffix(".0") if self.kind == "q" else number)

    @property
    def anchor_support(self) -> int:
        """How many anchor samples make a feature active, unless said otherwise."""
        return 10 if self.kind == "q" else 3


def feature_thresholds(threshold: Threshold, anchor: Profile, reference: Profile | None = None) -> Floats:
    """float32[d_sae]: each feature's threshold, at a bin edge; 0.0 stays 0.0, no other threshold becomes it.

    "r" takes the robust maximum of the `reference` (the background of the SAE), and that of the anchor where the
    reference never fires the feature or is None. "q" is a quantile over the anchor samples that fire the feature.

    Raises:
        MismatchError: the reference has another model, SAE, hook point or codes.
    """
    if threshold.kind == "q":
        return anchor.quantile_edges(threshold.value / 100)
    if threshold.kind == "r":
        maximum = anchor.robust_maximum()
        if reference is not None:
            check_same_space(anchor.identity, reference.identity, ("anchor", "reference"), SCALE_KEYS)
            of_reference = reference.robust_maximum()
            maximum = np.where(of_reference > 0, of_reference, maximum)
        return round_to_edge(threshold.value * maximum.astype(np.float64))
    return round_to_edge(np.full(anchor.d_sae, threshold.value))


def _bad_threshold(text: str) -> SettingsError:
    return SettingsError(
        f'threshold "{text}" is not understood\n'
        "Give a number of at least 0 (0.0), a share of the maximum (r0.5, at most r1) or a percentile (q90)."
    )
