"""Whether one set fires a feature more often than another among samples of the same length: counts in, numbers out."""

from __future__ import annotations

import numpy as np
from scipy.special import betainc

from facsynth.bins import Doubles, Ints


def mantel_haenszel(a: Ints, c: Ints, n1: Ints, n0: Ints) -> tuple[Doubles, Doubles]:
    """One-sided p-values of Cochran-Mantel-Haenszel, and shrunk log-odds, each [n_features].

    With a of n1 samples of the one and c of n0 of the other firing in a stratum of N, and m = a + c, the statistic is
    A = Σ a with mean Σ n1 m / N and variance Σ n1 n0 m (N - m) / (N² (N - 1)). Differs: its null distribution is taken
    as the binomial of that mean and variance, which nears the usual normal where counts are large and the exact one
    where they are small; the normal is wrong by orders of magnitude for a rare feature and a large other set.
    The log-odds are log (R + 1/2) / (S + 1/2) with R = Σ a (n0 - c) / N and S = Σ (n1 - a) c / N.

    Args:
        a: [n_features, n_strata], samples of the one set that fire.
        c: [n_features, n_strata], samples of the other.
        n1: [n_strata], all samples of the one; not 0.
        n0: [n_strata], of the other; not 0.
    """
    n1, n0 = n1.astype(np.float64), n0.astype(np.float64)
    n, m = n1 + n0, a + c
    observed = a.sum(axis=1).astype(np.float64)
    mean = (n1 * m / n).sum(axis=1)
    variance = (n1 * n0 * m * (n - m) / (n * n * (n - 1))).sum(axis=1)
    p = np.clip(1 - variance / np.maximum(mean, 1e-12), 1e-12, 1 - 1e-12)
    trials = np.maximum(mean / p - observed, 0) + 1
    p_values = np.where((observed > 0) & (variance > 0), betainc(np.maximum(observed, 1), trials, p), 1.0)
    rises, falls = (a * (n0 - c) / n).sum(axis=1), ((n1 - a) * c / n).sum(axis=1)
    return p_values, np.log((rises + 0.5) / (falls + 0.5))


def two_sided(a: Ints, c: Ints, n1: Ints, n0: Ints) -> tuple[Doubles, Doubles]:
    """As `mantel_haenszel`, for either set: twice the lower of both p-values; log-odds above 0 where `a` fires more."""
    (more, log_odds), (less, _) = mantel_haenszel(a, c, n1, n0), mantel_haenszel(c, a, n0, n1)
    return np.minimum(1.0, 2 * np.minimum(more, less)), log_odds
