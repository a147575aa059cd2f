"""Write docs/cli.md: what `facsynth COMMAND --help` prints, panel by panel. `make docs` runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from facsynth.cli.main import PANELS, app

HEAD = """# Every command

Written by `make docs` from what `facsynth COMMAND --help` prints. Results go to stdout (`--json` where programs read
them), progress and notes to stderr. Exit codes: 0 done · 1 error with a message · 2 wrong usage or settings · 3 done,
but a limit that was asked for does not hold · 4 done in part, the same command goes on · 130 stopped.
"""


def page() -> str:
    """The whole page."""
    group = typer.main.get_command(app)
    parts = [HEAD]
    for panel, commands in PANELS.items():
        parts.append(f"\n## {panel}\n")
        for name in commands:
            command = group.commands[name]  # type: ignore[attr-defined]
            parts.append(_told(name, command))
            parts += [_told(f"{name} {inner}", found) for inner, found in getattr(command, "commands", {}).items()]
    return "".join(parts)


def _told(name: str, command: Any) -> str:
    told = command.get_help(typer.Context(command, info_name=f"facsynth {name}", terminal_width=80))
    text = "\n".join(line.rstrip() for line in told.splitlines())
    return f"\n### {name}\n\n```text\n{text}\n```\n"


if __name__ == "__main__":
    (Path(__file__).parent / "cli.md").write_text(page(), encoding="utf-8")
