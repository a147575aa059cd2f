"""The YAML file of a run, as frozen models: what it may say, and nothing else."""

from __future__ import annotations

import dataclasses
import difflib
import os
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from facsynth.coverage.threshold import Threshold
from facsynth.errors import SettingsError
from facsynth.synthesis.requests import SynthesisSettings
from facsynth.text.forms import check_compat, form_roles
from facsynth.text.layouts import Fields, kind_of

EMBEDDED = "embedded"
_T = TypeVar("_T")


def _whole_path(value: Any) -> Any:
    """What lies here, by its whole path: a run goes on from any folder. Other names stay as they are."""
    if value == "":
        raise ValueError("the name is empty; give a file or folder")
    if not isinstance(value, str) or value in {EMBEDDED, "-"} or value.startswith("hf:"):
        return value
    path = Path(os.path.expanduser(value))  # noqa: PTH111  (Path.expanduser raises where there is no such user)
    return str(path.absolute()) if os.path.exists(path) else value  # noqa: PTH110  (Path.exists raises where it may not look)


def _one_file(value: Any) -> Any:
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
            raise ValueError(_unknown(name, known))
    Fields(**value)
    return value


Place = Annotated[str, BeforeValidator(_whole_path)]
Files = Annotated[tuple[Place, ...], BeforeValidator(_one_file), AfterValidator(not_empty)]
RowFields = Annotated[dict[str, str], AfterValidator(_check_fields)]


class Block(BaseModel):
    """A part of a settings file: frozen, and no key that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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
    """Seed set and anchor: files, `-`, or Hub data sets; several are read as one."""

    seed: Files
    anchor: Files
    form: str = "message"
    fields: RowFields = {}
    """Where the parts of a row are, for layouts that are not recognised: text, messages, prompt …"""
    limit: int | None = Field(default=None, ge=1)
    """Samples read of each file at most."""

    @field_validator("form")
    @classmethod
    def _known_form(cls, value: str) -> str:
        form_roles(value)
        return value


class CoverageBlock(Block):
    """When a feature is active, which features count, and how many samples make one active."""

    threshold: str = "r0.5"
    relevance: Literal["contrast", "all"] = "contrast"
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


class WriterBlock(Block):
    """The local writer: the model above, steered."""

    batch_size: int = Field(default=64, ge=1)
    strength: float = Field(default=SynthesisSettings.strength, ge=0)
    temperature: float = Field(default=SynthesisSettings.temperature, ge=0)
    top_p: float = Field(default=SynthesisSettings.top_p, gt=0, le=1)
    max_tokens: int = Field(default=SynthesisSettings.max_tokens, ge=4)
    n_spans: int = Field(default=SynthesisSettings.n_spans, ge=1)


class BudgetBlock(Block):
    """How much is written."""

    features: int | None = Field(default=None, ge=1)
    """Attempt so many features, drawn at random with `rng_seed`; all where nothing is said."""
    per_wave: int = Field(default=SynthesisSettings.per_wave, ge=1)
    max_candidates: int = Field(default=SynthesisSettings.max_candidates, ge=1)
    """A feature without one that is accepted, then it is given up."""
    max_written_tokens: int | None = Field(default=SynthesisSettings.max_written_tokens, ge=1)
    control: float = Field(default=SynthesisSettings.control, ge=0, le=1)
    """Plain-prompt samples for the chance level, as a share of the candidates."""


class RunSettings(Block):
    """A whole run."""

    data: DataBlock
    model: ModelBlock = ModelBlock()
    sae: SaeBlock = SaeBlock()
    coverage: CoverageBlock = CoverageBlock()
    writer: WriterBlock = WriterBlock()
    budget: BudgetBlock = BudgetBlock()
    rng_seed: int = Field(default=0, ge=0)

    @property
    def synthesis(self) -> SynthesisSettings:
        """What the writing loop takes."""
        return SynthesisSettings(
            **self.writer.model_dump(exclude={"batch_size"}),
            **self.budget.model_dump(exclude={"features"}),
            rng_seed=self.rng_seed,
        )


def load_settings(path: Path) -> RunSettings:
    """Read and check a run's YAML."""
    return parse_settings(read_yaml(path), str(path))


