"""The YAML file of a run, as frozen models: what it may say, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from facsynth.asked import JudgeBlock, WriterBlock, price_of
from facsynth.blocks import EMBEDDED, Block, Place, parse_block, read_yaml, unknown_key, whole_path
from facsynth.coverage.threshold import Threshold
from facsynth.errors import SettingsError
from facsynth.limits import AcceptBlock, BudgetBlock
from facsynth.llm.budget import Caps, Price
from facsynth.meaning.asking import AskingSettings
from facsynth.meaning.judge import COUNTED, Label
from facsynth.synthesis.accept import CleanSettings
from facsynth.synthesis.candidates import RUNGS, SPANS_RUNG, STEERED_RUNG
from facsynth.synthesis.parts import Wanted
from facsynth.synthesis.requests import SynthesisSettings
from facsynth.tasks import load_task, task_names, wanted
from facsynth.text.forms import check_compat, form_roles
from facsynth.text.layouts import Fields

ENDPOINT_TOKENS = 256, 512
"""Of a message and of a reply, where a model of some size writes."""
_T = TypeVar("_T")


def one_file(value: Any) -> Any:
    """A list of the one file that is named alone."""
    return [value] if isinstance(value, str) else value


def not_empty(value: tuple[_T, ...]) -> tuple[_T, ...]:
    """Refuse a list of nothing."""
    if not value:
        raise ValueError("name at least one file")
    return value


def _check_fields(value: dict[str, str]) -> dict[str, str]:
    known = [field.name for field in dataclasses.fields(Fields)]
    for name in value:
        if name not in known:
            raise ValueError(unknown_key(name, known))
    Fields(**value)
    return value


def _task_name(value: Any) -> Any:
    if value == "":
        raise ValueError(f"the name of a task is empty; there are {', '.join(task_names())}, or give a YAML file")
    return value if value in task_names() else whole_path(value)


def _known_task(value: str) -> str:
    load_task(value)
    return value


Files = Annotated[tuple[Place, ...], BeforeValidator(one_file), AfterValidator(not_empty)]
TaskName = Annotated[str, BeforeValidator(_task_name), AfterValidator(_known_task)]
RowFields = Annotated[dict[str, str], AfterValidator(_check_fields)]


class ModelBlock(Block):
    """The language model that measures."""

    path: Place = EMBEDDED
    """`embedded`, a local folder in Hugging Face form, or a Hub id."""
    hook_point: str | None = None
    """Module path, from 0; the SAE's own where nothing is said."""
    chat_template_from: Place | None = None
    """For a base model: the folder or Hub id of the chat model whose template its chats are rendered with."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 where the machine multiplies it in hardware. Acceptance is float32."""
    device: str = "cpu"


class SaeBlock(Block):
    """The SAE, and how its codes are read."""

    path: Place = EMBEDDED
    """`embedded`, a file or folder of any known format, `hf:owner/name:path`, or `saelens:RELEASE:SAE_ID`."""
    k: int | None = Field(default=None, ge=1)
    """Latents a token keeps, of a topk SAE whose file does not say it."""
    codes: Literal["native", "relu"] = "native"
    max_tokens: int = Field(default=4096, ge=2)
    compat: Literal["", "fac"] = ""
    """fac: read texts as the paper's released scripts do; it needs the codes relu."""
    check: Annotated[Literal["refuse", "warn", "off"], BeforeValidator(lambda v: "off" if v is False else v)] = "refuse"
    """What an SAE that does not rebuild the model's activations is met with, see `docs/saes.md`."""

    @model_validator(mode="after")
    def _compat_needs_relu(self) -> Self:
        check_compat(self.compat, self.codes)
        return self


