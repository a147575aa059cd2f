"""What is common to evaluations that fit a head or an adapter.

Before: `evaluating.data` reads samples, `text.ids` makes token ids of them. After: `model.final` reads these, or
`model.adapter` learns from them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from facsynth.assemble import model_folder
from facsynth.bins import Doubles, Floats
from facsynth.errors import InputError
from facsynth.evaluating.results import STAGE, Result, keep_result
from facsynth.lock import locked
from facsynth.model.adapter import RECIPES, Base, Recipe, open_base
from facsynth.model.backbone import Backbone, load_backbone
from facsynth.model.hashes import model_hash
from facsynth.model.kept import kept_states
from facsynth.records import Progress
from facsynth.settings import ModelBlock
from facsynth.store import RESTORE, Artifact, read_json, write_json
from facsynth.text.ids import Texts

Adapt = Literal["head", "lora"]
"""What is trained: a head on a frozen model's final states, or a LoRA adapter with a head; each seed has its own."""


class DataSet(Protocol):
    """What an evaluation trains or tests with."""

    @property
    def files(self) -> Sequence[str]:
        """As a user named them."""

    @property
    def fingerprint(self) -> str:
        """Of all that the result depends on."""

    @property
    def n_skipped(self) -> int:
        """Rows of the files that are left out."""


class Scored(NamedTuple):
    """What a fit gives."""

    scores: Doubles
    """[n_seeds, n_test]"""
    max_tokens: int
    """Of a text that are read."""
    n_cut: int
    """Texts of training and test that were longer."""


@dataclass(frozen=True)
class Setup:
    """What an evaluation is made with, and where its result lies."""

    task: str
    model: ModelBlock
    adapt: Adapt
    seeds: Sequence[int]
    out: Path
    cache: Path
    progress: Progress

    @property
    def recipe(self) -> Recipe:
        """Of an adapter."""
        return RECIPES[self.task]

    @cached_property
    def folder(self) -> Path:
        """Of the model."""
        return model_folder(self.model.path, self.cache)

    def backbone(self) -> Backbone:
        """The model, for final states, which do not depend on where it is hooked."""
        block = self.model
        return load_backbone(
            self.folder, hook_point="layers.0", dtype=block.dtype, device=block.device, cache=self.cache
        )

    def states(self, backbone: Backbone, texts: Texts) -> Floats:
        """Final states [n, d_model] of texts; those that were read before come from the cache."""
        return kept_states(backbone, texts.ids, self.cache, self.progress)

    def base(self) -> Base:
        """The model, for adapters."""
        return open_base(self.folder, dtype=self.model.dtype, device=self.model.device)

    def seed_by_seed(self, scores_of: Callable[[int], Doubles]) -> Doubles:
        """[n_seeds, n_test]; the scores of a seed are kept as soon as they are there, and not computed again.

        Raises:
            InputError: kept ones were changed.
        """
        found = []
        for rng_seed in self.seeds:
            path = self.out / "seeds" / f"{rng_seed}.json"
            if not path.exists():
                write_json(path, {"scores": scores_of(rng_seed).tolist()})
            found.append(read_json(path, "scores")["scores"])
            if len(found[-1]) != len(found[0]):
                raise InputError(f"{path} has scores of other test items\n{RESTORE}")
        return np.array(found, np.float64)

    def keep(
        self, train: DataSet, test: DataSet, fit: Callable[[], Scored], result: Callable[[Doubles], Result]
    ) -> Path:
        """The folder of the result of a fit, which is made where it is not there.

        Raises:
            MismatchError: the folder holds the result of something else.
        """
        asked: dict[str, Any] = {
            "task": self.task, "adapt": self.adapt, "seeds": [*self.seeds], "dtype": self.model.dtype,
        }  # fmt: skip
        if self.adapt == "lora":
            asked["recipe"] = asdict(self.recipe)
        parents = {
            "model": model_hash(self.folder, self.cache), "train": train.fingerprint, "test": test.fingerprint,
        }  # fmt: skip
        with locked(self.out):
            artifact = Artifact(self.out, STAGE, asked, parents)
            if artifact.manifest is None:
                scored = fit()
                found = result(scored.scores)
                told: dict[str, Any] = {"max_tokens": scored.max_tokens, "n_cut": scored.n_cut}
                told |= {"n_skipped": {"train": train.n_skipped, "test": test.n_skipped}}
                names = {"model": self.model.path, "train": [*train.files], "test": [*test.files]}
                keep_result(artifact, found._replace(record=asked | found.record | told | {"names": names}))
        return self.out
