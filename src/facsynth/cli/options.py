"""Options that several commands share, and how they become settings. What is said here wins over the file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from facsynth.settings import RunSettings

Seed = Annotated[
    list[str], typer.Argument(help="The data: .jsonl .json .csv .tsv .parquet, also .gz; - for stdin; hf:owner/name.")
]
Config = Annotated[Path | None, typer.Option("--config", "-c", help="A settings file; see `facsynth init`.")]
Anchor = Annotated[list[str] | None, typer.Option("--anchor", help="What the data should reach. [the example anchor]")]
Model = Annotated[str | None, typer.Option("--model", help="A model folder or Hub id. [embedded]")]
Sae = Annotated[str | None, typer.Option("--sae", help="A SAELens folder. [embedded]")]
HookPoint = Annotated[str | None, typer.Option("--hook-point", help="Module path from 0, as layers.14. [the SAE's]")]
Form = Annotated[str | None, typer.Option("--form", help="message, chat, preference, ab or text. [message]")]
TextField = Annotated[
    str | None, typer.Option("--text-field", help="Where the text is, for other layouts; dotted paths.")
]
PromptField = Annotated[str | None, typer.Option("--prompt-field", help="Where the prompt is.")]
CompletionField = Annotated[str | None, typer.Option("--completion-field", help="Where the reply is.")]
MessagesField = Annotated[str | None, typer.Option("--messages-field", help="Where the list of messages is.")]
ChosenField = Annotated[str | None, typer.Option("--chosen-field", help="Where the preferred reply is.")]
RejectedField = Annotated[str | None, typer.Option("--rejected-field", help="Where the other reply is.")]
Threshold = Annotated[str | None, typer.Option("--threshold", help="0.0, r0.5 (of the robust maximum) or q90. [r0.5]")]
Relevance = Annotated[str | None, typer.Option("--relevance", help="contrast or all. [contrast]")]
Background = Annotated[
    str | None, typer.Option("--background", help="Folder of an encoded corpus. [ships with the SAE]")
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Read at most so many samples of each file.")]
Device = Annotated[str | None, typer.Option("--device", help="A torch device. [cpu]")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="auto, float32 or bfloat16. [auto]")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Run folder; the same command goes on in it.")]

FIELD_OPTIONS = ("text", "prompt", "completion", "messages", "chosen", "rejected")


def field_map(**given: str | None) -> dict[str, str]:
    """The fields that were named."""
    return {name: path for name, path in given.items() if path is not None}


def resolve(config: Path | None, seed: list[str] | None = None, **options: Any) -> RunSettings:
    """The settings file, if any, with everything said on the command line over it.

    Args:
        config: a YAML file.
        seed: the seed set's files.
        options: by dotted key, `coverage.threshold`; None is not said.
    """
    from facsynth.demo import example_file
    from facsynth.settings import parse_settings, read_yaml

    raw: dict[str, Any] = read_yaml(config) if config else {}
    data = raw.setdefault("data", {})
    if seed:
        data["seed"] = seed
    for key, value in options.items():
        if value is not None and value != {}:
            block, _, name = key.partition("__")
            if name:
                raw.setdefault(block, {})[name] = value
            else:
                raw[block] = value
    if isinstance(data, dict) and not data.get("anchor"):
        data["anchor"] = [str(example_file("anchor.jsonl"))]
    return parse_settings(raw, str(config) if config else "the command line")
