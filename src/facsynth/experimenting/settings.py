"""The YAML file of an experiment: which methods, at which budgets, on which data, measured how.

Before: a file. After: `experimenting.cells` makes samples, `experimenting.experiment` measures them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from facsynth.asked import EndpointBlock
from facsynth.baselines import METHODS
from facsynth.blocks import Block, Place, parse_block, read_yaml, unknown_key
from facsynth.errors import SettingsError
from facsynth.settings import Files, ModelBlock, RunSettings, not_empty, one_file, parse_settings
from facsynth.text.layouts import kind_of

NOTHING_WRITTEN = ("none", "real", "anchor", "pool")
"""What costs no tokens: no samples, real ones, the anchor's own texts, samples selected from a pool."""
OTHERS = ("random-features", "covered-features")
"""Kinds that attempt features of the anchor that are not missing."""
BY_FEATURES = ("fac", *OTHERS, "shuffled-spans")
NAME, LONGEST_NAME = re.compile(r"[^/\\.][^/\\]*"), 100
"""Of a method: folders are called by it."""
ONLY_OF = {
    "label": ("toxicity",), "adapt": ("toxicity", "reward"), "strength": ("steering",),
    **dict.fromkeys(("reference", "judge", "judge_pairs", "epochs", "answer_tokens"), ("instruction",)),
}  # fmt: skip
"""Settings of an evaluation that other tasks have no use for."""
KINDS = (*NOTHING_WRITTEN, *BY_FEATURES, *METHODS)


MayBeFiles = Annotated[tuple[Place, ...], BeforeValidator(one_file)]


class DrawBlock(Block):
    """A file that each seed draws its own rows from."""

    path: Place
    n: int = Field(ge=1)


class MethodBlock(Block):
    """A way to get samples."""

    kind: str = ""
    """One of `KINDS`; the method's own name where nothing is said."""
    set: dict[str, Any] = Field(default={})
    """Settings of the run that it has instead, by their dotted names."""
    share: float = Field(default=1.0, gt=0, le=1)
    """Of the features that the plan names, so many are attempted."""
    wrong: float = Field(default=0.0, ge=0, le=1)
    """Of those, so many are replaced by features that the anchor fires, drawn at random: wrong verdicts."""


class EvaluateBlock(Block):
    """What a model learns from a method's samples, as `facsynth eval` measures it."""

    task: Literal["toxicity", "reward", "steering", "instruction"]
    test: Files
    model: ModelBlock = ModelBlock()
    label: str = "toxic"
    """Of toxicity: what a positive sample is labelled, besides 1."""
    adapt: Literal["head", "lora"] = "head"
    """Of toxicity and reward: what is trained."""
    strength: float = Field(default=0.25, gt=0, le=0.5)
    """Of steering: the direction's length, as a share of a state's."""
    reference: Place | None = None
    """Of instruction: outputs to compare with."""
    judge: EndpointBlock | None = None
    """Of instruction: who compares; the model itself where nothing is said."""
    judge_pairs: MayBeFiles = ()
    """Of instruction: preference pairs for a reward head that compares in its place."""
    epochs: int = Field(default=5, ge=1)
    answer_tokens: int = Field(default=512, ge=1)
    """Of instruction: of an answer at most."""

    @model_validator(mode="after")
    def _is_of_its_task(self) -> EvaluateBlock:
        for key in sorted(self.model_fields_set):
            if self.task not in ONLY_OF.get(key, (self.task,)):
                raise ValueError(f"{key} is of {' and '.join(ONLY_OF[key])}, and the task is {self.task}: leave it out")
        return self

    @model_validator(mode="after")
    def _instruction_has_a_reference(self) -> EvaluateBlock:
        if self.task == "instruction" and not self.reference:
            raise ValueError("instruction needs outputs to compare with: reference")
        if self.judge and self.judge_pairs:
            raise ValueError("judge and judge_pairs are both given: name one of them")
        return self


