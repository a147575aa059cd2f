"""Toxicity detection on a user's own data: a head is trained on one set of labelled messages and tested with another.

Before: files, and the model's place. After: a result folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from facsynth.assemble import model_folder
from facsynth.bins import Floats
from facsynth.errors import InputError
from facsynth.evaluating.data import Rows, shared, where_of
from facsynth.evaluating.results import STAGE, Result, keep_result, measured
from facsynth.lock import locked
from facsynth.model.backbone import load_backbone
from facsynth.model.final import final_states
from facsynth.model.hashes import model_hash
from facsynth.records import Progress, Sample, no_progress
from facsynth.settings import ModelBlock
from facsynth.store import Artifact
from facsynth.tasks.toxicity import N_FOLDS, Labels, check_both_kinds, head_scores, is_wanted
from facsynth.text.template import Template

TASK = "toxicity"
MAX_TOKENS, TAIL = 1_024, 16
"""Of a text that is read, and how many of its last tokens stay where it is cut: there the template ends."""
ANY_HOOK = "layers.0"
"""Final states do not depend on it."""


class Labelled(NamedTuple):
    """A training set, or a test set."""

    samples: list[Sample]
    labels: Labels
    fingerprint: str


def evaluate_toxicity(
    train: Sequence[str],
    test: Sequence[str],
    model: ModelBlock,
    *,
    label: str,
    seeds: Sequence[int],
    out: Path,
    cache: Path,
    progress: Progress = no_progress,
) -> Path:
    """Train a logistic head on the final states of labelled messages, and measure it on others.

    Args:
        train: files of labelled samples, together the training set.
        test: files of labelled samples.
        model: whose final states are read.
        label: the word that a positive sample is labelled with, besides 1 and true.
        seeds: of the folds by which the strength of the head's penalty is chosen; a fit each.
        out: folder of the result; the same call changes nothing.
        cache: for the embedded model and hashes.
        progress: told the samples that are read.

    Returns:
        The folder, with `result.json` (AUPRC with its interval, of all test items and of those that are not in
        training) and `items.jsonl` (of each test item its label and its score by seed).

    Raises:
        InputError: a row without a label, or too few samples of a kind.
        MismatchError: the folder holds the result of something else.
    """
    of_train, of_test = (read_labelled(files, label, progress) for files in (train, test))
    check_both_kinds(of_train.labels, "the training set", fewest=N_FOLDS)
    check_both_kinds(of_test.labels, "the test set")
    asked = {"task": TASK, "head": "logistic", "seeds": [*seeds], "dtype": model.dtype}
    folder = model_folder(model.path, cache)
    parents = {"model": model_hash(folder, cache), "train": of_train.fingerprint, "test": of_test.fingerprint}
    with locked(out):
        artifact = Artifact(out, STAGE, asked, parents)
        if artifact.manifest is None:
            states = _states([of_train, of_test], folder, model, cache, progress)
            found = _result(of_train, of_test, head_scores(states[0], of_train.labels, states[1], seeds))
            names = {"model": model.path, "train": [*train], "test": [*test]}
            keep_result(artifact, found._replace(record=asked | found.record | {"names": names}))
    return out


def read_labelled(files: Sequence[str], label: str, progress: Progress = no_progress) -> Labelled:
    """Messages with their labels.

    Raises:
        InputError: a row has none.
    """
    rows = Rows(files, "message", progress)
    samples, labels = [], []
    for sample, row in rows:
        found = is_wanted(row.get("label"), label)
        if found is None:
            raise InputError(
                f"{where_of(sample, rows)} has no label that can be read\n"
                "Each row needs a field `label`: 1 or 0, true or false, or a word."
            )
        samples.append(sample)
        labels.append(found)
    return Labelled(samples, np.array(labels, np.bool_), rows.fingerprint(labels))


def _states(
    parts: Sequence[Labelled], folder: Path, model: ModelBlock, cache: Path, progress: Progress
) -> list[Floats]:
    """Final states where a reply would begin, [n, d_model] of each part; a text that occurs twice is read once."""
    backbone = load_backbone(folder, hook_point=ANY_HOOK, dtype=model.dtype, device=model.device, cache=cache)
    most = min(MAX_TOKENS, backbone.max_positions)
    template = Template(backbone.tokenizer)
    known = {sample.sample_id: sample for part in parts for sample in part.samples}
    rows = [_cut(np.array(template.prompt_ids(sample.messages), np.int32), most) for sample in known.values()]
    states = final_states(backbone, rows, progress)
    place = {sample_id: n for n, sample_id in enumerate(known)}
    return [states[[place[sample.sample_id] for sample in part.samples]] for part in parts]


def _cut(ids: npt.NDArray[np.int32], most: int) -> npt.NDArray[np.int32]:
    """The beginning of a long text, and the end of the template: [most] tokens."""
    return ids if len(ids) <= most else np.concatenate([ids[: most - TAIL], ids[-TAIL:]])


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
        "n_train_positive": int(train.labels.sum()), "n_seen": int((~is_new).sum()), "unseen": apart,
    }  # fmt: skip
    return Result(TASK, items, scores, record)


def _kinds(labels: Labels) -> dict[str, float]:
    return {"n_test_positive": int(labels.sum()), "prevalence": float(labels.mean())}
