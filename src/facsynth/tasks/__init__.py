"""What a set of samples is for, a file each: a name, a definition, a rubric, the form of its samples.

A new task is one YAML file here, or one of the user's own (`task: my-task.yaml`).
"""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints, field_validator

from facsynth.blocks import Block, parse_block, read_yaml, unknown_key
from facsynth.errors import SettingsError
from facsynth.records import Task
from facsynth.synthesis.parts import Wanted
from facsynth.text.forms import form_roles

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2_000)]


def _known_form(value: str) -> str:
    form_roles(value)
    return value


class _TaskFile(Block):
    """What a task file says."""

    name: Text
    definition: Text
    """What the data is for, in a sentence."""
    rubric: tuple[Text, ...] = Field(min_length=1, max_length=40)
    """What belongs to it, a line each."""
    form: Annotated[str, AfterValidator(_known_form)] = "message"
    asks_for: Text | None = None
    """What a writer is to write, as several are called: messages that …"""
    label: Text | int | None = None
    """Every written message gets it."""

    @field_validator("rubric", mode="before")
    @classmethod
    def _lines(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value


def task_names() -> list[str]:
    """The tasks that ship, sorted."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _FOLDER.iterdir() if entry.name.endswith(".yaml"))


def load_task(name: str) -> Task:
    """A task that ships, by its name, or one of the user's own, by its file.

    Raises:
        SettingsError: neither; or a file that is no task.
    """
    if name in task_names():
        path = Path(str(_FOLDER.joinpath(f"{name}.yaml")))
    elif Path(name).suffix in {".yaml", ".yml"}:
        path = Path(name)
        if not path.is_file():
            raise SettingsError(f"there is no task file {name}\nOr name one that ships: {', '.join(task_names())}.")
    else:
        told = unknown_key(name, task_names()).replace("unknown key", "unknown task")
        raise SettingsError(f"{told}\nOr give a YAML file of yours with name, definition and rubric.")
    found = parse_block(_TaskFile, read_yaml(path, fresh=_FORM), str(path))
    return Task(found.name, found.definition, found.rubric, found.form, found.asks_for or "", found.label)


def wanted(task: Task | None, form: str, *, reply_tokens: int, turns: int = 1) -> Wanted:
    """What kind of sample is written for a task."""
    usual = Wanted(form, reply_tokens=reply_tokens, turns=turns, one="question" if form == "ab" else Wanted.one)
    if task is None:
        return usual
    many = task.asks_for or ("questions that people ask an assistant" if form == "ab" else usual.many)
    return replace(usual, many=many, behaviour=task.definition, label=task.label if form == "message" else None)


_FOLDER = files("facsynth.tasks")
_FORM = (
    "A task file is YAML in UTF-8, with name, definition, rubric (a list of lines) and, where it is no message, form; "
    "asks_for and label say what is written."
)
