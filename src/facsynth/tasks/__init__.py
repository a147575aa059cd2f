"""What a set of samples is for, a file each: a name, a definition, a rubric, the form of its samples.

A new task is one YAML file here, or one of the user's own (`task: my-task.yaml`).
"""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator

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
    labels: dict[Text, Text] = Field(default={}, max_length=40)
    """Of messages, each with what a writer is then to write; the first is the one that is looked for."""

    @field_validator("rubric", mode="before")
    @classmethod
    def _lines(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _labels_say_what_is_asked_for(self) -> Self:
        if self.labels and self.asks_for:
            raise ValueError("each label says what is asked for: leave asks_for out")
        if self.labels and self.form != "message":
            raise ValueError(f"labels are for messages, and the form is {self.form}: leave labels out")
        return self


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
    return Task(found.name, found.definition, found.rubric, found.form, found.asks_for or "", (*found.labels.items(),))


def wanted(task: Task | None, form: str, *, reply_tokens: int, turns: int = 1) -> Wanted:
    """What kind of sample is written for a task."""
    usual = Wanted(form, reply_tokens=reply_tokens, turns=turns, one="question" if form == "ab" else Wanted.one)
    if task is None:
        return usual
    many = next((asked for _, asked in task.labels), task.asks_for)
    many = many or ("questions that people ask an assistant" if form == "ab" else usual.many)
    found = replace(usual, many=many, behaviour=task.definition, labels=task.labels if form == "message" else ())
    return replace(found, label=found.labels[0][0]) if found.labels else found


_FOLDER = files("facsynth.tasks")
_FORM = (
    "A task file is YAML in UTF-8, with name, definition, rubric (a list of lines) and, where it is no message, form; "
    "asks_for or labels say what is written."
)
