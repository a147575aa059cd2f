"""The metric: target features, coverage, missing and under-represented. Pure arithmetic on profiles.

After `features` and `meaning`, whose profiles and feature ids it is handed; before `plan`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr
from scipy.stats import false_discovery_control

from facsynth.bins import Floats, Ints
from facsynth.coverage.richness import expected_coverage
from facsynth.errors import InputError
from facsynth.profile import Profile, check_same_space


@dataclass(frozen=True, eq=False)
class Targets:
    """What is to be covered: T, with the anchor's feature space."""

    feature_ids: Ints
    """Sorted."""
    n_thin: int
    """Relevant features that some anchor samples fire, but fewer than `anchor_support`: outside T."""
    n_relevant: int
    anchor_support: int
    identity: Mapping[str, str]
    """Of the anchor: what sets that are measured must share."""


@dataclass(frozen=True, eq=False, repr=False)
class Coverage:
    """The share of target features that a set covers."""

    value: float
    """In [0, 1]."""
    covered: Ints
    """Sorted feature ids, as is `missing`."""
    missing: Ints
    n_target: int
    n_thin: int
    min_support: int
    n_samples: int
    n_tokens: int

    def __repr__(self) -> str:
        return f"Coverage {self.value:.3f}: {len(self.covered)} of {self.n_target} targets, {self.n_samples} samples"


@dataclass(frozen=True, eq=False)
class UnderRepresented:
    """Target features that a set covers, at a rate that is significantly too low; disjoint from its missing ones."""

    feature_ids: Ints
    """Sorted."""
    n_wanted: Ints
    """[n_under], how many samples it lacks, at least 1."""
    q_values: npt.NDArray[np.float64]
    """[n_under]."""


@dataclass(frozen=True, eq=False)
class Recovered:
    """The share of the missing features that seed set and accepted samples together activate."""

    value: float
    feature_ids: Ints
    """Sorted."""
    n_missing: int


def targets(
    anchor: Profile, thresholds: Floats, relevant: Collection[int] | Ints | None = None, anchor_support: int = 3
) -> Targets:
    """The target features T = relevant ∩ active(anchor): those that `anchor_support` anchor samples activate.

    Source: F(P_Z), arXiv 2602.10388, eq. 5. Differs: there one firing sample is enough.

    Args:
        anchor: the set that spans the task.
        thresholds: [d_sae], from `threshold.feature_thresholds`.
        relevant: feature ids that matter to the task; None means all.
        anchor_support: how many samples above the threshold make a feature active; below it is thin.

    Raises:
        InputError: a relevant feature id that the SAE does not have.
    """
    firing = anchor.firing_samples(thresholds)
    ids = np.arange(anchor.d_sae) if relevant is None else np.unique(np.fromiter(relevant, np.int64))
    if len(ids) and not 0 <= ids[0] <= ids[-1] < anchor.d_sae:
        raise InputError(f"relevant feature {ids[-1]} is not one of the SAE's {anchor.d_sae} features")
    n_thin = int(((firing[ids] > 0) & (firing[ids] < anchor_support)).sum())
    return Targets(ids[firing[ids] >= anchor_support], n_thin, len(ids), anchor_support, anchor.identity)


def coverage(seed_set: Profile, targets: Targets, thresholds: Floats, min_support: int = 1) -> Coverage:
    """Share of the target features that the seed set activates too.

    A feature is active in a set when at least `min_support` samples' pooled activations are above its threshold:

        coverage = |active(seed_set) ∩ T| / |T|

    Source: FAC = |F(Q)| / |F(P)|, arXiv 2602.10388, section 5.2 with eq. 4 (active: g > δ) and eq. 5; missing is
    eq. 6. Differs: taken over the intersection with T, so that it stays in [0, 1] and features of no concern to the
    task cannot raise it; thresholds may differ between features.

    Args:
        seed_set: profile of maxima over content tokens, ≥ 0, in the SAE's own units, from the anchor's space.
        targets: T, from `targets`.
        thresholds: [d_sae], the ones that T was made with.
        min_support: how many samples of the seed set cover a feature; 1 in the paper.

    Raises:
        MismatchError: the seed set comes from another SAE, hook point, form … than the anchor.
        InputError: T is empty. Coverage of nothing is neither 0 nor 1.
    """
    _check(seed_set, targets)
    firing = seed_set.firing_samples(thresholds)[targets.feature_ids]
    covered = targets.feature_ids[firing >= min_support]
    return Coverage(
        value=len(covered) / len(targets.feature_ids),
        covered=covered,
        missing=targets.feature_ids[firing < min_support],
        n_target=len(targets.feature_ids),
        n_thin=targets.n_thin,
        min_support=min_support,
        n_samples=seed_set.n_samples,
        n_tokens=seed_set.n_tokens,
    )


