"""Which threshold, supports and relevance tell a broad set from a narrow one: the grid behind the defaults.

    python benchmarks/calibrate.py ANCHOR NARROW BACKGROUND

Two folders of `facsynth encode`, and a background profile (the background.npz beside an SAE). Targets come from one
half of the anchor; the other half should cover at least 0.95 of them, the narrow set, at the same number of tokens, at
most 0.45. A row is a threshold and a relevance; its cells are (other half, narrow set), the mean of both directions.
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import numpy as np

from facsynth.coverage.coverage import rarefied, samples_within, targets
from facsynth.coverage.threshold import Threshold, feature_thresholds
from facsynth.features.encoded import Encoded
from facsynth.meaning.relevance import contrast, everything
from facsynth.profile import Profile

THRESHOLDS = ("0.0", "1.0", "2.0", "4.0", "r0.2", "r0.3", "r0.4", "r0.5", "r0.6", "q90")
RELEVANCE = ("all", 0.69, 1.1, 1.6)
"""All features, or by contrast with at least this log-odds."""
ANCHOR_SUPPORTS = (3, 5, 10)
MIN_SUPPORTS = (1, 2)


def one_direction(
    half: Profile, other: Profile, narrow: Profile, background: Profile, threshold: str, relevance: str | float
) -> list[list[float]]:  # fmt: skip
    """[number of targets, (coverage of the other half, of the narrow set) by min support] by anchor support.

    Both at the smaller one's tokens.
    """
    limits = feature_thresholds(Threshold.parse(threshold), half, background)
    found = everything(half) if relevance == "all" else contrast(half, background, limits, min_log_odds=relevance)
    n_tokens = min(other.n_tokens, narrow.n_tokens)
    rows = []
    for support in ANCHOR_SUPPORTS:
        aims = targets(half, limits, found.feature_ids, support)
        shares = [
            rarefied(p, aims, limits, samples_within(p, n_tokens), min_support)
            for min_support in MIN_SUPPORTS
            for p in (other, narrow)
        ]
        rows.append([len(aims.feature_ids), *shares])
    return rows


def main(anchor: str, narrow: str, background: str) -> None:
    """Print the grid."""
    halves = Encoded.open(Path(anchor)).halves()
    narrow_set, ground = Encoded.open(Path(narrow)).profile, Profile.load(Path(background))
    print(f"tokens: halves {halves[0].n_tokens}, {halves[1].n_tokens}; narrow {narrow_set.n_tokens}")
    kinds = [f"anchor {support}, min {least}" for support in ANCHOR_SUPPORTS for least in MIN_SUPPORTS]
    columns = ("threshold", "log-odds ≥", f"targets at {', '.join(map(str, ANCHOR_SUPPORTS))}", *kinds)
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for threshold, relevance in product(THRESHOLDS, RELEVANCE):
        found = np.mean(
            [one_direction(a, b, narrow_set, ground, threshold, relevance) for a, b in (halves, halves[::-1])], axis=0
        )
        n_targets = ", ".join(f"{row[0]:.0f}" for row in found)
        shares = [f"{row[i]:.3f} {row[i + 1]:.3f}" for row in found for i in (1, 3)]
        print(f"| {' | '.join([threshold, str(relevance), n_targets, *shares])} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
