"""The samples of a rival method, with all that it may be given: the writer, anchor texts, vectors and gradients.

Before: the settings of a run. After: `experimenting.cells`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from facsynth.assemble import open_holdout, open_space, read_data
from facsynth.baselines import BY_ENCODER, METHODS
from facsynth.baselines.frame import Cap, collect, messages_of
from facsynth.baselines.given import Embed, Given
from facsynth.bins import Floats
from facsynth.features.encode import FeatureSpace
from facsynth.label_check import LabelCheck, check_labels, open_label_check
from facsynth.llm import Ledger
from facsynth.model.encoder import check_encoder, open_encoder
from facsynth.model.gradients import loss_gradients
from facsynth.model.writer import LocalWriter
from facsynth.records import Message, Progress, Sample
from facsynth.settings import RunSettings
from facsynth.store import fingerprint
from facsynth.synthesis.seen import Seen
from facsynth.text.corpus import Corpus
from facsynth.text.labels import Label
from facsynth.writers import opened_model


class _Models:
    """What is opened when a method first asks for it."""

    def __init__(self, asked: RunSettings, cache: Path) -> None:
        self._asked, self._cache = asked, cache

    @cached_property
    def space(self) -> FeatureSpace:
        """The model, with its SAE."""
        return open_space(self._asked, self._cache)

    def writer(self) -> LocalWriter:
        """The model of the run, not steered."""
        space = self.space
        return LocalWriter(space.backbone, space.template.prompt_ids, {}, batch_size=self._asked.writer.batch_size)

    @cached_property
    def _encode(self) -> Embed:
        return open_encoder(self._asked.synthesis.clean.encoder)

    def embed(self, texts: Sequence[str]) -> Floats:
        """By the sentence encoder."""
        return self._encode(texts)

    @cached_property
    def _label_check(self) -> LabelCheck | None:
        return open_label_check(self._asked, self.space, self._cache)

    def has_label(self, samples: Sequence[Sample], labels: Sequence[Label | None]) -> list[bool]:
        """By the head that the run's own samples are checked by."""
        assert self._label_check, "asked for where accept.check_label is"
        return self._label_check(samples, labels)

    def gradients(self, texts: Sequence[str]) -> Floats:
        """Of the model of the run, as the proxy."""
        tokens = self.space.read([Sample((Message("user", text),)) for text in texts]).tokens
        return loss_gradients(self.space.backbone, [t.ids for t in tokens], [t.content for t in tokens])


def check_means(kind: str, asked: RunSettings) -> None:
    """Refuse what a method would turn out to lack only after others have written.

    Raises:
        ModelError, InputError: packages of a sentence encoder, or labels of the anchor to check others by.
    """
    if kind in BY_ENCODER or asked.synthesis.clean.alike is not None:
        check_encoder(asked.synthesis.clean.encoder)
    check_labels(asked, None)


def write(
    kind: str, asked: RunSettings, shown: Sequence[Sample], cap: Cap, *, label: Label | None, out: Path,
    name: str, cache: Path, progress: Progress,
) -> Path:  # fmt: skip
    """Let a method write; the folder `name` in `out`, as `collect` leaves it, beside the ledger that all caps share.

    Args:
        kind: of the method.
        asked: settings of the run that it stands beside.
        shown: anchor samples that prompts may show.
        cap: where it stops.
        label: of the samples; None: the task's own.
        out: of the cell.
        name: of the folder.
        cache: for models and hashes.
        progress: told of accepted samples.
    """
    anchor, seed_set = (read_data(asked.data, which, progress) for which in ("anchor", "seed"))
    models, clean, form = _Models(asked, cache), asked.synthesis.clean, asked.data.form
    settings = replace(asked.synthesis, wanted=asked.synthesis.wanted.of(label))
    given = Given(
        settings, messages_of(shown, form), messages_of([*seed_set], form), embed=models.embed,
        gradients=models.gradients,
    )  # fmt: skip
    encode = None if clean.alike is None else models.embed
    holdout = open_holdout(asked.data)
    seen = Seen.of(_texts(anchor, seed_set), clean, holdout, encode)
    out.mkdir(parents=True, exist_ok=True)
    with (
        Ledger.open(out / "ledger.sqlite") as ledger,
        opened_model(asked, "writer", ledger, models.writer, progress=progress) as writer,
    ):
        parents = {"anchor": anchor.fingerprint, "seed": seed_set.fingerprint, "encoder": clean.encoder}
        parents |= {"holdout": fingerprint(holdout.fingerprints)} if holdout else {}
        collect(
            kind, METHODS[kind], given, writer, cap,
            out=out / name, seen=seen, parents=parents, has_label=models.has_label if clean.check_label else None,
            progress=progress,
        )  # fmt: skip
    return out / name


def _texts(*corpora: Corpus) -> list[tuple[str, str]]:
    return [(sample.sample_id, sample.text) for corpus in corpora for sample in corpus]
