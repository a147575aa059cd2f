"""The quality gate of a run: a judge beside the writer, and what it says of samples that nobody wrote for the run.

Before: `filling` opens it where `accept.min_score` asks for one. After: `synthesis` keeps what it does not find poor,
and `outcome` puts the scores of accepted samples beside those of seed set and anchor.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from facsynth.assemble import read_data
from facsynth.features.encode import FeatureSpace
from facsynth.llm import Ledger
from facsynth.meaning.quality import rate
from facsynth.model.writer import LocalWriter
from facsynth.records import Progress, no_progress
from facsynth.settings import RunSettings
from facsynth.synthesis.candidates import SELECTED, Synthesis
from facsynth.synthesis.deciding import Score
from facsynth.synthesis.parts import Wanted
from facsynth.text.layouts import RowError
from facsynth.writers import opened_model

N_REFERENCE = 64
"""Samples of seed set, anchor and pool each, that the judge rates too."""
MARKS = range(1, 6)


@contextmanager
def opened_gate(
    settings: RunSettings,
    ledger: Ledger,
    space: FeatureSpace,
    *,
    replay: Path | None = None,
    progress: Progress = no_progress,
) -> Iterator[Score | None]:
    """What gives marks; None where none are asked for. The arguments are those of `writers.opened_model`."""
    if settings.accept.min_score is None or not settings.budget.max_candidates:
        yield None
        return

    def local() -> LocalWriter:
        return LocalWriter(space.backbone, space.template.prompt_ids, {}, batch_size=settings.judge.batch_size)

    with opened_model(settings, "judge", ledger, local, replay=replay, progress=progress) as judge:
        rated = partial(rate, form=settings.data.form, writer=judge, settings=settings.asking)
        yield partial(_rated_by_purpose, settings.synthesis.wanted, rated)


def _rated_by_purpose(
    wanted: Wanted, rated: Callable[..., list[int | None]], rows: Sequence[Mapping[str, Any]]
) -> list[int | None]:
    """Marks of rows, each for what it is to be: one of its label, where the task has labels."""
    purposes = [_purpose(wanted.of(row.get("label")) if wanted.labels else wanted) for row in rows]
    found: list[int | None] = [None] * len(rows)
    for purpose in dict.fromkeys(purposes):
        places = [place for place, own in enumerate(purposes) if own == purpose]
        for place, mark in zip(places, rated([rows[place] for place in places], purpose=purpose), strict=True):
            found[place] = mark
    return found


def _purpose(wanted: Wanted) -> str:
    if wanted.labels:
        return f"to train a classifier, as an example of {wanted.many}"
    return wanted.behaviour or f"to train an assistant on {wanted.many}"


def scores_by_source(
    written: Synthesis, score: Score, settings: RunSettings, progress: Progress = no_progress
) -> dict[str, Any]:
    """How many samples of each source got each mark, all by the same judge, who is not told where a sample is from.

    Returns:
        By source (written, selected, seed, anchor): `n`, `marks` (how many got 1, 2, … 5), `n_unscored`.
    """
    found: dict[str, Sequence[int | None]] = {
        "written": [c.score for c in written.accepted if c.written_for != SELECTED]
    }
    if selected := [c for c in written.accepted if c.written_for == SELECTED]:
        some = heapq.nsmallest(N_REFERENCE, selected, key=lambda candidate: candidate.sample_id)
        found["selected"] = score([candidate.whole for candidate in some])
    for which, sources in (("seed", settings.data.seed), ("anchor", settings.data.anchor)):
        if "-" not in sources:  # stdin is gone by now
            found[which] = score(_some_rows(settings, which, progress))
    return {source: _counted(marks) for source, marks in found.items()}


def _some_rows(settings: RunSettings, which: str, progress: Progress) -> list[dict[str, Any]]:
    """As good as drawn at random: those of the smallest ids, which are hashes."""
    corpus = read_data(settings.data, which, progress)
    chosen = heapq.nsmallest(N_REFERENCE, {sample.sample_id for sample in corpus})
    wanted, rows = set(chosen), {}
    for sample, row in corpus.rows():
        with suppress(RowError):  # its other turns are no texts
            if sample.sample_id in wanted:
                rows[sample.sample_id] = row()
    return [rows[sample_id] for sample_id in chosen if sample_id in rows]


def _counted(marks: Sequence[int | None]) -> dict[str, Any]:
    counts = Counter(marks)
    return {"n": len(marks), "marks": [counts[mark] for mark in MARKS], "n_unscored": counts[None]}
