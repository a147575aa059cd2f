"""Files made of blocks of settings: read from YAML, checked, and every mistake said with what would be right."""

from __future__ import annotations

import dataclasses
import difflib
import os
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from facsynth.errors import SettingsError
from facsynth.text.layouts import kind_of

_T = TypeVar("_T")
EMBEDDED = "embedded"
LONG = 120
"""Characters of a value that a message shows."""


def whole_path(value: Any) -> Any:
    """What lies here, by its whole path: a run goes on from any folder. Other names stay as they are."""
    if value == "":
        raise ValueError("the name is empty; give a file or folder")
    if not isinstance(value, str) or value in {EMBEDDED, "-"} or value.startswith("hf:"):
        return value
    path = Path(os.path.expanduser(value))  # noqa: PTH111  (Path.expanduser raises where there is no such user)
    return str(path.absolute()) if os.path.exists(path) else value  # noqa: PTH110  (Path.exists raises where it may not look)


Place = Annotated[str, BeforeValidator(whole_path)]


class Block(BaseModel):
    """A part of a settings file: frozen, and no key that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


_B = TypeVar("_B", bound=Block)


def read_yaml(path: Path, *, fresh: str = "") -> Any:
    """What a settings file says; `fresh` is the way out where it is not there or not YAML, else that of a run's file.

    Raises:
        SettingsError: not there, not to be read, or not YAML.
    """
    try:
        with path.open(encoding="utf-8-sig") as lines:  # which says in its messages what it is called
            return yaml.load(lines, _Once)
    except FileNotFoundError as err:
        way_out = fresh or f"Write one with: facsynth init {shlex.quote(str(path))}"
        raise SettingsError(f"there is no settings file {path}\n{way_out}") from err
    except OSError as err:
        raise SettingsError(f"the settings file {path} cannot be read: {err.strerror}\nGive a file of yours.") from err
    except (yaml.YAMLError, ValueError, RecursionError) as err:  # ValueError: not UTF-8, or no date or number at all
        reason = "it is nested too deeply" if isinstance(err, RecursionError) else err
        way_out = fresh or "Compare it with a fresh one: facsynth init fresh.yaml"
        raise SettingsError(f"{path} is not YAML: {reason}\n{way_out}") from err


class _Once(yaml.SafeLoader):
    """YAML in which no key stands twice in a block: the first of them would be lost without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line = key.start_mark.line + 1
            if key.value in lines:
                first = lines[key.value]
                raise SettingsError(
                    f"{self.name}, line {line}: {key.value} stands there a second time, after line {first}\n"
                    "Leave one of them out."
                )
            lines[key.value] = line
        return node


def parse_block(kind: type[_B], raw: Any, name: str) -> _B:
    """`parse_settings` for any kind of file that is made of blocks."""
    if not isinstance(raw, dict):
        found = "is empty" if raw is None else f"holds {kind_of(raw)}"
        needed = [key for key, field in kind.model_fields.items() if field.is_required()] or kind.model_fields
        raise SettingsError(f"{name} {found}; it needs blocks: {', '.join(needed)}")
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
            # Of a list or a dictionary of blocks: what one of them has.
            kind = next((arg for arg in get_args(kind) if hasattr(arg, "model_fields")), kind)
    return list(getattr(kind, "model_fields", {}))


def _explain(error: dict[str, Any], known: Collection[str]) -> str:
    where, found = ".".join(str(part) for part in error["loc"]), error["input"]
    if error["type"] == "extra_forbidden":
        return unknown_key(where, known)
    if error["type"] == "missing":
        return f"`{where}` is missing"
    if error["type"] == "model_type":
        return f"`{where}` is {kind_of(found)}; it has keys of its own: {', '.join(known)}"
    reason = error["msg"].removeprefix("Value error, ").replace("tuple", "list")
    shown = repr(found) if len(repr(found)) <= LONG else f"{repr(found)[:LONG]}…"
    return f"`{where}` is {shown}: {reason}" if where else reason


def unknown_key(where: str, known: Collection[str]) -> str:
    """What is wrong with a key, and the nearest one that is known."""
    near = difflib.get_close_matches(where.rpartition(".")[2], known, n=1, cutoff=0.4)
    hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(known)}"
    return f"unknown key `{where}`; {hint}"


def parse_part(kind: type[_T], raw: dict[str, Any], name: str) -> _T:
    """The settings of a stage, a dataclass, from a part of a file; as `parse_settings`."""
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]  # a dataclass
    for key in raw.keys() - set(known):
        raise SettingsError(f"{name}: {unknown_key(str(key), known)}")
    try:
        return TypeAdapter(kind).validate_python(raw)
    except ValidationError as err:
        raise SettingsError(f"{name}: " + "\n".join(_explain(dict(e), known) for e in err.errors())) from err
