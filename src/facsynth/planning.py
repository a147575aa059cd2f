"""From figures to what is attempted: the plan of a run folder, and the list that is fixed before anything is written.

Before: `measure`, and the sheet of features where there is one. After: `pipeline` writes for what is fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facsynth import outcome
from facsynth.coverage.groups import concepts
from facsynth.coverage.plan import Known, PlanRow, attempted, grouped, make_plan, read_plan, write_plan
from facsynth.errors import MismatchError
from facsynth.features.draw import Drawn, draw
from facsynth.features.encode import FeatureSpace
from facsynth.features.encoded import Encoded
from facsynth.features.spans import best_spans
from facsynth.meaning.free import screened
from facsynth.meaning.sheet import SHEET, Note, read_notes
from facsynth.measure import Measured
from facsynth.records import Span
from facsynth.run_folder import check_plan_file
from facsynth.settings import RunSettings
from facsynth.store import file_sha256, fingerprint, read_json, write_json
from facsynth.synthesis.requests import FeatureTask

N_SCREENED = 20
"""Spans by which a feature is screened."""


def write_plan_file(
    before: Measured, anchor: Encoded, seed_set: Encoded, space: FeatureSpace, out: Path, *, rng_seed: int
) -> str:
    """Write `plan.csv`, ranked and grouped; one that a person changed, or that is being followed, stays.

    Returns:
        The sha256 of the plan as it was written last, by which `coverage/before.json` tells whether it was changed.
    """
    path, record = out / "plan.csv", out / "coverage" / "before.json"
    written = str(read_json(record).get("plan_sha256", "")) if record.exists() else ""
    if path.exists() and (file_sha256(path) != written or (out / "targets.json").exists()):
        return written
    ids, tokenizer, notes = _to_fill(before), space.backbone.tokenizer, read_notes(out / SHEET)
    drawn = draw(anchor, tokenizer, ids, before.thresholds, n_firing=N_SCREENED, n_silent=0, rng_seed=rng_seed)
    best = best_spans(anchor, tokenizer, ids, n_spans=1)
    known = {i: _known(drawn[i], best[i], notes.get(i, Note(i))) for i in ids}
    rows = make_plan(before.coverage, before.under, seed_set.profile, anchor.profile, before.thresholds, known=known)
    missing = [row.feature_id for row in rows if row.kind == "missing" and row.keep]
    directions = space.sae.W_dec[missing].float().cpu().numpy()
    firing = anchor.incidence(np.array(missing, np.int64), before.thresholds)
    write_plan(path, grouped(rows, concepts(missing, directions, firing)))
    return file_sha256(path)


def refresh_plan(
    before: Measured, anchor: Encoded, seed_set: Encoded, space: FeatureSpace, out: Path, *, rng_seed: int
) -> None:
    """Write a plan that nobody changed anew, once more is known of its features."""
    record = out / "coverage" / "before.json"
    plan = write_plan_file(before, anchor, seed_set, space, out, rng_seed=rng_seed)
    write_json(record, read_json(record) | {"plan_sha256": plan})


def fix_targets(
    before: Measured, settings: RunSettings, out: Path, anchor: Encoded, space: FeatureSpace
) -> list[FeatureTask]:
    """The attempted features, fixed in `targets.json` before the first sample is written.

    Raises:
        MismatchError: plan.csv was edited after that, or the background has changed.
    """
    path = out / "targets.json"
    ids = before.targets.feature_ids
    measured = fingerprint([ids.tolist(), before.thresholds[ids].tolist()])
    if not path.exists():
        chosen, spans, n_planned = planned(before, settings, out, anchor, space)
        record = {
            "rng_seed": settings.rng_seed, "n_planned": n_planned,
            "plan_sha256": file_sha256(out / "plan.csv"), "targets_sha256": measured,
        }  # fmt: skip
        attempts = [outcome.target_record(row, before.thresholds, spans[row.feature_id]) for row in chosen]
        write_json(path, {**record, "attempted": attempts})
    check_plan_file(out)
    fixed = read_json(path, "targets_sha256", "attempted")
    if fixed["targets_sha256"] != measured:
        raise MismatchError(
            f"target features or thresholds of {out} are not those that samples were begun with\n"
            "The background, or a verdict, has changed since. Restore it, or start in a new folder."
        )
    return [
        FeatureTask(
            t["feature_id"], t["threshold"], t["n_wanted"], tuple(Span(**s) for s in t["spans"]), t["through"],
            t["explanation"],
        )
        for t in fixed["attempted"]
    ]  # fmt: skip


def planned(
    before: Measured, settings: RunSettings, out: Path, anchor: Encoded, space: FeatureSpace
) -> tuple[list[PlanRow], dict[int, list[Span]], int]:
    """The rows of plan.csv that are attempted, the spans of their features, and how many rows there are."""
    rows = read_plan(out / "plan.csv", _to_fill(before))
    chosen = attempted(rows, settings.budget.features, np.random.default_rng(settings.rng_seed))
    spans = best_spans(anchor, space.backbone.tokenizer, [row.feature_id for row in chosen], n_spans=8)
    return chosen, spans, len(rows)


def _to_fill(before: Measured) -> list[int]:
    return [*before.coverage.missing.tolist(), *before.under.feature_ids.tolist()]


def _known(drawn: Drawn, best: Sequence[Span], note: Note) -> Known:
    """What speaks for and against a feature, with its best span."""
    return Known(
        why_not=screened(drawn.firing, drawn.distinct_share),
        verdict=note.verdict,
        score=note.score,
        explanation=note.explanation,
        span=best[0].text if best else "",
    )