def rarefied(samples: Profile, targets: Targets, thresholds: Floats, n_samples: int, min_support: int = 1) -> float:
    """Coverage to expect of `n_samples` drawn from a larger set.

    To compare two sets at equal samples or tokens, give the smaller one's number to the larger one. A half of the
    anchor, measured so against the targets of the other half, is the ceiling: what more data of that source reach.

    Raises:
        InputError: the set holds fewer, or T is empty.
    """
    _check(samples, targets)
    firing = samples.firing_samples(thresholds)[targets.feature_ids]
    return expected_coverage(firing, samples.n_samples, n_samples, len(firing), min_support)


def samples_within(samples: Profile, n_tokens: int) -> int:
    """How many of the samples hold `n_tokens`, on average; at most all."""
    return round(samples.n_samples * min(1.0, n_tokens / max(samples.n_tokens, 1)))


def saturation_warning(
    anchor: Profile,
    targets: Targets,
    thresholds: Floats,
    min_support: int = 1,
    *,
    share: float = 0.1,
    level: float = 0.95,
) -> bool:
    """Whether a tenth of the anchor already covers nearly all targets: coverage would tell sets hardly apart."""
    n_drawn = max(1, int(share * anchor.n_samples))
    return rarefied(anchor, targets, thresholds, n_drawn, min_support) >= level


def under_represented(
    seed_set: Profile,
    anchor: Profile,
    targets: Targets,
    thresholds: Floats,
    *,
    deficit: float = 0.1,
    q: float = 0.05,
    min_support: int = 1,
) -> UnderRepresented:
    """Covered target features that the seed set fires at less than `deficit` times the anchor's rate.

    Both firing counts are taken as Poisson. Given their sum k, that of the seed set is binomial(k, p) with
    p = deficit n_seed / (deficit n_seed + n_anchor) where the rates stand in the ratio `deficit`; the one-sided
    p-value is P(X <= found), so the anchor's own uncertainty counts. Benjamini-Hochberg at `q` over all of T.

    Raises:
        MismatchError: the two come from different feature spaces.
        InputError: T is empty.
    """
    _check(seed_set, targets)
    _check(anchor, targets)
    found = seed_set.firing_samples(thresholds)[targets.feature_ids]
    known = anchor.firing_samples(thresholds)[targets.feature_ids]
    n_seed = deficit * seed_set.n_samples
    p_values = bdtr(found.astype(np.float64), found + known, n_seed / (n_seed + anchor.n_samples))
    q_values = false_discovery_control(p_values)
    is_under = (q_values <= q) & (found >= min_support)
    lacking = np.ceil(n_seed * known / anchor.n_samples - 1e-9).astype(np.int64) - found
    return UnderRepresented(
        targets.feature_ids[is_under], np.maximum(lacking[is_under], 1), q_values[is_under].astype(np.float64)
    )


def recovered(missing: Ints, filled: Profile, thresholds: Floats, min_support: int = 1) -> Recovered:
    """Share of the `missing` features that `filled`, the seed set with the accepted samples, activates.

    The denominator is the one of the paper's printed figures: the features that were missing at first.

    Raises:
        InputError: nothing was missing.
    """
    if len(missing) == 0:
        raise InputError("no features are missing, so none can be recovered")
    found = np.sort(missing[filled.firing_samples(thresholds)[missing] >= min_support])
    return Recovered(len(found) / len(missing), found, len(missing))


def no_targets(targets: Targets, limit: int | None = None) -> InputError:
    """Why T is empty, and the way out; `limit` is how many samples of each file were read of the anchor."""
    larger = "Give a larger anchor"
    if limit is not None:
        larger = f"data.limit (--limit) cuts the anchor too, to {limit} of each file: raise it. Or give a larger anchor"
    if targets.n_relevant == 0:
        return InputError(
            "there are no target features: no feature sets the anchor apart from the background\n"
            f"{larger}, one of another kind than the background, or take every feature that it fires: "
            "coverage.relevance: all (--relevance all)."
        )
    return InputError(
        f"there are no target features: of {targets.n_relevant} relevant ones, {targets.n_thin} are thin and the "
        f"rest never fires in the anchor\n{larger}, a lower coverage.threshold (--threshold), or a smaller "
        f"coverage.anchor_support ({targets.anchor_support})."
    )


def _check(samples: Profile, targets: Targets) -> None:
    if len(targets.feature_ids) == 0:
        raise no_targets(targets)
    check_same_space(targets.identity, samples.identity, ("anchor", "measured"))
