"""Closing what is attempted: from a pool first, then written.

Before: `planning` fixed the list, and anchor and seed set are encoded. After: `pipeline` measures again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from facsynth.assemble import open_holdout, open_local_writer, read_data
from facsynth.bins import Ints
from facsynth.features.encode import FeatureSpace
from facsynth.features.encoded import Encoded, encode, settings_of
from facsynth.features.reuse import Known, known_folders, remember
from facsynth.gate import opened_gate, scores_by_source
from facsynth.label_check import LabelCheck, open_label_check
from facsynth.llm import Ledger
from facsynth.llm.drafting import DraftingWriter
from facsynth.measure import Measured, notes_on_rows
from facsynth.model.encoder import open_encoder
from facsynth.model.fluency import mean_log_probs
from facsynth.outcome import SCORES
from facsynth.proof import measurer
from facsynth.records import Progress, Sample
from facsynth.selecting import select_samples
from facsynth.settings import RunSettings
from facsynth.store import Artifact, file_sha256, fingerprint, write_json
from facsynth.synthesis.candidates import STEERED_RUNG, Candidate, Synthesis
from facsynth.synthesis.deciding import Guard
from facsynth.synthesis.loop import synthesize
from facsynth.synthesis.requests import FeatureTask, SynthesisSettings, in_common
from facsynth.synthesis.seen import Seen
from facsynth.text.corpus import Corpus
from facsynth.text.holdout import Holdout
from facsynth.writers import opened_model

N_FLUENT = 128
"""Samples of the anchor by which fluency is judged."""


def fill(
    tasks: Sequence[FeatureTask], settings: RunSettings, out: Path, cache: Path, *,
    before: Measured, space: FeatureSpace, anchor: Encoded, exact: FeatureSpace, replay: Path | None,
    progress: Progress,
) -> Synthesis:  # fmt: skip
    """Select from `data.pool` where there is one, then write until every attempted feature has its samples or is given
    up; decisions in `selection/` and `synthesis/`, calls in `ledger.sqlite`.

    Args:
        tasks: what is attempted.
        settings: of the run, whose folder is `out`.
        out: where anchor and seed set are encoded.
        cache: for hashes.
        before: what was measured.
        space: of anchor and seed set.
        anchor: the same, encoded.
        exact: as `space`, in float32: what decides.
        replay: the ledger of another run, which answers in the writer's place.
        progress: told of what is accepted.
    """
    seen, holdout = _seen(settings, out, space)
    support = anchor.profile.firing_samples(before.thresholds)
    selected = _selected(
        tasks, settings, out, cache, space=space, exact=exact, support=support, seen=seen, progress=progress
    )
    local = partial(open_local_writer, space, anchor.profile, [t.feature_id for t in tasks], settings)
    with Ledger.open(out / "ledger.sqlite") as ledger, ExitStack() as opened:
        asked: dict[str, Any] = {"replay": replay, "progress": progress}
        writer = opened.enter_context(opened_model(settings, "writer", ledger, local, **asked))
        if settings.writer.draft and settings.budget.max_candidates:
            drafter = opened.enter_context(opened_model(settings, "draft", ledger, local, **asked))
            about = {task.feature_id: in_common(task) for task in tasks}
            writer = DraftingWriter(drafter, writer, about, draft_tokens=SynthesisSettings.max_tokens)
        score = opened.enter_context(opened_gate(settings, ledger, space, **asked))
        has_label = _label_check(tasks, settings, out, cache, space=space, progress=progress)
        parents = {"targets": file_sha256(out / "targets.json"), "writer": writer.identity}
        parents |= {"holdout": fingerprint(holdout.fingerprints)} if holdout else {}
        artifact = Artifact(out / "synthesis", "synthesize", asdict(settings.synthesis), parents)
        written = synthesize(
            tasks, writer, measurer(exact), artifact, settings.synthesis, selected=selected,
            guard=_guard(settings, space, anchor), has_label=has_label, score=score, seen=seen, progress=progress,
        )  # fmt: skip
        if score:
            write_json(out / SCORES, scores_by_source(written, score, settings, progress))
        return written


def _label_check(
    tasks: Sequence[FeatureTask], settings: RunSettings, out: Path, cache: Path, *, space: FeatureSpace,
    progress: Progress,
) -> LabelCheck | None:  # fmt: skip
    """Where anything is written, and its label checked."""
    if not tasks or not settings.budget.max_candidates:
        return None
    found = open_label_check(settings, space, cache, progress)
    if found:
        found.keep(out)
    return found


def _selected(
    tasks: Sequence[FeatureTask], settings: RunSettings, out: Path, cache: Path, *,
    space: FeatureSpace, exact: FeatureSpace, support: Ints, seen: Seen, progress: Progress,
) -> list[Candidate]:  # fmt: skip
    """What the pool closes; nothing where there is none."""
    if not settings.data.pool or not tasks:
        return []
    corpus = read_data(settings.data, "pool", progress)
    pool = encode_part(corpus, space, out / "features" / "pool", cache, progress)
    parents = {"targets": file_sha256(out / "targets.json"), "pool": corpus.fingerprint}
    artifact = Artifact(out / "selection", "select", {"n_selected": settings.budget.n_selected}, parents)
    return select_samples(
        tasks, corpus, pool, measurer(exact), artifact, support=support, n=settings.budget.n_selected,
        clean=settings.synthesis.clean, seen=seen, progress=progress,
    )  # fmt: skip


def _seen(settings: RunSettings, out: Path, space: FeatureSpace) -> tuple[Seen, Holdout | None]:
    """Anchor and seed set, and what is kept for evaluation: none of it is to be written again."""
    parts = (Encoded.open(out / "features" / part).texts(space.backbone.tokenizer) for part in ("anchor", "seed"))
    holdout = open_holdout(settings.data)
    encode = None if settings.accept.alike is None else open_encoder(settings.accept.encoder)
    return Seen.of(chain.from_iterable(parts), settings.synthesis.clean, holdout, encode), holdout


def _guard(settings: RunSettings, space: FeatureSpace, anchor: Encoded) -> Guard | None:
    """Against gibberish of a steered writer; its floor is a quantile of the anchor, of samples chosen by their ids."""
    share = settings.synthesis.clean.fluency
    if not share or STEERED_RUNG not in settings.synthesis.rungs or not settings.synthesis.max_candidates:
        return None
    first = set(sorted(anchor.ids())[:N_FLUENT])
    rows: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]] = []
    for table in anchor.shards(["sample_id", "token_ids", "token_role"]):
        for row, sample_id in enumerate(table["sample_id"].to_pylist()):
            if sample_id in first:
                ids, roles = (table[name][row].values.to_numpy() for name in ("token_ids", "token_role"))
                rows.append((ids.copy(), roles > 0))
    floor = float(np.quantile(mean_log_probs(space.backbone, *map(list, zip(*rows, strict=True))), share))

    def log_probs(samples: Sequence[Sample]) -> list[float]:
        tokens = space.read(samples).tokens
        found = mean_log_probs(space.backbone, [t.ids for t in tokens], [t.content for t in tokens])
        return [round(float(value), 4) for value in found]

    return Guard(round(floor, 4), log_probs)


def notes_on_pool(out: Path) -> list[str]:
    """What became of rows of the pool of a run that are not encoded as they stand; nothing without a pool."""
    folder = out / "features" / "pool"
    return [*notes_on_rows("pool", Encoded.open(folder))] if (folder / "manifest.json").exists() else []


def writer_of(out: Path) -> str:
    """The identity of the writer that a run was begun with."""
    return Artifact.reopen(out / "synthesis", "synthesize").parents["writer"]


def encode_part(corpus: Corpus | None, space: FeatureSpace, out: Path, cache: Path, progress: Progress) -> Encoded:
    """Encode a part of a run's data, with what the cache knows of it; None is encoded already, and gone."""
    if corpus is None:
        return Encoded.open(out)

    def named(what: str, done: int, total: int | None) -> None:
        progress(f"{what} {out.name}", done, total)

    known = Known(known_folders(cache, space.fingerprint), settings_of(space))
    encoded = encode(corpus, space, out, known=known, progress=named)
    remember(cache, space.fingerprint, out)
    return encoded
