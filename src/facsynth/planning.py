"""From figures to what is attempted: the plan of a run folder, and the list that is fixed before anything is written.

Before: `measure`, and the sheet of features where there is one. After: `pipeline` writes for what is fixed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from facsynth import outcome
from facsynth.coverage.groups import concepts
from facsynth.coverage.layout import laid_out
from facsynth.coverage.plan import Meaning, PlanRow, attempted, grouped, make_plan, plan_text, read_plan
from facsynth.errors import InputError, MismatchError
from facsynth.features.encode import FeatureSpace
from facsynth.features.encoded import Encoded
from facsynth.features.spans import best_spans
from facsynth.incidence import joined
from facsynth.labelling import labels_of_features
from facsynth.meaning.sheet import HUMAN, SHEET, Note, read_notes
from facsynth.measure import Measured
from facsynth.profile import Profile
from facsynth.records import Span
from facsynth.report.shapes import MAP, UNDER
from facsynth.run_folder import check_plan_file
from facsynth.screening import Screened, screen
from facsynth.settings import RunSettings
from facsynth.store import file_sha256, fingerprint, read_json, write_json, write_text
from facsynth.synthesis.requests import FeatureTask
from facsynth.text.labels import Label

N_SPANS, MOST_SPANS = 8, 16
"""Spans of a feature that prompts may show, and that are looked through for them."""
NOTHING_TOLD = frozenset({"cannot tell", "can't tell", "unknown", "unclear"})


def keep_plan(
    before: Measured,
    anchor: Encoded,
    seed_set: Encoded,
    space: FeatureSpace,
    out: Path,
    *,
    record: Mapping[str, Any],
    settings: RunSettings,
) -> None:
    """Write `plan.csv`, ranked and grouped, and `coverage/before.json`; a plan that a person changed, or that is being
    followed, stays.

    Args:
        before: what was measured.
        anchor: encoded, as is the seed set.
        seed_set: the data.
        space: of both.
        out: the run folder.
        record: for `before.json`, which holds besides the sha256 of the plan that was written last: by it an edited one
            is known. While another is on its way it holds both.
        settings: of the run.
    """
    path, kept = out / "plan.csv", out / "coverage" / "before.json"
    written = list(read_json(kept).get("plan_sha256", [])) if kept.exists() else []
    found = [file_sha256(path)] if path.exists() else []
    if found and (found[0] not in written or (out / "targets.json").exists()):
        write_json(kept, {**record, "plan_sha256": written})
        return
    write_json(out / MAP, _map_of(before, space))
    best = best_spans(anchor, space.backbone.tokenizer, _to_fill(before), n_spans=1)
    write_json(out / UNDER, _under(before, anchor.profile, seed_set.profile, best))
    text = plan_text(_ranked(before, anchor, seed_set, space, read_notes(out / SHEET), best=best, settings=settings))
    now = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    if found != [now]:
        write_json(kept, {**record, "plan_sha256": [*found, now]})
        write_text(path, text)
    write_json(kept, {**record, "plan_sha256": [now]})


def refresh_plan(
    before: Measured, anchor: Encoded, seed_set: Encoded, space: FeatureSpace, out: Path, *, settings: RunSettings
) -> None:
    """Write a plan that nobody changed anew, once more is known of its features."""
    record = read_json(out / "coverage" / "before.json")
    keep_plan(before, anchor, seed_set, space, out, record=record, settings=settings)


def check_targets(before: Measured, out: Path) -> None:
    """Refuse to measure anew where samples were begun for other targets.

    Raises:
        MismatchError: the background, a verdict or the task has changed since.
    """
    path = out / "targets.json"
    if path.exists() and read_json(path, "targets_sha256")["targets_sha256"] != _fingerprint(before):
        raise MismatchError(
            f"target features or thresholds of {out} are not those that samples were begun with\n"
            "The background, or a verdict, has changed since: restore it, or start in a new folder. Nothing was done."
        )


def fix_targets(
    before: Measured,
    settings: RunSettings,
    out: Path,
    anchor: Encoded,
    space: FeatureSpace,
    *,
    choose: Choose,
    labels: Mapping[str, Label] | None = MappingProxyType({}),
) -> list[FeatureTask]:
    """The attempted features, fixed in `targets.json` before the first sample is written; `choose` says which.

    `labels` are those of anchor samples, by their ids; None where they are gone.

    Raises:
        InputError: they are gone, and nothing is fixed yet.
        MismatchError: plan.csv or the anchor's labels were edited after that, or `check_targets`.
    """
    path = out / "targets.json"
    if not path.exists():
        if labels is None:
            raise InputError("the anchor came from stdin, and its labels are gone\nTake a new folder, or give a file.")
        chosen, spans, n_planned = choose(before, settings, out, anchor, space)
        of = labels_of_features(anchor, labels, [*spans], before.thresholds) if labels else {}
        record = {
            "rng_seed": settings.rng_seed, "n_planned": n_planned,
            "plan_sha256": file_sha256(out / "plan.csv"), "targets_sha256": _fingerprint(before),
            "labels_sha256": _of_labels(labels),
        }  # fmt: skip
        attempts = [
            outcome.target_record(
                row, before.thresholds, *_shown(spans[row.feature_id], labels, of.get(row.feature_id))
            )
            for row in chosen
        ]
        write_json(path, {**record, "attempted": attempts})
    check_plan_file(out)
    check_targets(before, out)
    _check_labels(labels, out)
    return [
        FeatureTask(
            t["feature_id"], t["threshold"], t["n_wanted"], tuple(Span(**s) for s in t["spans"]), t["through"],
            t["explanation"], t.get("label"),
        )
        for t in read_json(path, "attempted")["attempted"]
    ]  # fmt: skip


def _check_labels(labels: Mapping[str, Label] | None, out: Path) -> None:
    """As `check_targets`, of the anchor's labels, where they are not gone."""
    begun_with = read_json(out / "targets.json").get("labels_sha256")
    if labels is not None and begun_with not in (None, _of_labels(labels)):
        raise MismatchError(
            f"labels of the anchor are not those that samples of {out} were begun with\n"
            "Restore them, or start in a new folder. Nothing was done."
        )