class ExperimentSettings(Block):
    """A whole experiment."""

    evaluate: EvaluateBlock
    run: dict[str, Any]
    """Settings of a run, as `facsynth run` takes them, without `data.seed`."""
    draw: Annotated[tuple[DrawBlock, ...], AfterValidator(not_empty)]
    """The seed set."""
    real: MayBeFiles = ()
    """Rows for the method real."""
    methods: dict[str, MethodBlock]
    """The first is what the others are compared with."""
    budgets: tuple[Annotated[int, Field(ge=1, strict=True)], ...] = (50, 100, 200)
    """Accepted samples, nested: the first so many of one synthesis."""
    tokens_of: str = ""
    """A method whose written tokens, at each budget, are a budget for the others too; none where nothing is said."""
    token_budgets: tuple[int, ...] = ()
    """Which of the budgets are held so; all where nothing is said."""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32, strict=True)], ...] = (0, 1, 2, 3, 4)
    """Each draws the seed set, the writer's random numbers and the fit anew."""

    @field_validator("methods", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        for name, block in value.items():
            if block is not None and not isinstance(block, dict):
                raise ValueError(
                    f"{name} is {kind_of(block)}; leave out a method that is not to be tried, and of one that is what "
                    f"may stand below it: {', '.join(MethodBlock.model_fields)}"
                )
        return {str(name): block or {} for name, block in value.items()}

    @field_validator("seeds", "budgets")
    @classmethod
    def _once(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value:
            raise ValueError("name at least one")
        if len(set(value)) != len(value):
            raise ValueError("it names one twice")
        return tuple(sorted(value))

    @model_validator(mode="after")
    def _methods_are_known(self) -> ExperimentSettings:
        if len(self.methods) < 2:
            raise ValueError("an experiment compares two methods or more; see docs/evaluating.md for all there are")
        for name, method in self.methods.items():
            kind = method.kind or name
            if not NAME.fullmatch(name) or not name.isprintable() or len(name.encode()) > LONGEST_NAME:
                raise ValueError(
                    f"a method is called {name[:LONGEST_NAME]!r}: folders are called by it, so leave out / and a first "
                    f"dot, what cannot be printed, and what is beyond {LONGEST_NAME} bytes"
                )
            if kind not in KINDS:
                raise ValueError(unknown_key(kind, KINDS).replace("unknown key", "unknown method"))
            if kind not in BY_FEATURES and (method.share < 1 or method.wrong):
                raise ValueError(f"{name} has no features: share and wrong are for {', '.join(BY_FEATURES)}")
            if method.wrong and kind in OTHERS:
                raise ValueError(f"{name} has no features that are right: leave out wrong")
            if method.set and kind in {"none", "real", "anchor"}:
                raise ValueError(f"{name} makes no run that settings could change: leave out its set")
            if kind == "real" and not self.real:
                raise ValueError(f"{name} needs rows: name the files of real")
        if self.tokens_of and self.kind(self.tokens_of) in (*NOTHING_WRITTEN, ""):
            raise ValueError(f"tokens_of names {self.tokens_of}, which is no method that writes")
        if self.token_budgets and "tokens_of" not in self.model_fields_set:
            raise ValueError("token_budgets says what is held in written tokens too: say of which method, tokens_of")
        if self.tokens_of and not set(self.token_budgets) <= set(self.budgets):
            raise ValueError(f"token_budgets are some of the budgets: {', '.join(map(str, self.budgets))}")
        return self

    @property
    def held_in_tokens(self) -> tuple[int, ...]:
        """The budgets whose written tokens are budgets too."""
        return (self.token_budgets or self.budgets) if self.tokens_of else ()

    def kind(self, name: str) -> str:
        """Of a method; empty where there is none of that name."""
        return (self.methods[name].kind or name) if name in self.methods else ""

    def run_of(self, name: str, seed_set: Path, rng_seed: int) -> RunSettings:
        """The settings of a run by a method, on a seed set that was drawn.

        Raises:
            SettingsError: they are none.
        """
        data = {**_block(self.run, "data"), "seed": [str(seed_set)]}
        held_out = data.get("holdout") or ()
        data["holdout"] = [*([held_out] if isinstance(held_out, str) else held_out), *self.evaluate.test]
        if self.kind(name) != "pool":
            data.pop("pool", None)
        raw: dict[str, Any] = {**self.run, "data": data, "rng_seed": rng_seed}
        for dotted, value in self.methods[name].set.items():
            block, _, key = dotted.partition(".")
            raw[block] = {**_block(raw, block), key: value} if key else value
        return parse_settings(raw, f"the run of {name}")


def _block(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A block of a run's settings, which may be missing."""
    found = raw.get(name)
    if not isinstance(found, dict | None):
        raise SettingsError(f"run.{name} is {kind_of(found)}; it has keys of its own\nSee facsynth init.")
    return found or {}


def load_experiment(path: Path) -> ExperimentSettings:
    """Read and check the YAML of an experiment.

    Raises:
        SettingsError: an unknown key, a missing one, or a value that means nothing; of the run's settings too.
    """
    raw = _with_base(path)
    found = parse_block(ExperimentSettings, raw, str(path))
    if "seed" in _block(found.run, "data"):
        raise SettingsError(f"{path} names run.data.seed\nThe seed set is drawn: name its files under draw.")
    if "rng_seed" in found.run:
        raise SettingsError(f"{path} names run.rng_seed\nEach of seeds is the random seed of its runs: leave it out.")
    for name, method in found.methods.items():
        own = {key for key in method.set if key.partition(".")[0] in {"data", "rng_seed"}} - {"data.pool"}
        if own:
            raise SettingsError(
                f"{path}: the set of {name} names {', '.join(sorted(own))}\n"
                "Data and random seeds are those of all methods alike; a pool alone can be one's own."
            )
        try:
            run = found.run_of(name, path, 0)
        except SettingsError as err:
            raise SettingsError(f"{path}: {err}") from err
        if found.kind(name) == "pool" and not run.data.pool:
            raise SettingsError(f"{name} selects from a pool, and {path} names none\nName one: run.data.pool.")
        if found.kind(name) in METHODS and run.accept.min_score is not None:
            raise SettingsError(f"no judge rates what {name} writes\nLeave run.accept.min_score out, or {name}.")
        _check_labels(found, name, run, path)
    return found


def _check_labels(found: ExperimentSettings, name: str, run: RunSettings, path: Path) -> None:
    """Refuse what is written without labels, or with others, where a detector is to learn from it."""
    if found.evaluate.task != "toxicity" or found.kind(name) in NOTHING_WRITTEN:
        return
    labels = [label for label, _ in run.synthesis.wanted.labels]
    if not labels:
        raise SettingsError(
            f"{path}: what {name} writes would have no label, and toxicity is trained on labelled messages\n"
            "Name a task with labels: run.task, one that ships (toxicity) or a file of yours (docs/filling.md)."
        )
    if labels[0] != found.evaluate.label:
        raise SettingsError(
            f"{path}: evaluate.label is {found.evaluate.label!r}, and the task of {name} looks for {labels[0]!r}\n"
            "Give one of them the other's."
        )


def _with_base(path: Path, before: tuple[Path, ...] = ()) -> Any:
    """What a file says, over what the file that it names as `base`, beside it, says; of evaluate and run key by key."""
    raw = read_yaml(path, fresh="Name the file of an experiment: examples/experiments has some.")
    if not isinstance(raw, dict) or "base" not in raw:
        return raw
    base, own, known = raw["base"], {key: value for key, value in raw.items() if key != "base"}, (*before, path)
    if not isinstance(base, str) or any((path.parent / base).resolve() == one.resolve() for one in known):
        raise SettingsError(f"{path}: base is {base!r}\nName another experiment's file, as toxicity.yaml.")
    found = _with_base(path.parent / base, known)
    if not isinstance(found, dict):
        return found
    for key in ("evaluate", "run"):
        if isinstance(own.get(key), dict) and isinstance(found.get(key), dict):
            own[key] = found[key] | own[key]
    return found | own
