"""The entry point: commands by panel, and the only place where errors become exit codes."""

from __future__ import annotations

import os
import sys

import click
import typer

from facsynth import __version__
from facsynth.cli import fill, measuring, proving, training
from facsynth.errors import FacsynthError

app = typer.Typer(
    name="facsynth",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Find what your fine-tuning data never teaches, and write it.\n\n"
    "Start with:  facsynth demo   or   facsynth coverage my.jsonl",
)
for panel, module in (("Measure", measuring), ("Fill", fill), ("Prove", proving), ("Advanced", training)):
    for name, command in module.COMMANDS.items():
        app.command(name, rich_help_panel=panel)(command)


@app.callback(invoke_without_command=True)
def version(
    show: bool = typer.Option(False, "--version", help="Print the version."),
) -> None:
    """Print the version where asked."""
    if show:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Run a command and leave with its exit code: 0 done, 1 error, 2 usage, 3 limit, 4 in part, 130 stopped."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except FacsynthError as err:
        print(f"facsynth: {err}", file=sys.stderr)
        sys.exit(err.exit_code)
    except click.UsageError as err:
        err.show()
        sys.exit(2)
    except click.exceptions.Exit as err:
        sys.exit(err.exit_code)
    except (KeyboardInterrupt, click.exceptions.Abort):
        print("facsynth: stopped; what was finished is kept, the same command goes on", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
