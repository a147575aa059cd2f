"""Reward modelling on a user's own data: a head, or an adapter with one, learns from pairs which reply is better.

Before: files, and the model's place. After: a result folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facsynth.bins import Doubles, Ints
from facsynth.errors import InputError
from facsynth.evaluating.data import Rows, shared
from facsynth.evaluating.fitting import Adapt, Scored, Setup
from facsynth.evaluating.results import Result, measured
from facsynth.model.adapter import rewards
from facsynth.records import Progress, Sample, no_progress
from facsynth.settings import ModelBlock
from facsynth.tasks.reward import FEWEST, SECTION_OF, SECTIONS, check_enough, check_subsets, pair_scores
from facsynth.text.forms import to_sample
from facsynth.text.ids import Texts, tokenized
from facsynth.text.layouts import RowError
from facsynth.text.template import Template

TASK = "reward"
MAX_TOKENS = 1_024
"""The last of a text that are read."""


class Pair(NamedTuple):
    """Two replies to one prompt, each with it."""

    prompt: Sample
    chosen: Sample
    rejected: Sample
    subset: str | None

    @property
    def ids(self) -> tuple[str, str]:
        """Of the two replies, each with its prompt."""
        return self.chosen.sample_id, self.rejected.sample_id


class Pairs(NamedTuple):
    """A training set, or a test set."""

    pairs: list[Pair]
    n_skipped: int
    """Rows that are no pair: a reply is not there, it is empty, or both are the same."""
    files: Sequence[str]
    fingerprint: str
    n_twice: int = 0
    """Pairs of a test set that came again, and were left out."""

    @property
    def chosen(self) -> list[Sample]:
        """The better replies."""
        return [pair.chosen for pair in self.pairs]

    @property
    def rejected(self) -> list[Sample]:
        """The other ones."""
        return [pair.rejected for pair in self.pairs]


def evaluate_reward(
    train: Sequence[str],
    test: Sequence[str],
    model: ModelBlock,
    *,
    adapt: Adapt = "head",
    seeds: Sequence[int],
    out: Path,
    cache: Path,
    progress: Progress = no_progress,
) -> Path:
    """Train a Bradley-Terry reward model on pairs, and measure how often it finds the better reply of others.

    Args:
        train: files of pairs, together the training set.
        test: files of pairs; where they have RewardBench's subsets, the figure is the mean over its sections.
        model: that rewards are read from.
        adapt: what is trained: `head`, on final states that are computed once, or `lora`, with TRL's RewardTrainer.
        seeds: of the folds by which the strength of the head's penalty is chosen, or of an adapter; a fit each.
        out: folder of the result; the same call goes on with the seed that is not there, and changes nothing.
        cache: for the embedded model and hashes.
        progress: told the samples that are read, and the steps.

    Returns:
        The folder, with `result.json` (accuracy with its interval, by section, and of those whose prompts are not in
        training) and `items.jsonl` (of each test item its subset and by how much the chosen reply is better, by seed).

    Raises:
        InputError: no pairs, too few of them, or test items with and without RewardBench's subsets.
        MismatchError: the folder holds the result of something else.
    """
    of_train, of_test = read_pairs(train, progress), read_pairs(test, progress, is_test=True)
    check_enough(len(of_train.pairs), fewest=FEWEST if adapt == "head" else 1)
    check_subsets([pair.subset for pair in of_test.pairs])
    setup = Setup(TASK, model, adapt, seeds, out, cache, progress)
    fit = by_head if adapt == "head" else _by_adapter
    return setup.keep(
        of_train, of_test, lambda: fit(of_train, of_test, setup), lambda scores: _result(of_train, of_test, scores)
    )


def read_pairs(files: Sequence[str], progress: Progress = no_progress, *, is_test: bool = False) -> Pairs:
    """Pairs of replies, in any layout; to test with each once.

    Raises:
        InputError: there is none.
    """
    rows = Rows(files, "preference", progress)
    pairs, read, known = list[Pair](), list[Pair](), set[tuple[str, str]]()
    n_skipped, reason = 0, "the row has no rejected reply"
    for chosen, row in rows:
        try:
            pair = _pair(chosen, row)
            if pair.rejected.sample_id == chosen.sample_id:
                raise RowError("both replies are the same")
            read.append(pair)
            if not (is_test and pair.ids in known):
                pairs.append(pair)
            known.add(pair.ids)
        except RowError as err:
            n_skipped, reason = n_skipped + 1, f"{chosen.where}: {err}"
    if not pairs:
        raise InputError(
            f"{rows.name} has no pairs of a chosen and a rejected reply\n  {reason}\n"
            "Each row needs both: prompt, chosen and rejected; or chosen and rejected with the whole conversation."
        )
    more = [[pair.rejected.sample_id, pair.subset] for pair in read]
    return Pairs(pairs, n_skipped + rows.n_failures, files, rows.fingerprint(more), len(read) - len(pairs))


def _pair(chosen: Sample, row: Mapping[str, Any]) -> Pair:
    """Of a row in its form's layout."""
    if not row.get("rejected"):
        raise RowError("the row has no rejected reply")
    rejected = to_sample({"prompt": row["prompt"], "chosen": row["rejected"]}, "preference").sample
    end = max((n for n, message in enumerate(chosen.messages, start=1) if message.role == "user"), default=0)
    return Pair(Sample(chosen.messages[:end]), chosen, rejected, row.get("subset"))


