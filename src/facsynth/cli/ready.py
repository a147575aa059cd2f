"""Settings files that ship, for models and SAEs that people have: `facsynth init --for NAME`."""

from __future__ import annotations

import difflib
from importlib.resources import files

from facsynth.errors import SettingsError

READY = ("llama-3.1-8b", "llama-scope", "mistral-7b-v0.2", "qwen-scope", "qwen2.5-7b")


def ready_text(name: str) -> str:
    """The settings file for `name`, with its comments.

    Raises:
        SettingsError: none ships under that name.
    """
    if name not in READY:
        near = difflib.get_close_matches(name.lower(), READY, n=1, cutoff=0.3)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise SettingsError(f"no settings file for {name} ships\n{hint}There are: {', '.join(READY)}.")
    return files("facsynth").joinpath("configs", f"{name}.yaml").read_text(encoding="utf-8")
