"""Which features of two spaces fire alike: mutual nearest neighbours by correlation, against what chance reaches.

Before: `matching` reads the pooled activations of one corpus in both spaces. Pure arithmetic: no disk, no model. Only
some rows of the correlations are held at once: all of 65,536 x 65,536 would take 17 GB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.stats import false_discovery_control

from facsynth.bins import Doubles, Floats, Ints
from facsynth.records import Progress, no_progress

BLOCK_ENTRIES = 1 << 22
"""Correlations held at once, 12 bytes each while they are made."""
ALIKE_LENGTH = 50
"""Samples are shuffled among at least so many of about their length."""
GROUP_FEATURES = 400
"""Features of about one rarity, at least, that are held against what chance does to them."""
FALSE_SHARE = 0.05
"""Of the pairs that count as counterparts, at most so many are expected to be chance."""


class Group(NamedTuple):
    """Features of A of about one rarity, and what chance does to them."""

    support: tuple[int, int]
    """Fewest and most samples that fire one of them."""
    n_features: int
    n_counterparts: int
    paired_by_chance: float
    """Share of them that have a mutual nearest neighbour though the samples are shuffled."""
    null: float
    """0.95 quantile of the correlation of those; 0 where there are none."""


@dataclass(frozen=True, eq=False)
class Matches:
    """Mutual nearest neighbours, all of them; those that chance does not explain are counterparts."""

    feature_a: Ints
    """[n_pairs], ascending."""
    feature_b: Ints
    correlation: Floats
    support_a: Ints
    """[n_pairs], samples that fire the feature."""
    support_b: Ints
    null: Floats
    """[n_pairs], that of the pair's group."""
    q_values: Doubles
    """[n_pairs]"""
    eligible_a: Ints
    """Sorted ids of the features with enough support to be paired."""
    eligible_b: Ints
    groups: Sequence[Group] = ()
    """The rarest first."""

    @property
    def is_counterpart(self) -> npt.NDArray[np.bool_]:
        """[n_pairs], whether the correlation is higher than chance explains."""
        return (self.q_values <= FALSE_SHARE) & (self.correlation > self.null)

    @property
    def counterparts(self) -> dict[int, int]:
        """Feature of A to feature of B."""
        pairs = (ids[self.is_counterpart].tolist() for ids in (self.feature_a, self.feature_b))
        return dict(zip(*pairs, strict=True))


def match(
    a: csr_array,
    b: csr_array,
    n_tokens: Ints,
    *,
    min_support: int,
    n_shuffles: int,
    rng_seed: int = 0,
    block_entries: int = BLOCK_ENTRIES,
    progress: Progress = no_progress,
) -> Matches:
    """Pair the features of two spaces that fire on the same samples.

    A pair are mutual nearest neighbours by the Pearson correlation of their pooled activations. What chance does is
    seen by pairing anew with the samples of `b` shuffled, each among samples of about its length, since longer ones
    fire everything more. Rare features reach more by chance than common ones, so the p-value of a feature of A is its
    rank among what the features of about its rarity reached in all shuffles, 0 where they had no mutual neighbour.
    Benjamini-Hochberg over all features of A that can be paired: of unrelated spaces no counterpart is told, nor where
    fewer than about 1 in 100 features have one.

    Args:
        a: [n_samples, d_a], pooled activations, 0 where a feature does not fire.
        b: [n_samples, d_b], of the same samples in the same order.
        n_tokens: [n_samples], content tokens.
        min_support: samples that must fire a feature, or it is not paired.
        n_shuffles: how often samples are shuffled.
        rng_seed: of the shuffles.
        block_entries: correlations held at once.
        progress: told of the shuffles.
    """
    left, right = (_Side.of(matrix, min_support) for matrix in (a, b))
    progress("pairing features", 0, n_shuffles + 1)
    nearest, reached = _mutual(left, right, block_entries)
    rng, by_chance = np.random.default_rng(rng_seed), []
    for done in range(n_shuffles):
        progress("pairing features", done + 1, n_shuffles + 1)
        rows = shuffled_rows(n_tokens, rng)
        by_chance.append(_mutual(left, right._replace(scaled=right.scaled[rows]), block_entries)[1])
    progress("pairing features", n_shuffles + 1, n_shuffles + 1)
    return _told(left, right, nearest, reached, np.array(by_chance))


