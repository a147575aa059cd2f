"""The commands by panel, and the only place where errors become exit codes. Before: `facsynth.__main__`, the door."""

from __future__ import annotations

import errno
import inspect
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from facsynth import __version__
from facsynth.cli import (
    advanced,
    calls,
    checking,
    comparing,
    evaluating,
    experimenting,
    explaining,
    exporting,
    fill,
    instructing,
    matching,
    measuring,
    proving,
    varied,
)
from facsynth.cli.console import Panel, note
from facsynth.errors import FacsynthError

evaluating.app.command("instruction")(instructing.instruction)
PANELS: dict[str, Panel] = {
    "Measure": {**checking.COMMANDS, **measuring.COMMANDS, **comparing.COMMANDS, **varied.COMMANDS},
    "Explain": explaining.COMMANDS,
    "Fill": {**fill.COMMANDS, **exporting.COMMANDS},
    "Prove": {**proving.COMMANDS, **evaluating.COMMANDS},
    "Advanced": {**advanced.COMMANDS, **experimenting.COMMANDS, **matching.COMMANDS, **calls.COMMANDS},
}
MACHINE = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than this system lets it be (see ulimit -f)",
    errno.EACCES: "this user may not read or write it",
    errno.EPERM: "this user may not read or write it",
    errno.EROFS: "the file system can only be read",
    errno.EIO: "the disk does not answer as it should",
    errno.EISDIR: "it is a folder where a file should be",
    errno.ENOTDIR: "a part of it is a file where a folder should be",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EMFILE: "this process has too many files open (see ulimit -n)",
}
"""What the machine may refuse at any read or write. Other OSErrors that come this far are bugs, with a traceback."""


NO_MEMORY = (
    "out of memory\nWhat was finished is kept. Set model.device: cpu (--device cpu), or a smaller writer.batch_size in "
    "the settings file (of a run: facsynth.yaml in its folder), and run the command again; or use a smaller model in a "
    "new folder."
)


class Commands(TyperGroup):
    """Commands listed by panel; an error or a Ctrl-C ends in a message and an exit code."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Plain text: Typer's own panels take twice as long to load and change with the terminal."""
        del ctx
        for panel, commands in PANELS.items():
            with formatter.section(panel):
                formatter.write_dl([(name, _summary(command)) for name, command in commands.items()])

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Read the words of the group; --help and --version print here."""
        with _exits():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with _exits():
            result = super().invoke(ctx)
            sys.stdout.flush()
        return result


@contextmanager
def _exits() -> Iterator[None]:
    """0 done, 1 error, 2 usage or settings, 3 a limit does not hold, 4 done in part, 130 stopped."""
    try:
        yield
    except FacsynthError as err:
        raise _stop(str(err), err.exit_code) from err
    except KeyboardInterrupt as err:
        raise _stop("stopped; what was finished is kept, the same command goes on", 130) from err
    except BrokenPipeError as err:  # of `| head`: nobody reads on
        _let_go_of_stdout()
        raise typer.Exit(0) from err
    except (MemoryError, RuntimeError) as err:
        # The latter is torch's, which is not imported here.
        if not isinstance(err, MemoryError) and type(err).__name__ != "OutOfMemoryError":
            raise
        raise _stop(NO_MEMORY, 1) from err
    except OSError as err:
        if err.errno not in MACHINE:
            raise
        _let_go_of_stdout()
        where = f"{err.filename}: " if err.filename else ""
        what = f"{where}{MACHINE[err.errno]} ({err.strerror})"
        raise _stop(f"{what}\nWhat was finished is kept. Mend that and run the same command again.", 1) from err


def _let_go_of_stdout() -> None:
    """Where it takes nothing any more: Python flushes it once more at its end, and would say so."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stop(message: str, code: int) -> typer.Exit:
    note(f"facsynth: {message}")
    return typer.Exit(code)


def _summary(command: Any) -> str:
    """The first paragraph of a command's docstring, or of a group's help, on one line."""
    told = str(command.info.help) if isinstance(command, typer.Typer) else command.__doc__
    return " ".join(inspect.cleandoc(told).split("\n\n")[0].split())


app = typer.Typer(
    name="facsynth",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Find what your fine-tuning data never teaches, and write it.\n\n"
    "Start with:  facsynth demo   or   facsynth coverage my.jsonl",
)
for panel, commands in PANELS.items():
    for name, command in commands.items():
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, rich_help_panel=panel)
        else:
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
    """Run a command and leave with its exit code."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers' own bars go by it too
    os.environ.setdefault("TQDM_DISABLE", "1")  # … but for that of the conversion from GGUF
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by who called, as in `>&-`
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115  (open to the end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 gets ? for →
    app()
