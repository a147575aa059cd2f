"""The main path: measure what the seed set covers, write for what it misses, measure again.

Every stage in order, each with its own file; a run folder is what they leave (DESIGN 4). Calling `run` again on
the same folder goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

from facsynth import outcome
from facsynth.assemble import (
    background_path,
    check_form,
    check_pool,
    open_background,
    open_holdout,
    open_sae,
    open_space,
    read_data,
)
from facsynth.curves import curves_after, curves_before
from facsynth.features.encode import FeatureSpace
from facsynth.features.encoded import Encoded, encode
from facsynth.filling import encode_part, fill, writer_of
from facsynth.judging import judged_features
from facsynth.label_check import check_labels
from facsynth.labelling import read_labels
from facsynth.lock import locked
from facsynth.measure import Measured, check_background, measure
from facsynth.planning import Choose, check_targets, fix_targets, keep_plan, planned
from facsynth.profile import merge
from facsynth.proof import read_accepted
from facsynth.records import Progress, no_progress
from facsynth.report.build import build_report
from facsynth.report.shapes import CURVES, CURVES_AFTER, SHADING, SUMMARY, read_object
from facsynth.run_folder import Corpora, open_run, read_unless_known, timed
from facsynth.selfcheck import check_before_measuring
from facsynth.settings import RunSettings
from facsynth.shaded import shading_rows
from facsynth.store import Artifact, write_json, write_jsonl
from facsynth.synthesis.candidates import Synthesis
from facsynth.text.corpus import Corpus
from facsynth.text.forms import to_sample
from facsynth.text.labels import Label
from facsynth.writers import check_endpoints, check_replay


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
    choose: Choose = planned,
) -> dict[str, Any]:
    """Do the whole job, or what is left of it, and give back `summary.json`.

    Args:
        settings: of the run.
        out: the run folder.
        cache: for converted models and hashes.
        progress: told of every stage.
        measured: called with `out` once coverage and plan are there, before anything is written.
        replay: the ledger of another run, which answers in place of writer and judge.
        choose: what is attempted; by default what the plan says. A control of an experiment attempts something else.
    """
    _check(settings, replay)
    with locked(out):
        corpora = read_unless_known(settings, out, progress)
        folder = open_run(settings, out, corpora)
        if folder.manifest is None:
            check_pool(settings)
            with timed(out) as seconds:
                before, space, anchor, seed_set = measure_run(settings, out, cache, corpora, progress, replay=replay)
                measured(out)
                labels = anchor_labels(settings, corpora)
                tasks = fix_targets(before, settings, out, anchor, space, choose=choose, labels=labels)
                exact = open_space(settings, cache, dtype="float32")
                written = fill(
                    tasks, settings, out, cache,
                    before=before, space=space, anchor=anchor, exact=exact, replay=replay, progress=progress,
                )  # fmt: skip
                accepted = encode_accepted(written, exact, out, progress)
                filled = merge([seed_set.profile, *(part.profile for part in accepted)])
                write_json(out / CURVES_AFTER, curves_after(before, [seed_set, *accepted], filled))
                write_jsonl(out / SHADING, shading_rows(tasks, anchor, accepted, exact))
                outcome.write_outcome(
                    out, before=before, anchor=anchor.profile, filled=filled, written=written, tasks=tasks,
                    space=exact, writer=writer_of(out), settings=settings, seconds=seconds(),
                )  # fmt: skip
            folder.finish(n_accepted=len(written.accepted))
        read_accepted(out)
        build_report(out)
        return read_object(out / "summary.json", SUMMARY)


def measure_run(
    settings: RunSettings,
    out: Path,
    cache: Path,
    corpora: Corpora | None,
    progress: Progress = no_progress,
    *,
    replay: Path | None = None,
) -> tuple[Measured, FeatureSpace, Encoded, Encoded]:
    """Encode anchor and seed set, and write `coverage/before.json` and `plan.csv`.

    `corpora` are anchor and seed set; None where both are encoded and gone. `replay` as `run` takes it.
    """
    check_background_place(settings, cache)
    check_labels(settings, corpora and corpora[0])
    progress("loading the model", 0, None)
    space = open_space(settings, cache)
    background = open_background(settings, space)
    samples = chain.from_iterable(corpora or ())
    notes = check_before_measuring(space, samples, settings, cache, progress, data=_fingerprints(corpora, out))
    anchor, seed_set = (
        encode_part(corpus, space, out / "features" / which, cache, progress)
        for which, corpus in zip(("anchor", "seed"), corpora or (None, None), strict=True)
    )
    judged = None
    if "judge" in settings.coverage.relevance:
        judged = judged_features(settings, out, space, anchor, background, replay=replay, progress=progress)
    before = measure(anchor, seed_set, background, settings, judged)
    check_targets(before, out)
    notes = (*notes, *_in_holdout(settings, corpora))
    write_json(out / CURVES, curves_before(before, seed_set.profile))
    record = outcome.coverage_record(before, space, settings, notes)
    keep_plan(before, anchor, seed_set, space, out, record=record, settings=settings)
    return before, space, anchor, seed_set


def encode_accepted(written: Synthesis, exact: FeatureSpace, out: Path, progress: Progress) -> list[Encoded]:
    """The accepted samples as an encoded corpus; none where there are none."""
    if not written.accepted:
        return []
    form = exact.settings.form
    corpus = Corpus.of([to_sample(candidate.whole, form).sample for candidate in written.accepted], form=form)
    return [encode(corpus, exact, out / "features" / "accepted", progress=progress)]


def _check(settings: RunSettings, replay: Path | None) -> None:
    """Refuse what cannot be written, and who cannot be asked, before any work."""
    check_form(settings)
    if replay is None:
        check_endpoints(settings)
    else:
        check_replay(replay)


def anchor_labels(settings: RunSettings, corpora: Corpora | None) -> dict[str, Label] | None:
    """The labels of the anchor's samples by their ids, where the task has several; empty of an anchor without.

    None where it came from stdin, and is gone.

    Raises:
        InputError: one that the task does not know.
    """
    names = [name for name, _ in settings.synthesis.wanted.labels]
    if len(names) < 2:
        return {}
    if corpora is None and "-" in settings.data.anchor:
        return None
    return read_labels(corpora[0] if corpora else read_data(settings.data, "anchor"), names)


def check_background_place(settings: RunSettings, cache: Path) -> None:
    """Refuse what is known to fail before the model is loaded; what is wrong with the SAE comes before what it lacks.

    Raises:
        SettingsError, InputError: as `measure.check_background`.
    """
    place = background_path(settings)
    if place is None and "contrast" in settings.coverage.relevance:
        open_sae(settings.sae.path, cache, k=settings.sae.k, hook_point=settings.model.hook_point or "")
    check_background(place, settings)


def _in_holdout(settings: RunSettings, corpora: Corpora | None) -> list[str]:
    """What is to be said of the seed set, which stays as it is."""
    holdout = open_holdout(settings.data)
    n = sum(holdout.holds(sample.text) for sample in corpora[1]) if holdout and corpora else 0
    return [f"seed set: {n} samples are in the holdout, which tests nothing that is trained on them"] if n else []


def _fingerprints(corpora: Corpora | None, out: Path) -> list[str]:
    """Of anchor and seed set, of encoded ones too."""
    if corpora is not None:
        return [corpus.fingerprint for corpus in corpora]
    return [Artifact.reopen(out / "features" / which, "encode").parents["corpus"] for which in ("anchor", "seed")]