def by_head(train: Pairs, test: Pairs, setup: Setup) -> Scored:
    """By how much the chosen replies of a test set are better, by a head for each of `setup.seeds`."""
    backbone = setup.backbone()
    texts = _texts(train, test, backbone.tokenizer, min(MAX_TOKENS, backbone.max_positions))
    states = setup.states(backbone, texts)
    of_train, of_test = (
        states[texts.places(part.chosen)] - states[texts.places(part.rejected)] for part in (train, test)
    )
    return Scored(pair_scores(of_train, of_test, setup.seeds), texts.max_tokens, texts.n_cut)


def _by_adapter(train: Pairs, test: Pairs, setup: Setup) -> Scored:
    base = setup.base()
    texts = _texts(train, test, base.tokenizer, min(setup.recipe.max_tokens, base.max_positions))
    chosen, rejected = texts.of(train.chosen), texts.of(train.rejected)
    better, worse = texts.places(test.chosen), texts.places(test.rejected)
    tested = sorted({*better, *worse})
    of_test = [texts.ids[place] for place in tested]

    def scores_of(rng_seed: int) -> Doubles:
        found = np.zeros(len(texts.ids))
        found[tested] = rewards(
            base, setup.recipe, chosen, rejected, of_test, rng_seed=rng_seed, progress=setup.progress
        )
        return found[better] - found[worse]

    return Scored(setup.seed_by_seed(scores_of), texts.max_tokens, texts.n_cut)


def _texts(train: Pairs, test: Pairs, tokenizer: Any, most: int) -> Texts:
    """Whole chats, of long ones the end."""
    template = Template(tokenizer)
    samples = [sample for part in (train, test) for sample in (*part.chosen, *part.rejected)]
    return tokenized(samples, lambda sample: template.rendered_ids(sample.messages), most=most, tail=most)


def _result(train: Pairs, test: Pairs, scores: Doubles) -> Result:
    """The figure of all test items, by section, and of those whose prompt is not in training."""
    items = [
        {"sample_id": pair.chosen.sample_id, "rejected_id": pair.rejected.sample_id}
        | ({"subset": pair.subset} if pair.subset is not None else {})
        for pair in test.pairs
    ]
    is_new = ~np.array(shared([pair.prompt for pair in train.pairs], [pair.prompt for pair in test.pairs]), np.bool_)

    def figure_of(places: Ints) -> dict[str, Any]:
        return measured(TASK, [items[n] for n in places], scores[:, places])

    section_of = np.array([SECTION_OF.get(pair.subset or "", "") for pair in test.pairs])
    sections = {name: figure_of(np.flatnonzero(section_of == name)) for name in SECTIONS if name in section_of}
    apart = figure_of(np.flatnonzero(is_new)) if is_new.any() and not is_new.all() else None
    record = {
        **figure_of(np.arange(len(items))), "metric": "mean of section accuracies" if sections else "accuracy",
        "sections": sections, "lacking": [name for name in SECTIONS if sections and name not in sections],
        "n_train": len(train.pairs), "n_ties": (scores == 0).sum(axis=1).tolist(),
        "n_seen": int((~is_new).sum()),
        "unseen": apart, "n_twice": test.n_twice,
    }  # fmt: skip
    return Result(TASK, items, scores, record)
