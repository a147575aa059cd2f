"""Toxicity detection on a user's own data: a head, or an adapter with one, learns from labelled messages.

Before: files, and the model's place. After: a result folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from facsynth.bins import Doubles
from facsynth.errors import InputError
from facsynth.evaluating.data import Rows, shared, where_of
from facsynth.evaluating.fitting import Adapt, Scored, Setup
from facsynth.evaluating.results import Result, measured
from facsynth.model.adapter import class_scores
from facsynth.records import Progress, Sample, no_progress
from facsynth.settings import ModelBlock
from facsynth.tasks.toxicity import N_FOLDS, Labels, check_both_kinds, head_scores
from facsynth.text.ids import prompt_texts
from facsynth.text.labels import is_wanted
from facsynth.text.template import Template

TASK = "toxicity"
N_WORDS = 8
"""Spellings of labels that are told."""


class Labelled(NamedTuple):
    """A training set, or a test set."""

    samples: list[Sample]
    labels: Labels
    files: Sequence[str]
    fingerprint: str
    n_skipped: int
    """Rows that cannot be read."""
    words: Counter[str]
    """How the labels are spelt."""
    n_twice: int = 0
    """Samples of a test set that came again, and were left out."""

    def called(self, name: str) -> str:
        """The set in a message."""
        return f"{name} (labels: {', '.join(f'{n:,} {word}' for word, n in self.words.most_common(N_WORDS))})"


def evaluate_toxicity(
    train: Sequence[str],
    test: Sequence[str],
    model: ModelBlock,
    *,
    label: str,
    adapt: Adapt = "head",
    seeds: Sequence[int],
    out: Path,
    cache: Path,
    progress: Progress = no_progress,
) -> Path:
    """Train a classifier of labelled messages, and measure it on others.

    Args:
        train: files of labelled samples, together the training set.
        test: files of labelled samples.
        model: that reads them.
        label: the word that a positive sample is labelled with, besides 1 and true.
        adapt: what is trained: `head`, a logistic one on final states that are computed once, or `lora`.
        seeds: of the folds by which the strength of the head's penalty is chosen, or of an adapter; a fit each.
        out: folder of the result; the same call goes on with the seed that is not there, and changes nothing.
        cache: for the embedded model and hashes.
        progress: told the samples that are read, and the steps.

    Returns:
        The folder, with `result.json` (AUPRC with its interval, of all test items and of those that are not in
        training) and `items.jsonl` (of each test item its label and its score by seed).

    Raises:
        InputError: a row without a label, or too few samples of a kind.
        MismatchError: the folder holds the result of something else.
    """
    of_train, of_test = read_labelled(train, label, progress), read_labelled(test, label, progress, is_test=True)
    check_both_kinds(of_train.labels, of_train.called("the training set"), fewest=N_FOLDS if adapt == "head" else 1)
    check_both_kinds(of_test.labels, of_test.called("the test set"))
    setup = Setup(TASK, model, adapt, seeds, out, cache, progress)
    fit = _by_head if adapt == "head" else _by_adapter
    return setup.keep(
        of_train, of_test, lambda: fit(of_train, of_test, setup), lambda scores: _result(of_train, of_test, scores)
    )


def read_labelled(
    files: Sequence[str], label: str, progress: Progress = no_progress, *, is_test: bool = False
) -> Labelled:
    """Messages with their labels; to test with each once.

    Raises:
        InputError: a row has none, or one to test with has another than the same text before.
    """
    rows = Rows(files, "message", progress)
    samples, labels, read, words, known = [], [], [], Counter[str](), dict[str, bool]()
    for sample, row in rows:
        found = is_wanted(row.get("label"), label)
        if found is None:
            raise InputError(
                f"{where_of(sample, rows)} has no label that can be read\n"
                "Each row needs a field `label`: 1 or 0, true or false, or a word."
            )
        read.append(found)
        is_again = is_test and sample.sample_id in known
        if is_again and known[sample.sample_id] is not found:
            raise InputError(
                f"{where_of(sample, rows)} has another label than the same text before it\n"
                "Leave one of them out: what is tested with has one label."
            )
        known[sample.sample_id] = found
        if is_again:
            continue
        samples.append(sample)
        labels.append(found)
        words[str(row["label"]).strip().casefold()] += 1
    n_twice = len(read) - len(samples)
    return Labelled(samples, np.array(labels, np.bool_), files, rows.fingerprint(read), rows.n_failures, words, n_twice)


def _by_head(train: Labelled, test: Labelled, setup: Setup) -> Scored:
    backbone = setup.backbone()
    texts = prompt_texts([*train.samples, *test.samples], Template(backbone.tokenizer), backbone.max_positions)
    states = setup.states(backbone, texts)
    of_train, of_test = (states[texts.places(part.samples)] for part in (train, test))
    return Scored(head_scores(of_train, train.labels, of_test, setup.seeds), texts.max_tokens, texts.n_cut)


def _by_adapter(train: Labelled, test: Labelled, setup: Setup) -> Scored:
    base = setup.base()
    most = min(setup.recipe.max_tokens, base.max_positions)
    texts = prompt_texts([*train.samples, *test.samples], Template(base.tokenizer), most)
    of_train, of_test = texts.of(train.samples), texts.of(test.samples)

    def scores_of(rng_seed: int) -> Doubles:
        return class_scores(
            base, setup.recipe, of_train, train.labels, of_test, rng_seed=rng_seed, progress=setup.progress
        )

    return Scored(setup.seed_by_seed(scores_of), texts.max_tokens, texts.n_cut)


def _result(train: Labelled, test: Labelled, scores: npt.NDArray[np.float64]) -> Result:
    """The figure of all test items, and of those whose text is not in training."""
    items = [
        {"sample_id": sample.sample_id, "label": int(label)}
        for sample, label in zip(test.samples, test.labels, strict=True)
    ]
    is_new = ~np.array(shared(train.samples, test.samples), np.bool_)
    apart = None
    if not is_new.all() and 0 < test.labels[is_new].sum() < is_new.sum():
        new = np.flatnonzero(is_new)
        apart = measured(TASK, [items[n] for n in new], scores[:, new]) | _kinds(test.labels[new])
    record = {
        **measured(TASK, items, scores), **_kinds(test.labels), "metric": "AUPRC", "n_train": len(train.labels),
        "n_train_positive": int(train.labels.sum()),
        "labels": {"training": dict(train.words.most_common(N_WORDS)), "test": dict(test.words.most_common(N_WORDS))},
        "n_seen": int((~is_new).sum()), "unseen": apart, "n_twice": test.n_twice,
    }  # fmt: skip
    return Result(TASK, items, scores, record)


def _kinds(labels: Labels) -> dict[str, float]:
    return {"n_test_positive": int(labels.sum()), "prevalence": float(labels.mean())}
