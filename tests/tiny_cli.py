"""The command line on tiny parts, in this process: quick, and through the same door as a user's words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import typer.testing
import yaml
from typer.main import get_command

import tiny_run
from facsynth.cli.main import app

# The commands stay the same, and making them from the app takes 30 ms.
typer.testing._get_command = cache(get_command)


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str


def facsynth(*words: object, stdin: str | bytes | None = None) -> Done:
    """Run one command; an exception that is no exit fails the test, as it would show a user a traceback."""
    result = typer.testing.CliRunner().invoke(app, [str(word) for word in words], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    done = Done(result.exit_code, result.stdout, result.stderr)
    assert "Traceback" not in done.stderr
    return done


class Parts:
    """Model, SAE and data of `tiny_run` in one folder, with the options that name them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: dict[str, Any] = tiny_run.parts(folder)
        self.model, self.sae = folder / "model", folder / "sae"
        self.seed, self.anchor = folder / "seed.jsonl", folder / "anchor.jsonl"
        self.config = self.write("run.yaml", yaml.safe_dump(self.settings))

    @property
    def space(self) -> list[str]:
        """Options of the feature space."""
        return ["--model", str(self.model), "--sae", str(self.sae), "--dtype", "float32", "--sae-check", "off"]

    @property
    def options(self) -> list[str]:
        """Options of a measurement."""
        return ["--anchor", str(self.anchor), *self.space, "--relevance", "all"]

    def write(self, name: str, content: str | bytes) -> Path:
        """A file beside them."""
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def changed(self, block: str, key: str, value: object) -> str:
        """The settings file with one value changed."""
        return yaml.safe_dump({**self.settings, block: {**self.settings[block], key: value}})
