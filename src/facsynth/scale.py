"""What a coverage is read against: the same at equal samples and tokens, a half of the anchor, other thresholds.

Before: encoded corpora. After: `measure`, which keeps the figures of a seed set, and `comparing`, of several.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np

from facsynth.bins import Doubles, Floats, Ints
from facsynth.coverage.coverage import Targets, rarefied, samples_within, targets
from facsynth.coverage.rarefaction import at_tokens, covered_at
from facsynth.coverage.threshold import Threshold, feature_thresholds
from facsynth.errors import InputError
from facsynth.features.encoded import Encoded
from facsynth.incidence import Incidence
from facsynth.meaning.relevance import Relevance, contrast, everything, kept
from facsynth.profile import Profile
from facsynth.settings import RunSettings

N_POINTS = 24
"""Of a curve."""
OTHER_THRESHOLDS = {
    "": ("0.0", "0.5", "1.0", "1.5", "2.0", "3.0", "4.0"),
    "r": tuple(f"r0.{tenth}" for tenth in range(1, 10)),
    "q": tuple(f"q{ten}" for ten in range(10, 100, 10)),
}
"""Of the same kind as the one that was asked for; the absolute ones as in arXiv 2602.10388, figure 6."""


class Curve(NamedTuple):
    """Coverage to expect of fewer samples, and of fewer tokens."""

    samples: list[tuple[int, float]]
    """(number of samples, coverage), the last of all of them."""
    tokens: list[tuple[int, float]]
    """(number of content tokens, coverage)."""


@dataclass(frozen=True)
class Scale:
    """What coverage is read against, each in [0, 1]: a half of the anchor against the targets of the other half.

    Thresholds, relevance and targets of the other half are found anew, so that the half had no part in them. They are
    fewer and commoner than those of the whole anchor, so the seed set is set against them too.
    """

    ceiling: float
    """At the number of samples of the smaller of seed set and half, as is `at_equal_samples`."""
    at_equal_samples: float
    """What the seed set covers of the same targets there."""
    ceiling_at_equal_tokens: float | None
    """At the number of tokens of the smaller of the two, as is `at_equal_tokens`; None where that is under a sample."""
    at_equal_tokens: float | None
    n_target: int
    """How many targets these four are shares of."""
    curve: Curve
    """Of the seed set, on the targets of the whole anchor."""
    ceiling_curve: Curve
    """Of the half."""


def aims_of(
    anchor: Profile, background: Profile | None, settings: RunSettings, judged: Ints | None = None
) -> tuple[Floats, Relevance, Targets]:
    """Thresholds, relevance and targets of an anchor; `judged` are the ids of what a judge holds relevant."""
    asked = settings.coverage
    threshold = Threshold.parse(asked.threshold)
    thresholds = feature_thresholds(threshold, anchor, background)
    is_contrast = background is not None and "contrast" in asked.relevance
    found = contrast(anchor, background, thresholds) if is_contrast and background else everything(anchor)
    if judged is not None:
        found = kept(found, judged, asked.relevance)
    support = asked.anchor_support or threshold.anchor_support
    return thresholds, found, targets(anchor, thresholds, found.feature_ids, support)


def scale_of(  # noqa: PLR0917 -- called once
    anchor: Encoded,
    seed_set: Encoded,
    background: Profile | None,
    aims: Targets,
    thresholds: Floats,
    settings: RunSettings,
    judged: Ints | None = None,
) -> Scale | None:
    """The scale of a seed set; None where the anchor is too small to be halved."""
    half, other = anchor.halves()
    try:
        its_thresholds, _, its_aims = aims_of(half, background, _with_support(settings, aims), judged)
    except InputError:  # too few samples of lengths that the background has
        return None
    if not len(its_aims.feature_ids) or not other.n_samples:
        return None
    own, min_support = seed_set.profile, settings.coverage.min_support
    of_seed = token_cover([seed_set], its_aims, its_thresholds, min_support)
    of_half = token_cover([anchor], its_aims, its_thresholds, min_support, side=1)
    n_samples, n_tokens = min(own.n_samples, other.n_samples), min(own.n_tokens, other.n_tokens)
    return Scale(
        ceiling=rarefied(other, its_aims, its_thresholds, n_samples, min_support),
        at_equal_samples=rarefied(own, its_aims, its_thresholds, n_samples, min_support),
        ceiling_at_equal_tokens=value_at(other, of_half, n_tokens),
        at_equal_tokens=value_at(own, of_seed, n_tokens),
        n_target=len(its_aims.feature_ids),
        curve=curve_of(own, token_cover([seed_set], aims, thresholds, min_support), aims, thresholds, min_support),
        ceiling_curve=curve_of(other, of_half, its_aims, its_thresholds, min_support),
    )


def token_cover(
    parts: Sequence[Encoded], aims: Targets, thresholds: Floats, min_support: int, *, side: int | None = None
) -> Doubles:
    """At how many tokens a set, in one part or several, covers each target, as `rarefaction.covered_at`.

    `side`: of one of the halves, as `Encoded.halves` gives them, alone.
    """
    ids, n_tokens = (np.concatenate(columns) for columns in zip(*(part.lengths() for part in parts), strict=True))
    rows: Iterator[Incidence] = chain.from_iterable(part.incidence(aims.feature_ids, thresholds) for part in parts)
    if side is not None:
        inside = ids % 2 == side
        ids, n_tokens = ids[inside], n_tokens[inside]
        rows = (row.where(row.ids % 2 == side) for row in rows)
    return covered_at(ids, n_tokens, rows, len(aims.feature_ids), min_support=min_support)


def value_at(samples: Profile, cover: Doubles, n_tokens: int) -> float | None:
    """Coverage at so many tokens; None where that is under a sample."""
    return float(at_tokens(cover, n_tokens)) if samples_within(samples, n_tokens) else None


def curve_of(samples: Profile, cover: Doubles, aims: Targets, thresholds: Floats, min_support: int) -> Curve:
    """A set's coverage over samples and tokens, at numbers that lie evenly on a log scale."""
    n_samples, n_tokens = (
        np.unique(np.geomspace(1, n, N_POINTS).round().astype(np.int64)) for n in (samples.n_samples, samples.n_tokens)
    )
    values = (rarefied(samples, aims, thresholds, int(n), min_support) for n in n_samples)
    return Curve(
        [(int(n), round(value, 5)) for n, value in zip(n_samples, values, strict=True)],
        [(int(n), round(float(value), 5)) for n, value in zip(n_tokens, at_tokens(cover, n_tokens), strict=True)],
    )


class Other(NamedTuple):
    """What would have been measured at another threshold."""

    threshold: str
    thresholds: Floats
    targets: Targets


def at_other_thresholds(
    anchor: Profile, background: Profile | None, settings: RunSettings, judged: Ints | None = None
) -> list[Other]:
    """Targets at the thresholds that could have been asked for too; where there are none is left out."""
    found = []
    for spec in OTHER_THRESHOLDS[Threshold.parse(settings.coverage.threshold).kind]:
        block = settings.coverage.model_copy(update={"threshold": spec})
        thresholds, _, aims = aims_of(anchor, background, settings.model_copy(update={"coverage": block}), judged)
        if len(aims.feature_ids):
            found.append(Other(spec, thresholds, aims))
    return found


def _with_support(settings: RunSettings, aims: Targets) -> RunSettings:
    """With the support that the targets were found with."""
    block = settings.coverage.model_copy(update={"anchor_support": aims.anchor_support})
    return settings.model_copy(update={"coverage": block})
