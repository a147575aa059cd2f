"""Which features a method of an experiment attempts: those of the plan, a part of them, or others, for a control.

Before: `planning.planned` says what a run would attempt. After: `pipeline.run` writes for what is chosen here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from facsynth.coverage.plan import USUAL_SHARE, PlanRow
from facsynth.experimenting.settings import OTHERS
from facsynth.features.encode import FeatureSpace
from facsynth.features.encoded import Encoded
from facsynth.features.spans import best_spans
from facsynth.measure import Measured
from facsynth.planning import MOST_SPANS, Choose, Chosen, planned
from facsynth.records import Span
from facsynth.settings import RunSettings

SLACK = 1.25
"""Samples that features want together, as a multiple of the budget: some are given up."""


def chooser(kind: str, *, n: int, share: float = 1.0, wrong: float = 0.0) -> Choose:
    """What a method by features attempts for a budget of n samples.

    Args:
        kind: `fac`; `random-features`: as many others that the anchor fires, so none of those that are missing;
            `covered-features`: as many targets that the seed set covers; `shuffled-spans`: each is shown with the
            spans and explanation of another.
        n: accepted samples that are wanted: at most so many features are attempted, drawn at random, each with as many
            samples as make `SLACK` times that.
        share: of the planned features, so many are attempted.
        wrong: of those, so many are replaced by others that the anchor fires.
    """

    def choose(before: Measured, settings: RunSettings, out: Path, anchor: Encoded, space: FeatureSpace) -> Chosen:
        found = planned(before, settings, out, anchor, space)
        rng = np.random.default_rng(settings.rng_seed)
        own = [row for row in found.rows if row.group is None]
        own = _drawn(own, min(math.ceil(share * len(own)), n), rng)
        n_other = len(own) if kind in OTHERS else round(wrong * len(own))
        rates = _usual(before, anchor)
        excluded = {row.feature_id for row in found.rows} | set(before.coverage.missing.tolist())
        if kind == "covered-features":
            excluded |= rates.keys() - set(before.coverage.covered.tolist())
        others = _others({feature: rate for feature, rate in rates.items() if feature not in excluded}, n_other, rng)
        kept = [] if kind in OTHERS else _drawn(own, len(own) - len(others), rng)
        leaders = {row.feature_id for row in kept}
        each = math.ceil(SLACK * n / max(len(kept) + len(others), 1))
        rows = [
            *(replace(row, n_wanted=max(row.n_wanted, each)) for row in (*kept, *others)),
            *(row for row in found.rows if row.group in leaders),
        ]
        spans = {row.feature_id: found.spans[row.feature_id] for row in rows if row.feature_id in found.spans}
        ids = [row.feature_id for row in others]
        spans |= best_spans(anchor, space.backbone.tokenizer, ids, n_spans=MOST_SPANS)
        if kind == "shuffled-spans":
            rows, spans = _exchanged(rows, spans, rng)
        return Chosen(rows, spans, found.n_planned)

    return choose


def _drawn(rows: Sequence[PlanRow], n: int, rng: np.random.Generator) -> list[PlanRow]:
    """N of the rows, in their order."""
    if n >= len(rows):
        return list(rows)
    return [rows[place] for place in sorted(rng.choice(len(rows), n, replace=False).tolist())]


def _usual(before: Measured, anchor: Encoded) -> dict[int, float]:
    """Features that enough anchor samples fire, and not more than half, with the share that does."""
    firing = anchor.profile.firing_samples(before.thresholds)
    rates = firing / anchor.profile.n_samples
    fires = np.flatnonzero((firing >= before.targets.anchor_support) & (rates <= USUAL_SHARE))
    return dict(zip(fires.tolist(), rates[fires].tolist(), strict=True))


def _others(rates: Mapping[int, float], n: int, rng: np.random.Generator) -> list[PlanRow]:
    """N of these features, written for as missing ones are."""
    drawn = rng.choice([*rates], min(n, len(rates)), replace=False).tolist() if n else []
    return [PlanRow(int(i), "missing", 1, rates[i], 0.0, keep=True) for i in drawn]


def _exchanged(
    rows: Sequence[PlanRow], spans: dict[int, list[Span]], rng: np.random.Generator
) -> tuple[list[PlanRow], dict[int, list[Span]]]:
    """Each row with the explanation and the spans of another: they go round in a random order."""
    order = rng.permutation(len(rows)).tolist()
    giver = {order[place]: order[place - 1] for place in range(len(order))}
    exchanged = [replace(row, explanation=rows[giver[n]].explanation) for n, row in enumerate(rows)]
    return exchanged, {row.feature_id: spans[rows[giver[n]].feature_id] for n, row in enumerate(rows)}
