"""Prompts, a text file each, written for this project. `$name` marks what is filled in."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from string import Template

_CONTROL = re.compile(
    r"<(?=[|｜])|<(?=/?(?:s|bos|eos|pad|unk|start_of_\w+|end_of_\w+|tool_\w+|think)>)|<(?=<(?:/?SYS)>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_\w+)\])"
)
"""Where something begins that chat templates are made of."""


def fill(name: str, **values: str) -> str:
    """The prompt `name`, filled in; untrusted text goes into values only, never into the file."""
    text = files("facsynth.prompts").joinpath(f"{name}.txt").read_text(encoding="utf-8")
    return Template(text).substitute(values).strip()


def apart(text: str) -> str:
    """Untrusted text that ends no turn: what chat templates are made of gets a space behind its first sign."""
    return _CONTROL.sub(lambda found: f"{found[0]} ", text)


def quoted(text: str) -> str:
    """Untrusted text as one JSON string, which ends where it is to end."""
    return json.dumps(apart(text), ensure_ascii=False)