def features_to_fill(before: Measured, out: Path) -> list[int]:
    """The features of plan.csv that are kept."""
    return [row.feature_id for row in read_plan(out / "plan.csv", _to_fill(before)) if row.keep]


class Chosen(NamedTuple):
    """What is attempted."""

    rows: list[PlanRow]
    spans: dict[int, list[Span]]
    """Of each of their features, what its prompts may show."""
    n_planned: int
    """Rows there were to choose from."""


Choose = Callable[[Measured, RunSettings, Path, Encoded, FeatureSpace], Chosen]
"""`choose(before, settings, out, anchor, space)`"""


def planned(before: Measured, settings: RunSettings, out: Path, anchor: Encoded, space: FeatureSpace) -> Chosen:
    """The rows of plan.csv that are attempted, the spans of their features, and how many rows there are."""
    rows, notes = read_plan(out / "plan.csv", _to_fill(before)), read_notes(out / SHEET)
    chosen = [
        replace(row, explanation=_followed(row, notes.get(row.feature_id, Note(row.feature_id))))
        for row in attempted(rows, settings.budget.features, np.random.default_rng(settings.rng_seed))
    ]
    spans = best_spans(anchor, space.backbone.tokenizer, [row.feature_id for row in chosen], n_spans=MOST_SPANS)
    return Chosen(chosen, spans, len(rows))


def _shown(spans: Sequence[Span], labels: Mapping[str, Label], label: Label | None) -> tuple[list[Span], Label | None]:
    """What prompts show of a feature, spans of samples that have its label, and that label.

    Where none of the spans is of such a sample, the label is that of most of them: nothing shows the other.
    """
    known = Counter(labels[span.sample_id] for span in spans if span.sample_id in labels)
    if label is not None and known and label not in known:
        label = known.most_common(1)[0][0]
    alike = [span for span in spans if label is not None and labels.get(span.sample_id) == label]
    return list(alike or spans)[:N_SPANS], label


def _of_labels(labels: Mapping[str, Label]) -> str:
    return fingerprint(sorted(labels.items()))


def _followed(row: PlanRow, note: Note) -> str:
    """The explanation that is written by: a person's in the sheet, else the plan's, which a person may have changed.

    None where it says that nothing can be said: the feature's spans have to do.
    """
    found = note.explanation if note.explained_by == HUMAN else row.explanation or note.explanation
    return "" if found.strip(" .!").casefold() in NOTHING_TOLD else found


def _ranked(
    before: Measured,
    anchor: Encoded,
    seed_set: Encoded,
    space: FeatureSpace,
    notes: Mapping[int, Note],
    *,
    best: Mapping[int, Sequence[Span]],
    settings: RunSettings,
) -> list[PlanRow]:
    ids = _to_fill(before)
    found = screen(anchor, space.backbone.tokenizer, ids, before.thresholds, settings.rng_seed)
    known = {i: _meaning(found[i], best[i], notes.get(i, Note(i))) for i in ids}
    rows = make_plan(
        before.coverage, before.under, seed_set.profile, anchor.profile, before.thresholds,
        known=known, per_feature=settings.budget.per_feature,
    )  # fmt: skip
    missing = [row.feature_id for row in rows if row.kind == "missing" and row.keep]
    directions = space.sae.W_dec[missing].float().cpu().numpy()
    in_order = np.array(sorted(missing), np.int64)
    firing = joined(anchor.incidence(in_order, before.thresholds))
    return grouped(rows, concepts(missing, directions, (firing.sample, in_order[firing.column])))


def _map_of(before: Measured, space: FeatureSpace) -> dict[str, Any]:
    """The target features in two dimensions, covered ones too: [feature id, x, y]."""
    ids = before.targets.feature_ids
    places = laid_out(space.sae.W_dec[ids.tolist()].float().cpu().numpy())
    return {"points": [] if places is None else np.column_stack([ids, places]).tolist()}


def _under(before: Measured, anchor: Profile, seed_set: Profile, best: Mapping[int, Sequence[Span]]) -> dict[str, Any]:
    """How often anchor and seed set fire the under-represented features, and on what, in the plan or not."""
    of_anchor, of_seed = (one.firing_samples(before.thresholds) / one.n_samples for one in (anchor, seed_set))
    return {
        "features": [
            {
                "feature_id": i, "anchor_rate": float(of_anchor[i]), "seed_rate": float(of_seed[i]),
                "span": best[i][0].text if best[i] else "",
            }
            for i in before.under.feature_ids.tolist()
        ]
    }  # fmt: skip


def _fingerprint(before: Measured) -> str:
    ids = before.targets.feature_ids
    return fingerprint([ids.tolist(), before.thresholds[ids].tolist()])


def _to_fill(before: Measured) -> list[int]:
    return [*before.coverage.missing.tolist(), *before.under.feature_ids.tolist()]


def _meaning(found: Screened, best: Sequence[Span], note: Note) -> Meaning:
    """What speaks for and against a feature, with its best span."""
    return Meaning(
        why_not=found.why_not,
        verdict=note.verdict,
        score=note.score,
        explanation=note.explanation,
        fires_on=found.fires_on,
        span=best[0].text if best else "",
    )
