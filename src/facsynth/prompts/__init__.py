"""Prompts, a text file each, written for this project. `$name` marks what is filled in."""

from __future__ import annotations

from importlib.resources import files
from string import Template


def fill(name: str, **values: str) -> str:
    """The prompt `name`, filled in; untrusted text goes into values only, never into the file."""
    text = files("facsynth.prompts").joinpath(f"{name}.txt").read_text(encoding="utf-8")
    return Template(text).substitute(values).strip()
