"""Whether a written message has the label that it was written with, by a head trained on the anchor's.

Before: `filling` opens it where `accept.check_label` asks for it. After: `synthesis` keeps what has its label. The head
reads the model of the run, as `eval toxicity` does, and is kept in the cache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facsynth.assemble import read_data
from facsynth.bins import Floats
from facsynth.errors import InputError
from facsynth.features.encode import FeatureSpace
from facsynth.labelling import read_labels
from facsynth.model.final import final_states
from facsynth.outcome import LABEL_HEAD
from facsynth.records import Progress, Sample, no_progress
from facsynth.settings import RunSettings
from facsynth.store import fingerprint, read_json, write_json
from facsynth.tasks.labels import LabelHead, fit_label_head, open_search
from facsynth.text.corpus import Corpus
from facsynth.text.ids import prompt_texts
from facsynth.text.labels import Label, name_of

VERSION = 2
"""Raised by any change of what a head is."""
MOST_EACH = 2_500
"""Anchor samples of a label that a head is trained on, those of the smallest ids, which are hashes."""


@dataclass(frozen=True)
class LabelCheck:
    """What tells the labels of samples."""

    head: LabelHead
    names: Sequence[str]
    """Of the task's labels."""
    space: FeatureSpace

    def __call__(self, samples: Sequence[Sample], labels: Sequence[Label | None]) -> list[bool]:
        """Whether each sample has its label; one whose label the head was not taught passes.

        Raises:
            ModelError: a final state is not finite.
        """
        predicted = self.head.names_of(_states(samples, self.space, no_progress))
        named = [name_of(label, self.names) for label in labels]
        return [name not in self.head.names or name == own for name, own in zip(named, predicted, strict=True)]

    def keep(self, out: Path) -> None:
        """Write down in the folder of a run how good it is."""
        n = dict(zip(self.head.names, self.head.counts, strict=True))
        write_json(out / LABEL_HEAD, {"balanced_accuracy": self.head.balanced_accuracy, "n": n})


def check_labels(settings: RunSettings, anchor: Corpus | None) -> None:
    """Refuse an anchor whose labels are too few to check others by, before the model is loaded.

    Args:
        settings: of the run.
        anchor: of the run; None where it is to be read.

    Raises:
        InputError, ModelError: as `tasks.labels.open_search`, and a label that the task does not know.
    """
    if settings.accept.check_label and settings.budget.max_candidates:
        names = [name for name, _ in settings.synthesis.wanted.labels]
        anchor = read_data(settings.data, "anchor") if anchor is None else anchor
        counts = Counter(str(name_of(label, names)) for label in read_labels(anchor, names).values())
        try:
            open_search(counts)
        except InputError as err:
            raise InputError(f"{anchor.name}: {err}") from err


def open_label_check(
    settings: RunSettings, space: FeatureSpace, cache: Path, progress: Progress = no_progress
) -> LabelCheck | None:
    """A head that was trained on the anchor; None where labels are not to be checked.

    Args:
        settings: of the run.
        space: whose model is read.
        cache: keeps heads.
        progress: told of the samples that are read.

    Raises:
        InputError, ModelError: as `tasks.labels.fit_label_head`.
    """
    if not settings.accept.check_label:
        return None
    anchor = read_data(settings.data, "anchor", progress)
    names = [name for name, _ in settings.synthesis.wanted.labels]
    head = _head(anchor, read_labels(anchor, names), names, space, cache=cache, progress=progress)
    return LabelCheck(head, names, space)


def _head(
    anchor: Corpus, labels: Mapping[str, Label], names: Sequence[str], space: FeatureSpace, *, cache: Path,
    progress: Progress,
) -> LabelHead:  # fmt: skip
    """From the cache, or trained."""
    of = {"version": VERSION, "anchor": anchor.fingerprint, "labels": dict(labels), "names": [*names]}
    of |= {"model": space.backbone.fingerprint, "dtype": str(space.backbone.dtype)}
    of |= {"template": space.template.fingerprint}
    path = cache / "label-heads" / f"{fingerprint(of)[:32]}.json"
    if kept := _kept(path, space.backbone.d_model):
        return kept
    samples = _some_of_each(anchor, labels, space)
    states = _states(samples, space, progress)
    head = fit_label_head(states, [str(name_of(labels[s.sample_id], names)) for s in samples])
    write_json(path, head._asdict() | {"weights": head.weights.tolist(), "bias": head.bias.tolist()})
    return head


def _some_of_each(anchor: Corpus, labels: Mapping[str, Label], space: FeatureSpace) -> list[Sample]:
    """At most `MOST_EACH` samples of a label, without those that the chat template refuses, as encoding does."""
    found, n = list[Sample](), dict[Label, int]()
    known = {sample.sample_id: sample for sample in anchor if sample.sample_id in labels}
    for sample_id in sorted(known):
        label = labels[sample_id]
        if n.get(label, 0) < MOST_EACH:
            try:
                space.template.render(known[sample_id].messages, add_generation_prompt=True)
            except InputError:
                continue
            n[label] = n.get(label, 0) + 1
            found.append(known[sample_id])
    return found


def _kept(path: Path, d_model: int) -> LabelHead | None:
    """A head of the cache; None where there is none that is whole."""
    try:
        found = read_json(path, *LabelHead._fields)
        weights, bias = (np.array(found[key], np.float64) for key in ("weights", "bias"))
        head = LabelHead(
            tuple(found["names"]), tuple(found["counts"]), weights, bias, float(found["balanced_accuracy"])
        )
    except (InputError, TypeError, ValueError):
        return None
    is_whole = (weights.shape, bias.shape) == ((len(head.names), d_model), (len(head.names),))
    return head if is_whole and len(head.counts) == len(head.names) else None


def _states(samples: Sequence[Sample], space: FeatureSpace, progress: Progress) -> Floats:
    texts = prompt_texts(samples, space.template, space.backbone.max_positions)
    return final_states(space.backbone, texts.ids, progress)[texts.places(samples)]
