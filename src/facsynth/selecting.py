"""From a pool to accepted samples, without a word written: chosen by what they fire, proved as written ones are.

Before: the list of what is attempted, and an encoded pool. After: `synthesis.loop` writes for what is still lacking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from facsynth.bins import Ints
from facsynth.coverage.select import select
from facsynth.features.encoded import Encoded
from facsynth.features.shards import entries_of, over_roles
from facsynth.records import Progress, Sample, no_progress
from facsynth.store import Artifact, read_jsonl, write_jsonl
from facsynth.synthesis.accept import NOTHING_FIRES, USUAL, CleanSettings, acceptance_limit, unclean
from facsynth.synthesis.candidates import POOL_RUNG, SELECTED, Candidate
from facsynth.synthesis.deciding import Measure
from facsynth.synthesis.requests import FeatureTask, languages_of
from facsynth.synthesis.seen import NOTHING_SEEN, Seen
from facsynth.text.corpus import Corpus
from facsynth.text.layouts import RowError

CHOSEN = "selected.jsonl"
NO_TEXTS = "has turns that are no texts"
"""Reason of a row that no trainer of texts could read."""


def select_samples(
    tasks: Sequence[FeatureTask],
    corpus: Corpus,
    pool: Encoded,
    measure: Measure,
    artifact: Artifact,
    *,
    support: Ints,
    n: int | None = None,
    clean: CleanSettings = USUAL,
    seen: Seen = NOTHING_SEEN,
    progress: Progress = no_progress,
) -> list[Candidate]:
    """The samples of a pool that close most of what is attempted, and those that did not hold what they promised.

    Chosen by the codes of the encoded pool; then encoded alone in float32, as written ones are, and what does not hold
    there is chosen again from the rest. A feature weighs as many samples as the anchor has of it.

    Args:
        tasks: the attempted features.
        corpus: the pool.
        pool: the same, encoded.
        measure: what decides.
        artifact: keeps the decision.
        support: [d_sae], anchor samples that fire each.
        n: accepted samples at most; as many as add anything where nothing is said.
        clean: what is rejected, whatever it fires.
        seen: samples of seed set and anchor, which add nothing.
        progress: told of accepted samples.
    """
    if not artifact.has(CHOSEN):
        choice = _Choice(tasks, support, pool, seen, clean)
        while len(choice.accepted) < (len(choice.ids) if n is None else n):
            rows = choice.next(None if n is None else n - len(choice.accepted))
            if not rows:
                break
            choice.prove(_read(corpus, [choice.ids[row] for row in rows]), measure)
            progress("selecting from the pool", len(choice.accepted), n)
        found = [asdict(candidate) for candidate in (*choice.accepted, *choice.refuted)]
        artifact.write(CHOSEN, lambda path: write_jsonl(path, found))
    return [Candidate.of_row(row) for row in read_jsonl(artifact.folder / CHOSEN)]


class _Choice:
    """What was chosen so far, and what is still lacking."""

    def __init__(
        self, tasks: Sequence[FeatureTask], support: Ints, pool: Encoded, seen: Seen, clean: CleanSettings
    ) -> None:
        self._clean, self._seen, self._chosen = clean, seen, seen.nothing(clean)
        self._languages = languages_of(tasks)
        self._limits = {task.feature_id: acceptance_limit(task.threshold) for task in tasks}
        self._lacking = {task.feature_id: task.n_wanted for task in tasks}
        self._weights = support[list(self._limits)]
        self.ids, self._lengths, self._fires = _incidence(pool, self._limits)
        first = {sample_id: row for row, sample_id in reversed(list(enumerate(self.ids)))}
        self._open = np.array([first[i] == row and i not in seen.ids for row, i in enumerate(self.ids)], bool)
        self.accepted: list[Candidate] = []
        self.refuted: list[Candidate] = []

    def next(self, n: int | None) -> list[int]:
        """The next rows of the pool; none where no other adds anything."""
        rows = np.flatnonzero(self._open)
        wanted = np.array(list(self._lacking.values()), np.int64)
        chosen = select(self._fires[rows], wanted, self._weights, self._lengths[rows], len(rows) if n is None else n)
        self._open[rows[chosen]] = False
        return [int(row) for row in rows[chosen]]

    def prove(self, read: Sequence[tuple[Sample, dict[str, Any]]], measure: Measure) -> None:
        """Accept what fires, in float32 and alone, a feature that is still lacking."""
        for (sample, row), found in zip(read, measure([sample for sample, _ in read]), strict=True):
            maxima = found.maxima if found else {}
            fires = tuple(sorted(f for f, limit in self._limits.items() if maxima.get(f, (0.0, 0))[0] > limit))
            wanted = [f for f in fires if self._lacking[f] > 0]
            candidate = Candidate(
                SELECTED,
                sample.text,
                NOTHING_FIRES,
                sample_id=sample.sample_id,
                row=row,
                fires=fires,
                n_calls=0,
                rung=POOL_RUNG,
            )
            reason = ("" if row else NO_TEXTS) or self._fault(sample) or ("" if wanted else NOTHING_FIRES)
            if reason or found is None:
                self.refuted.append(candidate.changed(reason=reason))
                continue
            self._chosen.add(sample.sample_id, sample.text)
            feature = max(wanted, key=lambda f: (maxima[f][0] / self._limits[f], -f))
            activation, position = maxima[feature]
            self.accepted.append(
                candidate.changed(
                    reason="", feature=feature, activation=activation, position=position, span=found.span(position)
                )
            )
            for f in fires:
                self._lacking[f] -= 1

    def _fault(self, sample: Sample) -> str:
        """Why it has no place in the data, whatever it fires."""
        if reason := unclean(sample.text, self._languages, self._clean):
            return reason
        return self._seen.has(sample.sample_id, sample.text) or self._chosen.has(sample.sample_id, sample.text)


def _incidence(pool: Encoded, limits: dict[int, float]) -> tuple[list[str], Ints, csr_array]:
    """Sample ids, content tokens, and which of these features each sample fires."""
    column = np.full(pool.profile.d_sae, -1, np.int64)
    column[list(limits)] = np.arange(len(limits))
    above = np.full(pool.profile.d_sae, np.inf, np.float32)
    above[list(limits)] = list(limits.values())
    ids, lengths, starts, features = [], [np.zeros(0, np.int64)], [np.zeros(1, np.int64)], [np.zeros(0, np.int32)]
    for table in pool.shards():
        entries = entries_of(table)
        entries = over_roles(entries.take(np.flatnonzero(entries.activation > above[entries.feature])))
        ids += table["sample_id"].to_pylist()
        lengths.append(np.array([sum(map(bool, roles)) for roles in table["token_role"].to_pylist()], np.int64))
        starts.append(np.bincount(entries.sample, minlength=len(table)))
        features.append(column[entries.feature].astype(np.int32))
    flat = np.concatenate(features)
    ends = np.cumsum(np.concatenate(starts))
    fires = csr_array((np.ones(len(flat), np.int8), flat, ends), shape=(len(ids), len(limits)))
    return ids, np.concatenate(lengths), fires


def _read(corpus: Corpus, sample_ids: Sequence[str]) -> list[tuple[Sample, dict[str, Any]]]:
    """These samples with their whole rows, in this order; a row with turns that are no texts is empty."""
    found: dict[str, tuple[Sample, dict[str, Any]]] = {}
    wanted = set(sample_ids)
    for sample, row in corpus.rows():
        if sample.sample_id in wanted and sample.sample_id not in found:
            try:
                found[sample.sample_id] = (sample, row())
            except RowError:
                found[sample.sample_id] = (sample, {})
    return [found[sample_id] for sample_id in sample_ids]
