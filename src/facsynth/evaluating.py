"""A downstream task on a user's own data: a model is trained on one set and tested with another.

Before: files, and the model's place. After: `result.json` and `items.jsonl` of a folder, which further results of the
same test items are compared with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from facsynth.assemble import model_folder
from facsynth.bins import Doubles, Floats
from facsynth.errors import InputError
from facsynth.lock import locked
from facsynth.model.backbone import load_backbone
from facsynth.model.final import final_states
from facsynth.model.hashes import model_hash
from facsynth.records import Progress, Sample, no_progress
from facsynth.settings import ModelBlock
from facsynth.store import Artifact, fingerprint, write_json, write_jsonl
from facsynth.tasks.resample import figure
from facsynth.tasks.toxicity import N_FOLDS, Labels, auprc, check_both_kinds, head_scores, is_wanted
from facsynth.text.corpus import Corpus, read_corpus
from facsynth.text.template import Template

RESULT, ITEMS = "result.json", "items.jsonl"
MAX_TOKENS, TAIL = 1_024, 16
"""Of a text that is read, and how many of its last tokens stay where it is cut: there the template ends."""
ANY_HOOK = "layers.0"
"""Final states do not depend on it."""


class _Part(NamedTuple):
    """The training set, or the test set."""

    corpora: list[Corpus]
    samples: list[Sample]
    labels: Labels

    @property
    def fingerprint(self) -> str:
        """Of samples and labels."""
        return fingerprint([[corpus.fingerprint for corpus in self.corpora], self.labels.tolist()])


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
    of_train, of_test = (_part(files, label, progress) for files in (train, test))
    check_both_kinds(of_train.labels, "the training set", fewest=N_FOLDS)
    check_both_kinds(of_test.labels, "the test set")
    asked = {"task": "toxicity", "head": "logistic", "seeds": [*seeds], "dtype": model.dtype}
    folder = model_folder(model.path, cache)
    parents = {"model": model_hash(folder, cache), "train": of_train.fingerprint, "test": of_test.fingerprint}
    with locked(out):
        artifact = Artifact(out, "eval", asked, parents)
        if artifact.manifest is None:
            states = _states([of_train, of_test], folder, model, cache, progress)
            scores = head_scores(states[0], of_train.labels, states[1], seeds)
            record = _record(of_train, of_test, scores)
            write_jsonl(out / ITEMS, _items(of_test, scores))
            write_json(
                out / RESULT, asked | record | {"names": {"model": model.path, "train": [*train], "test": [*test]}}
            )
            artifact.finish(n_items=len(of_test.labels))
    return out


def _part(files: Sequence[str], label: str, progress: Progress) -> _Part:
    corpora = [read_corpus(file, progress=progress) for file in files]
    samples, labels = [], []
    for corpus in corpora:
        for sample, row in corpus.rows():
            found = is_wanted(row().get("label"), label)
            if found is None:
                raise InputError(
                    f"{sample.where or corpus.name} has no label that can be read\n"
                    "Each row needs a field `label`: 1 or 0, true or false, or a word."
                )
            samples.append(sample)
            labels.append(found)
    return _Part(corpora, samples, np.array(labels, np.bool_))


def _states(parts: Sequence[_Part], folder: Path, model: ModelBlock, cache: Path, progress: Progress) -> list[Floats]:
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


def _record(train: _Part, test: _Part, scores: Doubles) -> dict[str, Any]:
    """The figure of all test items, and of those whose text is not in training."""
    seen = {sample.sample_id for sample in train.samples}
    is_new = np.array([sample.sample_id not in seen for sample in test.samples])
    apart = None
    if not is_new.all() and 0 < test.labels[is_new].sum() < is_new.sum():
        apart = _measured(test.labels[is_new], scores[:, is_new])
    return {
        **_measured(test.labels, scores), "metric": "AUPRC", "n_train": len(train.labels),
        "n_train_positive": int(train.labels.sum()), "n_seen": int((~is_new).sum()), "unseen": apart,
    }  # fmt: skip


def _measured(labels: Labels, scores: Doubles) -> dict[str, Any]:
    metric = auprc(labels)
    found = figure(metric, scores)
    return {
        "value": found.value, "ci95": [found.low, found.high],
        "n_test": len(labels), "n_test_positive": int(labels.sum()), "prevalence": float(labels.mean()),
        "by_seed": [metric(np.arange(len(labels)), row) for row in scores],
    }  # fmt: skip


def _items(test: _Part, scores: Doubles) -> Iterator[dict[str, Any]]:
    for sample, label, column in zip(test.samples, test.labels.tolist(), scores.T.tolist(), strict=True):
        yield {"sample_id": sample.sample_id, "label": int(label), "scores": column}