def shuffled_rows(n_tokens: Ints, rng: np.random.Generator) -> Ints:
    """An order of the samples in which each stands where one of about its length stood."""
    n = len(n_tokens)
    rows = np.arange(n)
    for alike in np.array_split(np.argsort(n_tokens, kind="stable"), max(1, n // ALIKE_LENGTH)):
        rows[alike] = rng.permutation(alike)
    return rows


class _Side(NamedTuple):
    """The features of one space that can be paired."""

    ids: Ints
    support: Ints
    scaled: csr_array
    """[n_samples, n_features], activations over their standard deviation and the root of n_samples."""
    means: Doubles
    """[n_features], so that sums of products of `scaled`, less products of these, are correlations."""

    @classmethod
    def of(cls, activations: csr_array, min_support: int) -> _Side:
        """Features that fire in enough samples, and not in all to the same degree."""
        n, d = activations.shape
        weights = activations.data.astype(np.float64)
        support = np.bincount(activations.indices, minlength=d)
        total, square = (np.bincount(activations.indices, w, d) for w in (weights, weights**2))
        spread = np.sqrt(np.maximum(square - total**2 / n, 0))
        ids = np.flatnonzero((support >= max(min_support, 1)) & (spread > 1e-6 * np.sqrt(square)))
        kept = activations[:, ids].astype(np.float64)
        kept.data /= spread[ids][kept.indices]
        return cls(ids, support[ids], kept, total[ids] / spread[ids] / np.sqrt(n))


def _mutual(a: _Side, b: _Side, block_entries: int) -> tuple[Ints, Floats]:
    """Of each feature of `a` the nearest of `b`, and their correlation where they are mutual; 0 where not, or below.

    Of equally near ones the first is taken.
    """
    n_a, n_b = len(a.ids), len(b.ids)
    nearest_b, reached = np.zeros(n_a, np.int64), np.zeros(n_a, np.float32)
    if not n_a or not n_b:
        return nearest_b, reached
    nearest_a, highest = np.zeros(n_b, np.int64), np.full(n_b, -2, np.float32)
    for start, block in _correlations(a, b, max(1, block_entries // n_b)):
        rows = np.arange(start, start + len(block))
        nearest_b[rows] = block.argmax(axis=1)
        reached[rows] = block[rows - start, nearest_b[rows]]
        best = block.argmax(axis=0)
        values = block[best, np.arange(n_b)]
        better = values > highest
        nearest_a[better], highest[better] = start + best[better], values[better]
    is_mutual = nearest_a[nearest_b] == np.arange(n_a)
    return nearest_b, np.where(is_mutual & (reached > 0), reached, np.float32(0))


def _correlations(a: _Side, b: _Side, n_rows: int) -> Iterator[tuple[int, Floats]]:
    """Blocks of rows of [n_a, n_b], each with the number of its first row."""
    left = a.scaled.T.tocsr()
    for start in range(0, len(a.ids), n_rows):
        block = (left[start : start + n_rows] @ b.scaled).toarray()
        block -= np.outer(a.means[start : start + n_rows], b.means)
        yield start, block.astype(np.float32)


def _told(a: _Side, b: _Side, nearest: Ints, reached: Floats, by_chance: Floats) -> Matches:
    """What was reached against what chance reached; the arguments are those of `_mutual` and `_against`."""
    group = _by_rarity(a.support)
    q_values, null = _against(reached, by_chance, group)
    paired = np.flatnonzero(reached)
    found = Matches(
        feature_a=a.ids[paired],
        feature_b=b.ids[nearest[paired]],
        correlation=reached[paired],
        support_a=a.support[paired],
        support_b=b.support[nearest[paired]],
        null=null[group][paired],
        q_values=q_values[paired],
        eligible_a=a.ids,
        eligible_b=b.ids,
    )
    counted = np.bincount(group[paired[found.is_counterpart]], minlength=len(null))
    supports = [a.support[group == n] for n in range(len(null))]
    groups = [
        Group(
            (int(inside.min()), int(inside.max())), len(inside), int(counted[n]),
            float((by_chance[:, group == n] > 0).mean()), float(null[n]),
        )
        for n, inside in enumerate(supports)
    ]  # fmt: skip
    return replace(found, groups=groups)


def _by_rarity(support: Ints) -> Ints:
    """[n], the group of each feature, 0 the rarest; features of equal support are in one."""
    n_groups = max(1, len(support) // GROUP_FEATURES)
    firsts = np.unique(np.sort(support)[np.arange(n_groups) * len(support) // n_groups]) if len(support) else support
    return np.searchsorted(firsts[1:], support, side="right")


def _against(reached: Floats, by_chance: Floats, group: Ints) -> tuple[Doubles, Floats]:
    """q-values [n], and the null of each group [n_groups].

    Args:
        reached: [n], 0 where there is no mutual neighbour.
        by_chance: [n_shuffles, n], likewise.
        group: [n]
    """
    n_groups = int(group.max(initial=-1)) + 1
    p_values, null = np.ones(len(reached)), np.zeros(n_groups, np.float32)
    for number in range(n_groups):
        inside = group == number
        chance = np.sort(by_chance[:, inside], axis=None)
        n_above = len(chance) - np.searchsorted(chance, reached[inside], side="left")
        p_values[inside] = (1 + n_above) / (1 + len(chance))
        if chance[-1] > 0:
            null[number] = np.quantile(chance[chance > 0], 0.95)
    return (false_discovery_control(p_values) if len(p_values) else p_values), null
