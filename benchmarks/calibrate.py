"""Which threshold, supports and relevance tell a broad set from a narrow one: the grid behind the defaults.

    python benchmarks/calibrate.py ANCHOR NARROW BACKGROUND

Three folders of `facsynth encode`. Targets come from one half of the anchor; the other half should cover at least
0.95 of them, the narrow set, at the same number of tokens, at most 0.45. The mean of both directions is printed.
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
LOG_ODDS = (0.69, 1.1, 1.6)


def one_direction(
    half: Profile, other: Profile, narrow: Profile, background: Profile, *,
    threshold: str, support: int, min_support: int, relevance: str, log_odds: float,
) -> tuple[float, float, int]:  # fmt: skip
    """(coverage of the other half, of the narrow set, number of targets), both at the smaller one's tokens."""
    limits = feature_thresholds(Threshold.parse(threshold), half, background)
    found = everything(half) if relevance == "all" else contrast(half, background, limits, min_log_odds=log_odds)
    aims = targets(half, limits, found.feature_ids, support)
    if not len(aims.feature_ids):
        return float("nan"), float("nan"), 0
    n_tokens = min(other.n_tokens, narrow.n_tokens)
    broad, low = (rarefied(p, aims, limits, samples_within(p, n_tokens), min_support) for p in (other, narrow))
    return broad, low, len(aims.feature_ids)


def main(anchor: str, narrow: str, background: str) -> None:
    """Print the grid."""
    halves = Encoded.open(Path(anchor)).halves()
    narrow_set, ground = Encoded.open(Path(narrow)).profile, Encoded.open(Path(background)).profile
    print(f"tokens: halves {halves[0].n_tokens}, {halves[1].n_tokens}; narrow {narrow_set.n_tokens}")
    columns = ("threshold", "relevance", "log-odds", "anchor support", "min support", "targets", "half", "narrow")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for threshold, relevance, support, min_support in product(THRESHOLDS, ("all", "contrast"), (3, 5, 10), (1, 2)):
        for log_odds in LOG_ODDS if relevance == "contrast" else (0.0,):
            rows = [
                one_direction(
                    a, b, narrow_set, ground, threshold=threshold, support=support,
                    min_support=min_support, relevance=relevance, log_odds=log_odds,
                )
                for a, b in (halves, halves[::-1])
            ]  # fmt: skip
            broad, low, n = np.mean(rows, axis=0)
            cells = (threshold, relevance, log_odds, support, min_support, f"{n:.0f}", f"{broad:.3f}", f"{low:.3f}")
            print(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
