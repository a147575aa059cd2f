"""The demo run: the data that ships, on the model and SAE that ship."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from facsynth.errors import InputError
from facsynth.limits import BudgetBlock
from facsynth.settings import DataBlock, RunSettings

N_FEATURES = 60
"""Attempted features, drawn at random: what fits five minutes on two cores."""


def example_file(name: str) -> Path:
    """`anchor.jsonl` or `seed.jsonl`: inside an installed package, or in the `examples` folder of a clone.

    Raises:
        InputError: in neither.
    """
    package = Path(str(files("facsynth")))
    for folder in (package / "data" / "examples", package.parent.parent / "examples"):
        if (folder / name).exists():
            return folder / name
    raise InputError(f"the example file {name} is missing from {package}\nInstall facsynth again.")


def demo_settings(rng_seed: int = 0) -> RunSettings:
    """A narrow seed set of three subjects against a broad anchor of fifteen."""
    data = DataBlock(seed=(str(example_file("seed.jsonl")),), anchor=(str(example_file("anchor.jsonl")),))
    return RunSettings(data=data, budget=BudgetBlock(features=N_FEATURES), rng_seed=rng_seed)
