"""Two sets side by side: which features only one of them fires, and which it fires more often. Pure arithmetic.

Before: `coverage`, of each. After: `comparing`, which adds spans and writes it down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import false_discovery_control

from facsynth.bins import Doubles, Floats, Ints
from facsynth.coverage.coverage import Coverage
from facsynth.profile import Profile, check_same_space
from facsynth.strata import two_sided


@dataclass(frozen=True, eq=False)
class Differences:
    """Features that one set fires more often than another, the most different first."""

    feature_ids: Ints
    rates: Doubles
    """[n_different, 2], share of the samples that fire it, of the one and of the other."""
    log_odds: Doubles
    """Shrunk, of samples of the same length; above 0 where the one fires it more."""
    q_values: Doubles
    n_tested: int
    compared: tuple[float, float]
    """Share of the samples of either that have a length which the other has too: the rest tells nothing here."""


def differences(a: Profile, b: Profile, feature_ids: Ints, thresholds: Floats, q: float = 0.05) -> Differences:
    """Features that the one fires more often than the other, among samples of the same length.

    Two-sided Cochran-Mantel-Haenszel over half octaves of content length, as in `meaning.relevance`; Benjamini-Hochberg
    at `q` over the features that either fires.

    Args:
        a: the one.
        b: the other.
        feature_ids: which are compared.
        thresholds: [d_sae]
        q: share of those found that may be no differences.

    Raises:
        MismatchError: the two come from different feature spaces.
    """
    check_same_space(a.identity, b.identity, ("the one set", "the other"))
    shared = (a.length_samples > 0) & (b.length_samples > 0)
    n_a, n_b = a.length_samples[shared], b.length_samples[shared]
    fires = [one.firing_by_length(thresholds)[feature_ids] for one in (a, b)]
    in_a, in_b = (one[:, shared] for one in fires)
    tested = np.flatnonzero((in_a + in_b).any(axis=1))
    p_values, log_odds = two_sided(in_a[tested], in_b[tested], n_a, n_b)
    q_values = false_discovery_control(p_values) if len(tested) else p_values
    found = np.flatnonzero(q_values < q)
    found = found[np.lexsort((tested[found], -np.abs(log_odds[found])))]
    rates = np.stack([one.sum(axis=1) / max(p.n_samples, 1) for one, p in zip(fires, (a, b), strict=True)], axis=1)
    return Differences(
        feature_ids[tested[found]], rates[tested[found]], log_odds[found], q_values[found], len(tested),
        (_share(n_a, a), _share(n_b, b)),
    )  # fmt: skip


def only_in(a: Coverage, b: Coverage) -> Ints:
    """Sorted ids of the target features that the one covers and the other does not."""
    return np.setdiff1d(a.covered, b.covered, assume_unique=True)


def _share(n: Ints, of: Profile) -> float:
    return float(n.sum() / max(of.n_samples, 1))
