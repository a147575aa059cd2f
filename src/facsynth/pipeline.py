"""The main path: measure what the seed set covers, write for what it misses, measure again.

Every stage in order, each with its own file; a run folder is what they leave (DESIGN 4). Calling `run` again on
the same folder goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from facsynth import outcome
from facsynth.assemble import (
    background_path,
    check_form,
    open_background,
    open_local_writer,
    open_sae,
    open_space,
)
from facsynth.coverage.plan import PlanRow, attempted, make_plan, read_plan, write_plan
from facsynth.errors import MismatchError
from facsynth.features.encode import FeatureSpace
from facsynth.features.encoded import Encoded, encode, settings_of
from facsynth.features.reuse import Known, known_folders, remember
from facsynth.features.spans import best_spans
from facsynth.llm import Ledger
from facsynth.lock import locked
from facsynth.measure import Measured, check_background, measure
from facsynth.profile import merge
from facsynth.proof import measurer
from facsynth.protocols import Writer
from facsynth.records import Progress, Span, no_progress
from facsynth.report.build import build_report
from facsynth.report.shapes import SUMMARY, read_object
from facsynth.run_folder import Corpora, check_plan_file, open_run, read_unless_known, timed
from facsynth.selfcheck import check_before_measuring
from facsynth.settings import RunSettings
from facsynth.store import Artifact, file_sha256, fingerprint, read_json, write_json
from facsynth.synthesis.candidates import Synthesis
from facsynth.synthesis.loop import synthesize
from facsynth.synthesis.requests import FeatureTask
from facsynth.text.corpus import Corpus
from facsynth.writers import opened_writer


def tell_nobody(out: Path) -> None:
    """What is told of a measurement where nobody listens."""


def run(
    settings: RunSettings,
    out: Path,
    cache: Path,
    progress: Progress = no_progress,
    *,
    measured: Callable[[Path], None] = tell_nobody,
    replay: Path | None = None,
) -> dict[str, Any]:
    """Do the whole job, or what is left of it, and give back `summary.json`.

    Args:
        settings: of the run.
        out: the run folder.
        cache: for converted models and hashes.
        progress: told of every stage.
        measured: called with `out` once coverage and plan are there, before anything is written.
        replay: the ledger of another run, which answers in the writer's place.
    """
    check_form(settings)
    with locked(out):
        corpora = read_unless_known(settings, out, progress)
        folder = open_run(settings, out, corpora)
        if folder.manifest is None:
            with timed(out) as seconds:
                before, space, anchor, seed_set = measure_run(settings, out, cache, corpora, progress)
                measured(out)
                tasks = fix_targets(before, settings, out, anchor, space)
                exact = open_space(settings, cache, dtype="float32")
                local = partial(open_local_writer, space, anchor.profile, [t.feature_id for t in tasks], settings)
                written = write_samples(
                    tasks, settings, out, local=local, exact=exact, replay=replay, progress=progress
                )
                accepted = encode_accepted(written, exact, out, progress)
                filled = merge([seed_set.profile, *([accepted.profile] if accepted else [])])
                outcome.write_outcome(
                    out, before=before, anchor=anchor.profile, filled=filled, written=written, tasks=tasks,
                    space=exact, writer=writer_of(out), settings=settings, seconds=seconds(),
                )  # fmt: skip
            folder.finish(n_accepted=len(written.accepted))
        build_report(out)
        return read_object(out / "summary.json", SUMMARY)


def measure_run(
    settings: RunSettings,
    out: Path,
    cache: Path,
    corpora: Corpora | None,
    progress: Progress = no_progress,
) -> tuple[Measured, FeatureSpace, Encoded, Encoded]:
    """Encode anchor and seed set, and write `coverage/before.json` and, once, `plan.csv`.

    `corpora` are anchor and seed set; None where both are encoded and gone.
    """
    _check_background(settings, cache)
    progress("loading the model", 0, None)
    space = open_space(settings, cache)
    background = open_background(settings, space)
    samples = chain.from_iterable(corpora or ())
    notes = check_before_measuring(space, samples, settings, cache, progress, data=_fingerprints(corpora, out))
    anchor, seed_set = (
        _encode_part(corpus, space, out / "features" / which, cache, progress)
        for which, corpus in zip(("anchor", "seed"), corpora or (None, None), strict=True)
    )
    before = measure(anchor, seed_set, background, settings)
    write_json(out / "coverage" / "before.json", outcome.coverage_record(before, space, settings, notes))
    if not (out / "plan.csv").exists():
        missing = [*before.coverage.missing.tolist(), *before.under.feature_ids.tolist()]
        spans = best_spans(anchor, space.backbone.tokenizer, missing, n_spans=1)
        texts = {feature: found[0].text for feature, found in spans.items() if found}
        rows = make_plan(
            before.coverage, before.under, seed_set.profile, anchor.profile, before.thresholds, spans=texts
        )
        write_plan(out / "plan.csv", rows)
    return before, space, anchor, seed_set


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
            "The background has changed since. Restore it, or start in a new folder."
        )
    return [
        FeatureTask(t["feature_id"], t["threshold"], t["n_wanted"], tuple(Span(**s) for s in t["spans"]))
        for t in fixed["attempted"]
    ]


def planned(
    before: Measured, settings: RunSettings, out: Path, anchor: Encoded, space: FeatureSpace
) -> tuple[list[PlanRow], dict[int, list[Span]], int]:
    """The rows of plan.csv that are attempted, the spans of their features, and how many rows there are."""
    known = [*before.coverage.missing.tolist(), *before.under.feature_ids.tolist()]
    rows = read_plan(out / "plan.csv", known)
    chosen = attempted(rows, settings.budget.features, np.random.default_rng(settings.rng_seed))
    spans = best_spans(anchor, space.backbone.tokenizer, [row.feature_id for row in chosen], n_spans=8)
    return chosen, spans, len(rows)


def write_samples(
    tasks: Sequence[FeatureTask],
    settings: RunSettings,
    out: Path,
    *,
    local: Callable[[], Writer],
    exact: FeatureSpace,
    replay: Path | None = None,
    progress: Progress = no_progress,
) -> Synthesis:
    """Write until every attempted feature has its samples or is given up; calls in `ledger.sqlite`."""
    known = {sample_id for part in ("anchor", "seed") for sample_id in Encoded.open(out / "features" / part).ids()}
    with (
        Ledger.open(out / "ledger.sqlite") as ledger,
        opened_writer(settings, ledger, local, replay=replay, progress=progress) as writer,
    ):
        parents = {"targets": file_sha256(out / "targets.json"), "writer": writer.identity}
        artifact = Artifact(out / "synthesis", "synthesize", asdict(settings.synthesis), parents)
        return synthesize(
            tasks, writer, measurer(exact), artifact, settings.synthesis, known_ids=known, progress=progress
        )


def writer_of(out: Path) -> str:
    """The identity of the writer that a run was begun with."""
    return Artifact.reopen(out / "synthesis", "synthesize").parents["writer"]


def encode_accepted(written: Synthesis, exact: FeatureSpace, out: Path, progress: Progress) -> Encoded | None:
    """The accepted samples as an encoded corpus; None where there are none."""
    if not written.accepted:
        return None
    corpus = Corpus.of([outcome.sample_of(c) for c in written.accepted], name="accepted", form=exact.settings.form)
    return encode(corpus, exact, out / "features" / "accepted", progress=progress)


def _check_background(settings: RunSettings, cache: Path) -> None:
    """Refuse what is known to fail before any work; what is wrong with the SAE comes before what it has not."""
    place = background_path(settings)
    if place is None and settings.coverage.relevance == "contrast":
        open_sae(settings.sae.path, cache, k=settings.sae.k, hook_point=settings.model.hook_point or "")
    check_background(place, settings)


def _fingerprints(corpora: Corpora | None, out: Path) -> list[str]:
    """Of anchor and seed set, of encoded ones too."""
    if corpora is not None:
        return [corpus.fingerprint for corpus in corpora]
    return [Artifact.reopen(out / "features" / which, "encode").parents["corpus"] for which in ("anchor", "seed")]


def _encode_part(corpus: Corpus | None, space: FeatureSpace, out: Path, cache: Path, progress: Progress) -> Encoded:
    if corpus is None:
        return Encoded.open(out)

    def named(what: str, done: int, total: int | None) -> None:
        progress(f"{what} {out.name}", done, total)

    known = Known(known_folders(cache, space.fingerprint), settings_of(space))
    encoded = encode(corpus, space, out, known=known, progress=named)
    remember(cache, space.fingerprint, out)
    return encoded
