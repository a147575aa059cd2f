"""Which features matter to the task, without an LLM: those the anchor fires more often than a background does.

After `features`, before `coverage`. Sees only what sets the anchor apart: what both share counts as not relevant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import false_discovery_control

from facsynth.bins import Doubles, Floats, Ints
from facsynth.errors import InputError
from facsynth.profile import SCALE_KEYS, Profile, check_same_space
from facsynth.strata import mantel_haenszel


@dataclass(frozen=True, eq=False)
class Relevance:
    """The features that matter to the task, and how that was found."""

    method: str
    """contrast, judge, contrast+judge or all."""
    feature_ids: Ints
    """Sorted."""
    log_odds: Doubles
    """[n_features], shrunk; empty for "all" and "judge", as are the `q_values`."""
    q_values: Doubles
    n_tested: int
    dropped_share: float
    """Share of the anchor samples whose length no background sample has."""


def everything(anchor: Profile) -> Relevance:
    """Every feature that the anchor fires at all. Mostly words and syntax."""
    ids = np.flatnonzero(anchor.firing_samples(np.zeros(anchor.d_sae, np.float32)))
    none = np.zeros(0, np.float64)
    return Relevance("all", ids, none, none, len(ids), 0.0)


def contrast(
    anchor: Profile, background: Profile, thresholds: Floats, *, q: float = 0.05, min_log_odds: float = math.log(3)
) -> Relevance:
    """Features that anchor samples fire more often than background samples of the same length.

    One-sided Cochran-Mantel-Haenszel over half octaves of content length (`strata`), Benjamini-Hochberg at `q`, and
    shrunk log-odds of at least `min_log_odds` (log 3: calibrated, docs/LOG.md). Strata that lack either set are
    dropped.

    Raises:
        MismatchError: another model, SAE, hook point or codes.
        InputError: over half of the anchor samples lie in dropped strata.
    """
    check_same_space(anchor.identity, background.identity, ("anchor", "background"), SCALE_KEYS)
    shared = (anchor.length_samples > 0) & (background.length_samples > 0)
    dropped = 1 - anchor.length_samples[shared].sum() / max(anchor.n_samples, 1)
    if dropped > 0.5:
        raise InputError(
            f"{dropped:.0%} of the anchor samples are of a length that no background sample has\n"
            "Give a background with texts as long as the anchor's: coverage.background (--background); or take every "
            "feature: coverage.relevance: all (--relevance all)."
        )
    a = anchor.firing_by_length(thresholds)[:, shared]
    c = background.firing_by_length(thresholds)[:, shared]
    tested = np.flatnonzero((a + c).any(axis=1))
    n1, n0 = anchor.length_samples[shared], background.length_samples[shared]
    p_values, log_odds = mantel_haenszel(a[tested], c[tested], n1, n0)
    q_values = false_discovery_control(p_values) if len(tested) else p_values
    found = (q_values < q) & (log_odds >= min_log_odds)
    return Relevance("contrast", tested[found], log_odds[found], q_values[found], len(tested), float(dropped))


def kept(found: Relevance, feature_ids: Ints, method: str) -> Relevance:
    """Those that `feature_ids` has too."""
    inside = np.isin(found.feature_ids, feature_ids)
    log_odds, q_values = (column[inside] if len(column) else column for column in (found.log_odds, found.q_values))
    return Relevance(method, found.feature_ids[inside], log_odds, q_values, found.n_tested, found.dropped_share)
