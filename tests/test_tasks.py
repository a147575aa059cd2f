"""Tasks that ship read; a user's own is a YAML file; what is wrong with it is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from facsynth.errors import SettingsError
from facsynth.tasks import load_task, task_names
from facsynth.text.forms import form_roles


def test_every_task_that_ships_is_whole() -> None:
    names = task_names()
    assert {"toxicity", "reward", "sycophancy", "survival-instinct", "instruction-following"} <= set(names)
    for name in names:
        task = load_task(name)
        assert task.name == name
        assert task.definition.endswith(".") and len(task.rubric) >= 3
        form_roles(task.form)


def test_a_task_of_ones_own_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "billing.yaml"
    path.write_text("name: billing\ndefinition: Requests about bills.\nrubric: money that is owed\n", encoding="utf-8")
    task = load_task(str(path))
    assert (task.name, task.rubric, task.form) == ("billing", ("money that is owed",), "message")


@pytest.mark.parametrize(
    ("content", "reason"),
    [("name: x\ndefinition: y\n", "`rubric` is missing"), ("name: x\ndefinition: ''\nrubric: [a]\n", "`definition`"),
     ("name: x\ndefinition: y\nrubric: []\n", "`rubric`"), ("- a\n", "it needs blocks"),
     ("name: x\ndefinition: y\nrubric: [a]\nrubrick: [b]\n", "did you mean `rubric`"),
     ("name: x\ndefinition: y\nrubric: [a]\nform: poem\n", "poem")],
)  # fmt: skip
def test_what_is_no_task_is_said(content: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=reason):
        load_task(str(path))


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(SettingsError, match="did you mean `toxicity`"):
        load_task("toxic")
    with pytest.raises(SettingsError, match=r"there is no task file .*\nOr name one that ships: "):
        load_task("nowhere.yaml")
