"""How many features n samples fire: rarefaction, extrapolation, and what a source has. Counts in, numbers out.

A feature is to samples what a species is to plots; the formulas are those of ecology (Colwell et al. 2012).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import betaln, gammaln
from scipy.stats import betabinom

from facsynth.errors import InputError


def expected_coverage(
    firing_samples: npt.ArrayLike, n_samples: int, n_drawn: int, n_target: int, min_support: npt.ArrayLike = 1
) -> float:
    """Coverage to expect of `n_drawn` of the samples, drawn without replacement: rarefaction, exact.

        Σ_i P(X_i >= min_support) / n_target,   X_i ~ hypergeometric(n_samples, firing_samples_i, n_drawn)

    and with min_support 1 that is Σ [1 - C(n-Y, t) / C(n, t)] / n_target (Colwell et al. 2012).

    Args:
        firing_samples: [n_target], how many of the samples fire each target feature.
        n_samples: how many samples there are.
        n_drawn: how many are drawn, at most n_samples.
        n_target: divides the sum; features that are not listed count as never fired.
        min_support: how many samples cover a feature: one number, or [n_target].

    Raises:
        InputError: more to draw than there are, or no target features.
    """
    y = np.asarray(firing_samples, dtype=np.float64)
    if not 0 <= n_drawn <= n_samples:
        raise InputError(f"cannot draw {n_drawn} of {n_samples} samples\nDraw at most {n_samples}.")
    if n_target < 1:
        raise InputError("coverage of no target features is not defined")
    uncovered = np.zeros_like(y)
    support = np.broadcast_to(np.asarray(min_support), y.shape)
    for k in range(int(support.max(initial=0))):
        possible = (k < support) & (k <= y) & (k <= n_drawn) & (n_drawn - k <= n_samples - y)
        log_p = _log_choose(y, k) + _log_choose(n_samples - y, n_drawn - k) - _log_choose(n_samples, n_drawn)
        uncovered += np.where(possible, np.exp(np.where(possible, log_p, 0.0)), 0.0)
    return float(np.clip(1 - uncovered, 0, 1).sum() / n_target)


def extrapolated_coverage(
    firing_samples: npt.ArrayLike, n_samples: int, n_wanted: float, min_support: npt.ArrayLike = 1
) -> float:
    """Coverage to expect of `n_wanted` >= n_samples samples of the same kind, by a beta-binomial fit.

    The features' rates are taken as beta distributed, fitted to the counts by maximum likelihood; the m further
    samples then fire a feature that y of the n fire as a beta-binomial(m, a + y, b + n - y).

    Chao2 (Colwell et al. 2012), the usual way, does not know how many features there are to find: over 20
    simulated settings of 80 features, from 30 or 100 samples to 3 and 10 times as many, its root mean square errors
    were 0.09 and 0.18, these are 0.07 and 0.09. Leans low where no rate is near 0, high where some are 0.

    Args:
        firing_samples: [n_target], how many of the samples fire each feature; 0 for those that none fires.
        n_samples: how many samples there are.
        n_wanted: how many there would be.
        min_support: how many samples cover a feature: one number, or [n_target].

    Raises:
        InputError: no samples, or no features.
    """
    y = np.asarray(firing_samples, dtype=np.int64)
    if n_samples < 1 or len(y) < 1:
        raise InputError(f"nothing to extrapolate from: {n_samples} samples, {len(y)} target features")
    counts, n_features = np.unique(y, return_counts=True)

    def surprise(log_shape: npt.NDArray[np.float64]) -> float:
        a, b = np.exp(log_shape)
        return -float((n_features * (betaln(counts + a, n_samples - counts + b) - betaln(a, b))).sum())

    fit = minimize(surprise, x0=np.array([-1.0, 3.0]), method="L-BFGS-B", bounds=[(-6, 6), (-6, 12)])
    a, b = np.exp(fit.x)
    further = round(n_wanted) - n_samples
    lacking = np.broadcast_to(np.asarray(min_support), y.shape) - y
    return float(betabinom.sf(lacking - 1, further, a + y, b + n_samples - y).mean())


class Richness(NamedTuple):
    """What a set says of the source that it was drawn from."""

    n_found: int
    """Target features that some sample fires."""
    n_reachable: float
    """Chao2's lower bound on the target features that more samples of the source would fire; at most all."""
    completeness: float | None
    """Good-Turing sample coverage: of the next firing from the same source, the chance that its feature is known; None
    where one sample, or no firing, cannot say.
    """


def richness(firing_samples: npt.ArrayLike, n_samples: int, *, n_chosen: int = 0) -> Richness:
    """Chao2 and Good-Turing sample coverage, of samples drawn from one source (Chao et al. 2014, for incidence).

    With S features found, Q1 and Q2 of them in exactly one and two of m samples, and U firings in all:

        n_reachable  = S + (m-1)/m · Q1² / (2 Q2),   and with Q1 (Q1-1) / 2 in place of the fraction where Q2 = 0
        completeness = 1 - Q1/U · (m-1) Q1 / ((m-1) Q1 + 2 Q2)

    A lower bound it is: features that are very rare are not seen by it. Never the number of features there are.

    Args:
        firing_samples: [n_target], how many of the samples fire each target feature; 0 for those that none fires.
        n_samples: how many samples there are.
        n_chosen: how many of them were selected or written to fire something.

    Raises:
        InputError: some were chosen: such a set was drawn from no source that more could be drawn from; or there are
            no samples.
    """
    if n_chosen:
        raise InputError(
            f"{n_chosen} of the samples were chosen or written for features: how many more features such samples would "
            "fire cannot be said from them\nAsk it of the seed set, or of another set that was drawn from one source."
        )
    if n_samples < 1:
        raise InputError("nothing can be said of a source from no samples")
    y = np.asarray(firing_samples, np.int64)
    found, once, twice, firings = ((y > 0).sum(), (y == 1).sum(), (y == 2).sum(), y.sum())
    rest = (n_samples - 1) / n_samples
    unseen = rest * (once**2 / (2 * twice) if twice else once * (once - 1) / 2)
    more = (n_samples - 1) * once
    unknown = float(once / firings * more / max(more + 2 * twice, 1)) if firings else 0.0
    known = 1 - unknown if firings and n_samples > 1 else None
    return Richness(int(found), min(float(found + unseen), float(len(y))), known)


def _log_choose(n: npt.ArrayLike, k: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Log C(n, k); meaningless where not 0 <= k <= n, which the caller masks."""
    a, b = np.asarray(n, dtype=np.float64), np.asarray(k, dtype=np.float64)
    log: npt.NDArray[np.float64] = gammaln(a + 1) - gammaln(np.maximum(b, 0) + 1) - gammaln(np.maximum(a - b, 0) + 1)
    return log