def read_yaml(path: Path) -> Any:
    """What a settings file says.

    Raises:
        SettingsError: not there, not to be read, or not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as err:
        init = f"facsynth init {shlex.quote(str(path))}"
        raise SettingsError(f"there is no settings file {path}\nWrite one with: {init}") from err
    except OSError as err:
        raise SettingsError(f"the settings file {path} cannot be read: {err.strerror}\nGive a file of yours.") from err
    except (yaml.YAMLError, ValueError, RecursionError) as err:  # ValueError: not UTF-8, or no date or number at all
        reason = "it is nested too deeply" if isinstance(err, RecursionError) else err
        fresh = "Compare it with a fresh one: facsynth init fresh.yaml"
        raise SettingsError(f"{path} is not YAML: {reason}\n{fresh}") from err


def parse_settings(raw: Any, name: str) -> RunSettings:
    """Check what a run's YAML says; `name` is what messages call it.

    Raises:
        SettingsError: an unknown key (with the nearest known one), a missing one, or a wrong value.
    """
    return parse_block(RunSettings, raw, name)


def parse_part(kind: type[_T], raw: dict[str, Any], name: str) -> _T:
    """The settings of a stage, a dataclass, from a part of a file; as `parse_settings`."""
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]  # a dataclass
    for key in raw.keys() - set(known):
        raise SettingsError(f"{name}: {_unknown(str(key), known)}")
    try:
        return TypeAdapter(kind).validate_python(raw)
    except ValidationError as err:
        raise SettingsError(f"{name}: " + "\n".join(_explain(dict(e), known) for e in err.errors())) from err


def dump_settings(settings: RunSettings) -> str:
    """The resolved YAML of a run."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


_B = TypeVar("_B", bound=Block)


def parse_block(kind: type[_B], raw: Any, name: str) -> _B:
    """`parse_settings` for any kind of file that is made of blocks."""
    if not isinstance(raw, dict):
        found = "is empty" if raw is None else f"holds {kind_of(raw)}"
        raise SettingsError(f"{name} {found}; it needs blocks: {', '.join(kind.model_fields)}")
    try:
        # A block whose lines are all commented out is null.
        return kind.model_validate({key: value for key, value in raw.items() if value is not None})
    except SettingsError as err:
        raise SettingsError(f"{name}: {err}") from err
    except ValidationError as err:
        found = "\n".join(_explain(dict(e), _known_at(kind, e)) for e in err.errors())
        raise SettingsError(f"{name}: {found}") from err


def _known_at(kind: Any, error: Mapping[str, Any]) -> Collection[str]:
    """The keys of the block that an error is about, or lies in."""
    inside = error["loc"] if error["type"] == "model_type" else error["loc"][:-1]
    for part in inside:
        if part in getattr(kind, "model_fields", {}):
            kind = kind.model_fields[part].annotation
            kind = get_args(kind)[0] if get_args(kind) else kind  # of a list of blocks: what one of them has
    return list(getattr(kind, "model_fields", {}))


def _explain(error: dict[str, Any], known: Collection[str]) -> str:
    where, found = ".".join(str(part) for part in error["loc"]), error["input"]
    if error["type"] == "extra_forbidden":
        return _unknown(where, known)
    if error["type"] == "missing":
        return f"`{where}` is missing"
    if error["type"] == "model_type":
        return f"`{where}` is {kind_of(found)}; it has keys of its own: {', '.join(known)}"
    reason = error["msg"].removeprefix("Value error, ").replace("tuple", "list")
    return f"`{where}` is {found!r}: {reason}"


def _unknown(where: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(where.rpartition(".")[2], known, n=1, cutoff=0.4)
    hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(known)}"
    return f"unknown key `{where}`; {hint}"
