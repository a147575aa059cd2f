"""Whether a written message has the label that it was written with, in the eyes of a head trained on the anchor.

Before: `filling` opens it where `accept.check_label` asks for it. After: `synthesis` keeps what has its label. The head
reads the model of the run, as `eval toxicity` does, and is kept in the cache.
"""

from __future__ import annotations

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
from facsynth.records import Progress, Sample, no_progress
from facsynth.settings import RunSettings
from facsynth.store import fingerprint, read_json, write_json
from facsynth.tasks.labels import LabelHead, fit_label_head
from facsynth.text.corpus import Corpus
from facsynth.text.ids import prompts
from facsynth.text.labels import Label, name_of

VERSION = 1
"""Raised by any change of what a head is."""
KEPT = "label-head.json"
"""In the folder of a run."""


@dataclass(frozen=True)
class LabelCheck:
    """What tells the labels of samples."""

    head: LabelHead
    names: Sequence[str]
    """Of the task's labels."""
    space: FeatureSpace

    def __call__(self, samples: Sequence[Sample], labels: Sequence[Label | None]) -> list[bool]:
        """Whether each sample has its label; one that was written with none passes."""
        found = self.head.names_of(_states(samples, self.space, no_progress))
        return [label is None or name_of(label, self.names) == name for label, name in zip(labels, found, strict=True)]

    def keep(self, out: Path) -> None:
        """Write down in the folder of a run how good it is."""
        n = dict(zip(self.head.names, self.head.counts, strict=True))
        write_json(out / KEPT, {"balanced_accuracy": self.head.balanced_accuracy, "n": n})


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
        InputError: the anchor came from stdin, or as `tasks.labels.fit_label_head`.
    """
    if not settings.accept.check_label or not settings.budget.max_candidates:
        return None
    if "-" in settings.data.anchor:
        raise InputError("accept.check_label reads the anchor a second time, and stdin is gone\nGive it as a file.")
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
    path = cache / "label-heads" / f"{fingerprint(of)[:32]}.json"
    if not path.exists():
        samples = list({s.sample_id: s for s in anchor if s.sample_id in labels}.values())
        states = _states(samples, space, progress)
        head = fit_label_head(states, [str(name_of(labels[s.sample_id], names)) for s in samples])
        write_json(path, head._asdict() | {"weights": head.weights.tolist(), "bias": head.bias.tolist()})
    kept = read_json(path, *LabelHead._fields)
    weights, bias = (np.array(kept[key], np.float64) for key in ("weights", "bias"))
    return LabelHead(tuple(kept["names"]), tuple(kept["counts"]), weights, bias, float(kept["balanced_accuracy"]))


def _states(samples: Sequence[Sample], space: FeatureSpace, progress: Progress) -> Floats:
    texts = prompts(samples, space.template, space.backbone.max_positions)
    return final_states(space.backbone, texts.ids, progress)[texts.places(samples)]


def notes_on_labels(out: Path) -> list[str]:
    """How well the head of a run tells labels; nothing where they were not checked."""
    if not (out / KEPT).exists():
        return []
    found = read_json(out / KEPT, "balanced_accuracy", "n")
    n = ", ".join(f"{n:,} {name}" for name, n in found["n"].items())
    return [f"labels were checked by a head on the anchor ({n}), of balanced accuracy {found['balanced_accuracy']:.2f}"]
