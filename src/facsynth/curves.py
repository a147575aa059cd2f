"""`coverage/curves.json` and `curves_after.json`: coverage over samples, tokens and thresholds; for the report.

Before: `measure` has measured, and `pipeline` filled. After: `report`, which draws them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from facsynth.coverage.coverage import coverage
from facsynth.features.encoded import Encoded
from facsynth.measure import Measured
from facsynth.profile import Profile
from facsynth.scale import Curve, curve_of, token_cover


def curves_before(before: Measured, seed_set: Profile) -> dict[str, Any]:
    """Curves of the seed set and of a half of the anchor, null where it cannot be halved."""
    scale = before.scale
    return {
        "seed": None if scale is None else _points(scale.curve),
        "ceiling": None if scale is None else _points(scale.ceiling_curve),
        "thresholds": _over_thresholds(before, seed_set),
    }


def curves_after(before: Measured, parts: Sequence[Encoded], filled: Profile) -> dict[str, Any]:
    """Curves of seed set and accepted samples, and at which rate they fire what was missing or under-represented;
    `filled` is the profile of all `parts`.
    """
    aims = before.targets, before.thresholds, before.coverage.min_support
    rates = filled.firing_samples(before.thresholds) / filled.n_samples
    return {
        "filled": _points(curve_of(filled, token_cover(parts, *aims), *aims)),
        "thresholds": _over_thresholds(before, filled),
        "rates": [
            [i, round(float(rates[i]), 6)]
            for i in (*before.coverage.missing.tolist(), *before.under.feature_ids.tolist())
        ],
    }


def _over_thresholds(before: Measured, samples: Profile) -> list[dict[str, Any]]:
    found = []
    for other in before.others:
        value = coverage(samples, other.targets, other.thresholds, before.coverage.min_support).value
        found.append({"threshold": other.threshold, "n_target": len(other.targets.feature_ids), "value": value})
    return found


def _points(curve: Curve) -> dict[str, Any]:
    return curve._asdict()
