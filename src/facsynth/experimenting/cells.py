"""A cell: the samples that one method gets for one seed, in the order of acceptance, with what they cost.

Before: `experimenting.settings`. After: `experimenting.experiment` trains on the seed set and the first so many.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from facsynth.assemble import open_holdout
from facsynth.baselines import METHODS
from facsynth.baselines.frame import COSTS, OF_WAVE, SAMPLES, Cap
from facsynth.errors import InputError
from facsynth.evaluating.answers import asked_in
from facsynth.evaluating.data import Rows
from facsynth.experimenting.choosing import chooser
from facsynth.experimenting.rivals import write
from facsynth.experimenting.settings import BY_FEATURES, ExperimentSettings
from facsynth.pipeline import anchor_labels, run
from facsynth.records import Progress, Sample, no_progress
from facsynth.settings import RunSettings
from facsynth.store import fingerprint, read_json, read_jsonl, write_json, write_jsonl
from facsynth.text.holdout import Holdout
from facsynth.text.labels import is_wanted

_T = TypeVar("_T")
USUALLY_SHOWN = 64
"""Anchor texts, where no method by features says how many."""
MOST = 1_000_000
"""Samples of a method that only its tokens end."""


class Made(NamedTuple):
    """Samples in the order of acceptance."""

    rows: list[dict[str, Any]]
    tokens: list[int]
    """Written, for the method, by the time each was accepted, as `by_sample` has it; empty where none are written."""

    def first(self, n: int) -> list[dict[str, Any]]:
        """A budget of samples."""
        return self.rows[:n]

    def tokens_for(self, n: int) -> int:
        """What the first n took."""
        return self.tokens[min(n, len(self.tokens)) - 1] if self.tokens and n else 0

    def within(self, tokens: int) -> list[dict[str, Any]]:
        """A budget of written tokens."""
        return [row for row, spent in zip(self.rows, self.tokens, strict=True) if spent <= tokens]


def by_sample(spent: Sequence[int], of_wave: Sequence[int] = ()) -> list[int]:
    """Of samples with what was written by the end of the wave of each: a wave's tokens shared among its samples, so
    that a budget of tokens takes the same part of a wave, whatever a method's waves are.

    Args:
        spent: [n]
        of_wave: [n], samples that were accepted of its wave; as many as are here where nothing is said.
    """
    found, before = list[int](), 0
    for end, places in groupby(range(len(spent)), key=spent.__getitem__):
        here = list(places)
        n = of_wave[here[0]] if of_wave else len(here)
        found += [before + (end - before) * place // n for place in range(1, len(here) + 1)]
        before = end
    return found


def mixed(parts: Sequence[tuple[float, Made]]) -> Made:
    """Parts of one synthesis, each with its share, as if they had been written side by side; equal rows once."""
    places = [(place / share, part) for part, (share, made) in enumerate(parts) for place in range(len(made.rows))]
    rows, tokens, spent = dict[str, dict[str, Any]](), list[int](), [0] * len(parts)
    at = [0] * len(parts)
    for _, part in sorted(places):
        made, place = parts[part][1], at[part]
        at[part], spent[part] = place + 1, made.tokens[place]
        if (text := json.dumps(made.rows[place].get("messages", made.rows[place]), sort_keys=True)) not in rows:
            rows[text] = made.rows[place]
            tokens.append(sum(spent))
    return Made([*rows.values()], tokens)


@dataclass(frozen=True)
class Bench:
    """What all cells of an experiment share."""

    settings: ExperimentSettings
    out: Path
    cache: Path
    progress: Progress = no_progress
    made: dict[tuple[str, int, Cap], Made] = field(default_factory=dict)
    """Cells that were made or read, by method, seed and cap: every budget asks for them again."""
    drawn: set[int] = field(default_factory=set)
    """Seeds whose seed set was drawn."""
    rows: dict[tuple[str, ...], list[tuple[Sample, dict[str, Any]]]] = field(default_factory=dict)
    """What `_rows` found in these files."""

    @property
    def most(self) -> int:
        """Samples of the largest budget."""
        return self.settings.budgets[-1]

    @property
    def asked(self) -> dict[str, Any]:
        """What all cells are made with, whatever the methods and seeds."""
        return {"largest_budget": self.most, "draw": [block.n for block in self.settings.draw]}

    @property
    def parents(self) -> dict[str, str]:
        """Fingerprints of the data that cells are made of and tested with."""
        found = self._sources.items()
        parents = {name: rows.fingerprint([row.get("label") for _, row in rows]) for name, rows in found}
        if self._holds_more_out and (held_out := self._tested[0]):
            parents["holdout"] = fingerprint(held_out.fingerprints)
        return parents

    @property
    def n_skipped(self) -> dict[str, int]:
        """Rows of those files that cannot be read; after `parents`."""
        return {name: rows.n_failures for name, rows in self._sources.items() if rows.n_failures}

    @cached_property
    def _sources(self) -> dict[str, Rows]:
        asked = self.settings.run_of(next(iter(self.settings.methods)), self.out, 0).data
        drawn = Rows([block.path for block in self.settings.draw], asked.form, no_progress)
        return {"draw": drawn, "anchor": Rows(asked.anchor, asked.form, no_progress), "test": self._test(asked.form)}

    @property
    def _holds_more_out(self) -> bool:
        """Whether the run names texts to keep out besides those that are tested with."""
        asked = self.settings.run_of(next(iter(self.settings.methods)), self.out, 0)
        return len(asked.data.holdout) > len(self.settings.evaluate.test)

    def _test(self, form: str) -> Rows:
        """What is tested with: of instructions the prompts alone."""
        evaluate = self.settings.evaluate
        return Rows(evaluate.test, "message" if evaluate.task == "instruction" else form, no_progress)

    def seed_set(self, rng_seed: int) -> Path:
        """The seed set of a seed, drawn from the files of `draw`, without what is in the anchor or tested with."""
        path = self.out / "seeds" / f"{rng_seed}.jsonl"
        if rng_seed not in self.drawn:  # a file that is there may be of other data, or cut
            asked = self.settings.run_of(next(iter(self.settings.methods)), path, rng_seed)
            known = {sample.sample_id for sample, _ in self._rows(asked.data.anchor, asked)}
            rng, drawn = np.random.default_rng([rng_seed, 0]), []
            for block in self.settings.draw:
                rows = [found for found in self._rows([block.path], asked) if found[0].sample_id not in known]
                if len(rows) < block.n:
                    raise InputError(
                        f"{block.path} has {len(rows)} rows that are in neither anchor nor test nor drawn yet, and "
                        f"{block.n} are to be drawn\nDraw fewer, or give more."
                    )
                taken = _shuffled(rows, rng)[: block.n]
                known |= {sample.sample_id for sample, _ in taken}
                drawn += [row for _, row in taken]
            write_jsonl(path, drawn)
            self.drawn.add(rng_seed)
        return path

    def _rows(self, files: Sequence[str], asked: RunSettings) -> list[tuple[Sample, dict[str, Any]]]:
        """Samples with their rows, each once, without those that are tested with, whole, in part or by their prompt."""
        if (key := tuple(files)) not in self.rows:
            tested, prompts = self._tested
            found = {sample.sample_id: (sample, row) for sample, row in Rows(files, asked.data.form, no_progress)}
            self.rows[key] = [
                (sample, row) for sample, row in found.values()
                if asked_in(sample) not in prompts and not (tested and tested.holds(sample.text))
            ]  # fmt: skip
        return self.rows[key]

    @cached_property
    def _tested(self) -> tuple[Holdout | None, set[str]]:
        """What is tested with, and its prompts: read once for all that is drawn."""
        data = self.settings.run_of(next(iter(self.settings.methods)), self.out, 0).data
        return open_holdout(data), {asked_in(sample) for sample, _ in self._test(data.form)}

    def run_of(self, method: str, rng_seed: int) -> RunSettings:
        """Settings of a run by a method."""
        return self.settings.run_of(method, self.seed_set(rng_seed), rng_seed)

    def cell(self, method: str, rng_seed: int) -> Path:
        """Its folder."""
        return self.out / "cells" / f"{method}-{rng_seed}"

    def make(self, method: str, rng_seed: int) -> Made:
        """The samples of a cell; what is there already is not made again."""
        return self._made(method, rng_seed, Cap(self.most))

    def within_tokens(self, method: str, rng_seed: int, tokens: int) -> Made:
        """The samples of a cell for a budget of written tokens, however many they are."""
        is_rival = self.settings.kind(method) in METHODS
        return self._made(method, rng_seed, Cap(MOST, tokens) if is_rival else Cap(self.most))

    def _made(self, method: str, rng_seed: int, cap: Cap) -> Made:
        key = (method, rng_seed, cap)
        if key not in self.made:
            self.made[key] = self._make(method, rng_seed, cap)
        return self.made[key]

    def _make(self, method: str, rng_seed: int, cap: Cap) -> Made:
        kind = self.settings.kind(method)
        if kind == "none":
            return Made([], [])
        if kind in {"real", "anchor"}:
            return Made(self._drawn(kind, method, rng_seed), [])
        if kind in {"pool", *BY_FEATURES}:
            return self._by_features(kind, method, rng_seed)
        return self._by_rival(kind, method, rng_seed, cap)

    def _drawn(self, kind: str, method: str, rng_seed: int) -> list[dict[str, Any]]:
        """Rows of real data, or of the anchor; of toxicity those with a label."""
        asked = self.run_of(method, rng_seed)
        known = {sample.sample_id for sample, _ in Rows(asked.data.seed, asked.data.form, no_progress)}
        found = self._rows(self.settings.real if kind == "real" else asked.data.anchor, asked)
        rows = [row for sample, row in found if sample.sample_id not in known]
        if self.settings.evaluate.task == "toxicity":
            rows = [row for row in rows if is_wanted(row.get("label"), self.settings.evaluate.label) is not None]
        return _shuffled(rows, np.random.default_rng([rng_seed, 1]))[: self.most]

    def _by_features(self, kind: str, method: str, rng_seed: int) -> Made:
        asked, out, block = self.run_of(method, rng_seed), self.cell(method, rng_seed), self.settings.methods[method]
        if kind == "pool":
            budget = asked.budget.model_copy(update={"max_candidates": 0, "n_selected": self.most})
            asked = asked.model_copy(update={"budget": budget})
        choose = chooser("fac" if kind == "pool" else kind, n=self.most, share=block.share, wrong=block.wrong)
        run(asked, out, self.cache, self.progress, choose=choose)
        rows = read_jsonl(out / "samples.jsonl")
        return Made(rows, [] if kind == "pool" else _tokens_of_run(out, len(rows)))

    def _by_rival(self, kind: str, method: str, rng_seed: int, cap: Cap) -> Made:
        asked, parts = self.run_of(method, rng_seed), []
        name = "samples" if cap.written_tokens is None else f"tokens-{cap.written_tokens}"
        anchor = [sample for sample, _ in self._rows(asked.data.anchor, asked)]
        labels = anchor_labels(asked, None) or {}
        by_label = Counter(labels[s.sample_id] for s in anchor if s.sample_id in labels)
        for number, (label, n) in enumerate(sorted(by_label.items(), key=str) or [(None, len(anchor))]):
            share = n / (by_label.total() or len(anchor))
            own = [sample for sample in anchor if label is None or labels.get(sample.sample_id) == label]
            shown = _shuffled(own, np.random.default_rng([rng_seed, 2]))[: math.ceil(share * self._n_shown(rng_seed))]
            tokens = None if cap.written_tokens is None else int(share * cap.written_tokens)
            folder = write(
                kind, asked, shown, Cap(math.ceil(share * cap.n), tokens), label=label, out=self.cell(method, rng_seed),
                name=f"{name}-{number}" if by_label else name, cache=self.cache, progress=self.progress,
            )  # fmt: skip
            costs = read_jsonl(folder / COSTS)
            of_wave = [cost[OF_WAVE] for cost in costs if OF_WAVE in cost]
            tokens_by = by_sample([cost["written_tokens"] for cost in costs], of_wave)
            parts.append((share, Made(read_jsonl(folder / SAMPLES), tokens_by)))
        return mixed(parts)

    def _n_shown(self, rng_seed: int) -> int:
        """As many anchor texts as the first method by features shows its writer."""
        path = self.out / "seeds" / f"{rng_seed}-shown.json"  # methods that are added later change nothing
        if not path.exists():
            write_json(path, {"n_shown": self._n_shown_by_features(rng_seed)})
        return int(read_json(path, "n_shown")["n_shown"])

    def _n_shown_by_features(self, rng_seed: int) -> int:
        first = next((name for name in self.settings.methods if self.settings.kind(name) in BY_FEATURES), None)
        if first is None:
            return USUALLY_SHOWN
        self.make(first, rng_seed)
        attempted = read_json(self.cell(first, rng_seed) / "targets.json", "attempted")["attempted"]
        return max(1, len({span["sample_id"] for target in attempted for span in target["spans"]}))


def _shuffled(rows: Sequence[_T], rng: np.random.Generator) -> list[_T]:
    return [rows[place] for place in rng.permutation(len(rows)).tolist()]


def _tokens_of_run(out: Path, n_accepted: int) -> list[int]:
    """Written tokens by the time each sample was accepted."""
    spent, found = 0, list[int]()
    for wave in sorted((out / "synthesis" / "waves").glob("[0-9]*.jsonl")):
        rows = read_jsonl(wave)
        spent += sum(row["written_tokens"] for row in rows)
        found += [spent for row in rows if not row["reason"]]
    assert len(found) == n_accepted, "each accepted sample lies in a wave"
    return by_sample(found)
