"""Behaviour steering with a user's own A/B pairs: a direction from one set, what it changes of the answers to another.

Before: files, and the model's place. After: a result folder.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facsynth.assemble import model_folder
from facsynth.bins import Doubles, Floats
from facsynth.errors import InputError, SettingsError
from facsynth.evaluating.data import Rows, shared, where_of
from facsynth.evaluating.results import STAGE, Result, keep_result, measured
from facsynth.lock import locked
from facsynth.model.backbone import Backbone, load_backbone
from facsynth.model.choices import Question, letter_logits, letter_states, question
from facsynth.model.hashes import model_hash
from facsynth.records import Message, Progress, Sample, no_progress
from facsynth.settings import ModelBlock
from facsynth.store import Artifact, write_jsonl
from facsynth.tasks.steering import (
    FLIPPED,
    MULTIPLIERS,
    N_NULL,
    Pair,
    differences,
    direction,
    is_right,
    null_directions,
    to_pair,
)
from facsynth.text.template import Template

TASK, RIGHT = "steering", "right.jsonl"
LEVEL = 0.95
"""Of the null, that a control rate has to be above."""


class Pairs(NamedTuple):
    """A training set, or a test set."""

    samples: list[Sample]
    pairs: list[Pair]
    sources: list[str]
    """The file of each."""
    fingerprint: str
    n_skipped: int
    """Rows that cannot be read."""
    n_twice: int
    """Questions of a test set that came again, and were left out."""


def evaluate_steering(
    train: Sequence[str],
    test: Sequence[str],
    model: ModelBlock,
    *,
    strength: float,
    flip: Collection[str],
    out: Path,
    cache: Path,
    progress: Progress = no_progress,
) -> Path:
    """Take a direction from A/B pairs, add it where the answers to others begin, and count what it changes.

    Args:
        train: files of A/B questions, together the training set.
        test: files of A/B questions.
        model: steered at its hook point, by default its middle block.
        strength: length of the direction at multiplier 1, as a share of the usual length of a state there.
        flip: of these files, those whose matching answer shows the opposite; the files of `FLIPPED` are known.
        out: folder of the result; the same call changes nothing.
        cache: for the embedded model and hashes.
        progress: told the questions that are read.

    Returns:
        The folder, with `result.json` (the control rate with its interval and its null, accuracies by multiplier),
        `items.jsonl` (of each test item its score) and `right.jsonl` (whether it is right at each multiplier).

    Raises:
        InputError: a row that is no A/B question.
        SettingsError: a strength that is none, or a file to flip that is not read.
        MismatchError: the folder holds the result of something else.
    """
    _check(strength, flip, [*train, *test])
    of_train, of_test = read_pairs(train, flip, progress), read_pairs(test, flip, progress, is_test=True)
    folder = model_folder(model.path, cache)
    asked = {"task": TASK, "hook_point": model.hook_point, "strength": strength, "dtype": model.dtype}
    parents = {"model": model_hash(folder, cache), "train": of_train.fingerprint, "test": of_test.fingerprint}
    with locked(out):
        artifact = Artifact(out, STAGE, asked, parents)
        if artifact.manifest is None:
            backbone = _backbone(folder, model, cache)
            found, right = _steered(backbone, of_train, of_test, strength, progress)
            names = {"model": model.path, "train": [*train], "test": [*test], "flip": sorted(flip)}
            more = {"hook_point": backbone.hook_point, "names": names}
            rows = ({"sample_id": s.sample_id, "right": r} for s, r in zip(of_test.samples, right, strict=True))
            write_jsonl(out / RIGHT, rows)
            keep_result(artifact, found._replace(record=asked | found.record | more))
    return out


def read_pairs(
    files: Sequence[str], flip: Collection[str], progress: Progress = no_progress, *, is_test: bool = False
) -> Pairs:
    """A/B questions of files, each read for the same behaviour; to test with each once.

    Raises:
        InputError: a row without two options of its own.
    """
    rows = Rows(files, "ab", progress)
    samples, sources, known = [], [], set[Pair]()
    pairs, read = list[Pair](), list[Pair]()
    for file, corpus in zip(files, rows.corpora, strict=True):
        is_flipped = Path(file) in {Path(name) for name in flip} or any(
            Path(file).name.startswith(name) for name in FLIPPED
        )
        for sample, row in rows.of(corpus):
            try:
                pair = to_pair(row)
            except InputError as err:
                raise InputError(f"{where_of(sample, rows)}: {err}") from err
            pair = pair.flipped() if is_flipped else pair
            read.append(pair)
            if is_test and pair in known:
                continue
            known.add(pair)
            samples.append(sample)
            pairs.append(pair)
            sources.append(file)
    asked = rows.fingerprint([[pair.letters, pair.matching] for pair in read])
    return Pairs(samples, pairs, sources, asked, rows.n_failures, n_twice=len(read) - len(pairs))


def _check(strength: float, flip: Collection[str], files: Sequence[str]) -> None:
    if not 0 < strength <= 0.5:
        raise SettingsError(f"strength is {strength}; it must be above 0 and at most 0.5, more breaks what is written")
    for name in flip:
        if Path(name) not in {Path(file) for file in files}:
            raise SettingsError(f"{name} is to be flipped, and is none of the files: {', '.join(files)}")


def _backbone(folder: Path, model: ModelBlock, cache: Path) -> Backbone:
    backbone = load_backbone(
        folder, hook_point=model.hook_point or "layers.0", dtype=model.dtype, device=model.device, cache=cache
    )
    n_blocks = int(backbone.model.config.get_text_config().num_hidden_layers)
    return backbone if model.hook_point else backbone.hooked_at(f"layers.{max(n_blocks // 2 - 1, 0)}")


def _questions(pairs: Sequence[Pair], template: Template) -> tuple[list[Question], list[int]]:
    """Each pair in both orders of its options, one after the other; and where the matching answer is."""
    questions, matching = [], []
    for pair, is_swapped in product(pairs, (False, True)):
        message = Message("user", pair.asked(is_swapped))
        questions.append(question(partial(template.prompt_ids, (message,)), pair.letters))
        matching.append(pair.matching_at(is_swapped))
    return questions, matching


def _steered(
    backbone: Backbone, train: Pairs, test: Pairs, strength: float, progress: Progress
) -> tuple[Result, list[list[int]]]:
    """The result, and of each test item whether it is right in both orders at each multiplier."""
    template = Template(backbone.tokenizer)
    questions, matching = _questions(train.pairs, template)
    states = letter_states(backbone, questions, progress)
    found = differences(states, matching).reshape(len(train.pairs), 2, -1)
    length = strength * float(np.median(np.linalg.norm(states, axis=-1)))
    along = direction(found.reshape(-1, backbone.d_model), length)
    null = null_directions(found, length, N_NULL, np.random.default_rng(0))
    vectors = np.concatenate([np.outer(MULTIPLIERS, along), -null, null]).astype(np.float32)
    asked, wanted = _questions(test.pairs, template)
    right = is_right(letter_logits(backbone, asked, vectors, progress), wanted).reshape(len(test.pairs), 2, -1)
    robust = right.prod(axis=1)[:, : len(MULTIPLIERS)].astype(int).tolist()
    return _result(train, test, right, others=_against(found, train, along)), robust


def _result(train: Pairs, test: Pairs, right: Doubles, others: list[str]) -> Result:
    """Of [n_items, 2 orders, n_vectors]."""
    n = len(MULTIPLIERS)
    robust, plain = right.prod(axis=1), right.mean(axis=(0, 1))
    scores = (robust[:, n - 1] - robust[:, 0])[None]
    null = (robust[:, n + N_NULL :] - robust[:, n : n + N_NULL]).mean(axis=0)
    items = [{"sample_id": sample.sample_id} for sample in test.samples]
    figures = measured(TASK, items, scores)
    limit = float(np.quantile(null, LEVEL))
    record: dict[str, Any] = {
        **figures, "metric": "control rate", "n_train": len(train.pairs), "multipliers": [*MULTIPLIERS],
        "robust_accuracy": robust[:, :n].mean(axis=0).tolist(), "accuracy": plain[:n].tolist(),
        "null": null.tolist(), "null_limit": limit, "is_measurable": figures["value"] > limit,
        "n_seen": sum(shared(train.samples, test.samples)), "points_away": others,
        "n_skipped": {"train": train.n_skipped, "test": test.n_skipped}, "n_twice": test.n_twice,
    }  # fmt: skip
    return Result(TASK, items, scores, record)


def _against(found: Floats, train: Pairs, along: Floats) -> list[str]:
    """Files whose own direction points away from that of all: is their matching answer the opposite one?"""
    names = list(dict.fromkeys(train.sources))
    sources = np.array(train.sources)
    return [name for name in names if len(names) > 1 and float(found[sources == name].mean(axis=(0, 1)) @ along) < 0]
