"""Which features are of no use as something to write for, before anybody is asked about them.

Before: an encoded anchor and its thresholds. After: the plan leaves them out, and `explain` asks nobody about them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from facsynth.bins import Floats
from facsynth.features.draw import draw
from facsynth.features.encoded import Encoded
from facsynth.meaning.free import firing_tokens, screened

N_SPANS = 20
"""By which a feature is screened."""


class Screened(NamedTuple):
    """What is known of a feature without asking."""

    why_not: str
    """Empty where nothing speaks against it."""
    fires_on: str
    """The tokens that fire it most."""


def screen(
    anchor: Encoded, tokenizer: Any, feature_ids: Sequence[int], thresholds: Floats, rng_seed: int
) -> dict[int, Screened]:
    """Screen some features by their spans in the anchor; `thresholds` are [d_sae]."""
    drawn = draw(anchor, tokenizer, feature_ids, thresholds, n_firing=N_SPANS, n_silent=0, rng_seed=rng_seed)
    return {
        i: Screened(screened(found.firing, found.distinct_share), firing_tokens(found.firing))
        for i, found in drawn.items()
    }