class DataBlock(Block):
    """Seed set, anchor and pool: files, `-`, or Hub data sets; several are read as one."""

    seed: Files
    anchor: Files
    pool: Annotated[tuple[Place, ...], BeforeValidator(one_file)] = ()
    """Samples to select from before anything is written."""
    holdout: Annotated[tuple[Place, ...], BeforeValidator(one_file)] = ()
    """Evaluation data: it is left out of anchor and pool, and what holds it is rejected."""
    form: str = "message"
    fields: RowFields = Field(default={})
    """Where the parts of a row are, for layouts that are not recognised: text, messages, prompt …"""
    limit: int | None = Field(default=None, ge=1)
    """Samples read of each file at most."""

    @field_validator("pool", "holdout")
    @classmethod
    def _is_there_again(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """They are read more than once, and stdin is gone by then."""
        if "-" in value:
            raise ValueError("it cannot come from stdin; give a file")
        return value

    @field_validator("form")
    @classmethod
    def _known_form(cls, value: str) -> str:
        form_roles(value)
        return value


class CoverageBlock(Block):
    """When a feature is active, which features count, and how many samples make one active."""

    threshold: str = "r0.5"
    relevance: Literal["contrast", "judge", "contrast+judge", "all"] = "contrast"
    counts: Annotated[tuple[Label, ...], AfterValidator(not_empty)] = COUNTED
    """The verdicts of a judge that make a feature relevant."""
    background: Place = EMBEDDED
    """`embedded`: the profile that ships with the SAE; or the folder of an encoded corpus."""
    anchor_support: int | None = Field(default=None, ge=1)
    """3, or 10 for a quantile threshold, where nothing is said."""
    min_support: int = Field(default=1, ge=1)

    @field_validator("threshold", mode="before")
    @classmethod
    def _one_spelling(cls, value: Any) -> Any:
        """YAML makes a number of 0.0, and 0 means the same."""
        return str(Threshold.parse(str(value))) if isinstance(value, str | int | float) else value


class RunSettings(Block):
    """A whole run."""

    data: DataBlock
    model: ModelBlock = ModelBlock()
    sae: SaeBlock = SaeBlock()
    coverage: CoverageBlock = CoverageBlock()
    task: TaskName | None = None
    """What the data is for: a task that ships, or a YAML file of one's own."""
    writer: WriterBlock = WriterBlock()
    judge: JudgeBlock = JudgeBlock()
    budget: BudgetBlock = BudgetBlock()
    accept: AcceptBlock = AcceptBlock()
    rng_seed: int = Field(default=0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _form_of_the_task(cls, raw: Any) -> Any:
        """Samples have the form of their task where nothing else is said."""
        if (
            isinstance(raw, dict)
            and raw.get("task")
            and isinstance(raw["task"], str)
            and isinstance(raw.get("data"), dict)
        ):
            return raw | {"data": {"form": load_task(str(_task_name(raw["task"]))).form} | raw["data"]}
        return raw

    @model_validator(mode="after")
    def _price_is_known(self) -> Self:
        for name, endpoint in (("writer", self.writer.endpoint), ("judge", self.judge.endpoint)):
            if self.budget.max_money is not None and endpoint and not endpoint.price:
                raise SettingsError(
                    f"budget.max_money is a cap, and what the {name}'s tokens cost is not known\n"
                    f"Give it, of a million: {name}.endpoint.price: {{prompt: 0.15, written: 0.60}}."
                )
        return self

    @model_validator(mode="after")
    def _gate_has_no_cap(self) -> Self:
        if self.accept.min_score is not None and self.caps != Caps():
            raise SettingsError(
                "accept.min_score has a judge asked besides, and no cap is held over writer and judge together\n"
                "Leave budget.max_calls, max_tokens and max_money out (max_candidates bounds both), or min_score."
            )
        return self

    @model_validator(mode="after")
    def _labels_can_be_checked(self) -> Self:
        if self.accept.check_label and len(self.synthesis.wanted.labels) < 2:
            raise SettingsError(
                "accept.check_label needs samples of the form message and a task with labels, two at least\n"
                "Name one: task: toxicity (--task), or a file of yours (docs/filling.md, Labels); or leave it out."
            )
        if self.accept.check_label and "-" in self.data.anchor:
            raise SettingsError("accept.check_label reads the anchor a second time: give it as a file, not on stdin.")
        return self

    @model_validator(mode="after")
    def _judge_knows_the_task(self) -> Self:
        if "judge" in self.coverage.relevance and self.task is None:
            raise SettingsError(
                f"relevance by {self.coverage.relevance} needs a task to judge by\n"
                f"Name one: task: {task_names()[0]} (--task), or a file of yours. There are {', '.join(task_names())}."
            )
        return self

    @property
    def caps(self) -> Caps:
        """Of all calls."""
        return Caps(self.budget.max_calls, self.budget.max_tokens, self.budget.max_money)

    @property
    def price(self) -> Price:
        """Of the writer's tokens; one in this process costs none."""
        return price_of(self.writer.endpoint)

    @property
    def asking(self) -> AskingSettings:
        """How features are explained and judged."""
        judge = self.judge
        is_chat = judge.endpoint is not None and judge.endpoint.api == "chat"
        return AskingSettings(
            n_spans=judge.n_spans, n_texts=judge.n_texts, texts_per_call=judge.texts_per_call,
            max_tokens=judge.max_tokens, asks="message" if is_chat else "continue", rng_seed=self.rng_seed,
        )  # fmt: skip

    @property
    def synthesis(self) -> SynthesisSettings:
        """What the writing loop takes."""
        writer, budget, endpoint = self.writer, self.budget, self.writer.endpoint
        usual = (STEERED_RUNG,) if endpoint is None else (SPANS_RUNG, *([STEERED_RUNG] if writer.draft else []))
        message, reply = ENDPOINT_TOKENS if endpoint else (SynthesisSettings.max_tokens, Wanted.reply_tokens)
        return SynthesisSettings(
            per_wave=budget.per_wave,
            max_candidates=budget.max_candidates,
            max_tokens=writer.max_tokens or message,
            temperature=writer.temperature,
            top_p=writer.top_p,
            rungs=usual if writer.rungs is None else tuple(rung for rung in RUNGS if rung in writer.rungs),
            strength=writer.strength,
            plain_yield=budget.plain_yield,
            min_yield=budget.min_yield,
            n_windows=budget.n_windows,
            rounds=budget.rounds,
            n_spans=writer.n_spans,
            steps=writer.steps,
            caps=self.caps,
            price=self.price,
            control=budget.control,
            asks="message" if endpoint and endpoint.api == "chat" else "continue",
            is_drafted=bool(writer.draft),
            lag=0 if endpoint is None or writer.draft else 1,
            n_tries=1 if endpoint is None else 2,
            clean=CleanSettings(**self.accept.model_dump()),
            wanted=wanted(
                load_task(self.task) if self.task else None,
                self.data.form,
                reply_tokens=writer.reply_tokens or reply,
                turns=writer.turns,
            ),
            rng_seed=self.rng_seed,
        )


def load_settings(path: Path) -> RunSettings:
    """Read and check a run's YAML."""
    return parse_settings(read_yaml(path), str(path))


def parse_settings(raw: Any, name: str) -> RunSettings:
    """Check what a run's YAML says; `name` is what messages call it.

    Raises:
        SettingsError: an unknown key (with the nearest known one), a missing one, or a wrong value.
    """
    return parse_block(RunSettings, raw, name)


def dump_settings(settings: RunSettings) -> str:
    """The resolved YAML of a run."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
