"""The YAML file of a run, as frozen models: what it may say, and nothing else."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from facsynth.errors import SettingsError
from facsynth.synthesis.requests import SynthesisSettings

EMBEDDED = "embedded"


class _Block(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelBlock(_Block):
    """The language model that measures."""

    path: str = EMBEDDED
    """`embedded`, or a local folder in Hugging Face form."""
    hook_point: str | None = None
    """Module path, from 0; the SAE's own where nothing is said."""
    dtype: str = "auto"
    """float32, bfloat16, or auto: bfloat16 where the machine multiplies it in hardware. Acceptance is float32."""
    device: str = "cpu"


class SaeBlock(_Block):
    """The SAE, and how its codes are read."""

    path: str = EMBEDDED
    """`embedded`, or a SAELens folder."""
    codes: Literal["native", "relu"] = "native"
    max_tokens: int = Field(default=4096, ge=2)


class DataBlock(_Block):
    """Seed set and anchor: files, `-`, or Hub data sets; several are read as one."""

    seed: tuple[str, ...]
    anchor: tuple[str, ...]
    form: str = "message"
    fields: dict[str, str] = {}
    """Where the parts of a row are, for layouts that are not recognised: text, messages, prompt …"""
    limit: int | None = Field(default=None, ge=1)
    """Samples read of each file at most."""


class CoverageBlock(_Block):
    """When a feature is active, which features count, and how many samples make one active."""

    threshold: str = "r0.5"
    relevance: Literal["contrast", "all"] = "contrast"
    background: str = EMBEDDED
    """`embedded`: the profile that ships with the SAE; or the folder of an encoded corpus."""
    anchor_support: int | None = Field(default=None, ge=1)
    """3, or 10 for a quantile threshold, where nothing is said."""
    min_support: int = Field(default=1, ge=1)


class WriterBlock(_Block):
    """The local writer: the model above, steered."""

    batch_size: int = Field(default=64, ge=1)
    strength: float = Field(default=0.4, ge=0)
    temperature: float = Field(default=0.9, ge=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_tokens: int = Field(default=96, ge=4)
    n_spans: int = Field(default=4, ge=1)


class BudgetBlock(_Block):
    """How much is written."""

    features: int | None = Field(default=None, ge=1)
    """Attempt so many features, drawn at random with `rng_seed`; all where nothing is said."""
    per_wave: int = Field(default=4, ge=1)
    max_candidates: int = Field(default=12, ge=1)
    """A feature, then it is given up."""
    max_written_tokens: int | None = Field(default=None, ge=1)
    control: float = Field(default=0.1, ge=0, le=1)
    """Plain-prompt samples for the chance level, as a share of the candidates."""


class RunSettings(_Block):
    """A whole run."""

    data: DataBlock
    model: ModelBlock = ModelBlock()
    sae: SaeBlock = SaeBlock()
    coverage: CoverageBlock = CoverageBlock()
    writer: WriterBlock = WriterBlock()
    budget: BudgetBlock = BudgetBlock()
    rng_seed: int = 0

    @property
    def synthesis(self) -> SynthesisSettings:
        """What the writing loop takes."""
        return SynthesisSettings(
            per_wave=self.budget.per_wave,
            max_candidates=self.budget.max_candidates,
            max_written_tokens=self.budget.max_written_tokens,
            control=self.budget.control,
            max_tokens=self.writer.max_tokens,
            temperature=self.writer.temperature,
            top_p=self.writer.top_p,
            strength=self.writer.strength,
            n_spans=self.writer.n_spans,
            rng_seed=self.rng_seed,
        )


def load_settings(path: Path) -> RunSettings:
    """Read and check a run's YAML."""
    return parse_settings(read_yaml(path), str(path))


def read_yaml(path: Path) -> Any:
    """What a settings file says.

    Raises:
        SettingsError: not there, or not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise SettingsError(f"no settings file {path}\nWrite one with: facsynth init {path}") from err
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise SettingsError(f"{path} is not YAML: {err}") from err


def parse_settings(raw: Any, name: str) -> RunSettings:
    """Check what a YAML file says; `name` is what messages call it.

    Raises:
        SettingsError: an unknown key (with the nearest known one), a missing one, or a wrong value.
    """
    if not isinstance(raw, dict):
        raise SettingsError(f"{name} holds {type(raw).__name__}, not blocks such as `data:`")
    try:
        return RunSettings.model_validate(raw)
    except ValidationError as err:
        raise SettingsError(f"{name}: " + "\n".join(_explain(dict(e)) for e in err.errors())) from err


def dump_settings(settings: RunSettings) -> str:
    """The resolved YAML of a run."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _explain(error: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        block: Any = RunSettings
        for part in error["loc"][:-1]:
            block = block.model_fields[str(part)].annotation
        near = difflib.get_close_matches(str(error["loc"][-1]), block.model_fields, n=1, cutoff=0.4)
        hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(block.model_fields)}"
        return f"unknown key `{where}`; {hint}"
    if error["type"] == "missing":
        return f"`{where}` is missing"
    return f"`{where}` is {error['input']!r}: {error['msg']}"
