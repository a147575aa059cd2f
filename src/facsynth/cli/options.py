"""Options that several commands share, and how they become settings. What is said here wins over the file.

A command names the groups it takes with `@takes(SPACE, ROWS)` and hands them on as `**options` to `resolve`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facsynth.errors import InputError

if TYPE_CHECKING:
    from facsynth.settings import RunSettings

Seed = Annotated[
    list[str], typer.Argument(help="The data: .jsonl .json .csv .tsv .parquet, also .gz; - for stdin; hf:owner/name.")
]
Config = Annotated[Path | None, typer.Option("--config", "-c", help="A settings file; see `facsynth init`.")]
Device = Annotated[str | None, typer.Option("--device", help="A torch device. [cpu]")]
Shard = Annotated[
    str | None, typer.Option("--shard", help="Encode one part of several, as 2/7; `merge` puts them together.")
]
Reuse = Annotated[
    list[Path] | None, typer.Option("--reuse", help="Folder of an earlier version: only new samples are encoded.")
]
SPACE: Mapping[str, Any] = {
    "model": Annotated[str | None, typer.Option("--model", help="A model folder or Hub id. [embedded]")],
    "sae": Annotated[
        str | None, typer.Option("--sae", help="File, folder, hf:owner/name:PATH, saelens:RELEASE:ID. [embedded]")
    ],
    "sae_k": Annotated[
        int | None, typer.Option("--sae-k", min=1, help="Latents a token keeps, where its file lacks it.")
    ],
    "hook_point": Annotated[
        str | None, typer.Option("--hook-point", help="Module path from 0, as layers.14. [the SAE's]")
    ],
    "chat_template_from": Annotated[
        str | None, typer.Option("--chat-template-from", help="Chat model whose template a base model's chats take.")
    ],
    "codes": Annotated[str | None, typer.Option("--codes", help="native, or relu as the paper measured. [native]")],
    "compat": Annotated[
        str | None, typer.Option("--compat", help="fac: read texts as the paper's scripts did; with --codes relu.")
    ],
    "sae_check": Annotated[
        str | None, typer.Option("--sae-check", help="An SAE that does not fit: refuse, warn or off. [refuse]")
    ],
    "device": Device,
    "dtype": Annotated[str | None, typer.Option("--dtype", help="auto, float32, bfloat16 or float16. [auto]")],
}
"""Of model and SAE."""
ROWS: Mapping[str, Any] = {
    "form": Annotated[str | None, typer.Option("--form", help="message, chat, preference, ab or text. [message]")],
    "text_field": Annotated[
        str | None, typer.Option("--text-field", help="Where the text is, for other layouts; dotted paths.")
    ],
    "prompt_field": Annotated[str | None, typer.Option("--prompt-field", help="Where the prompt is.")],
    "completion_field": Annotated[str | None, typer.Option("--completion-field", help="Where the reply is.")],
    "messages_field": Annotated[str | None, typer.Option("--messages-field", help="Where the list of messages is.")],
    "chosen_field": Annotated[str | None, typer.Option("--chosen-field", help="Where the preferred reply is.")],
    "rejected_field": Annotated[str | None, typer.Option("--rejected-field", help="Where the other reply is.")],
    "limit": Annotated[int | None, typer.Option("--limit", min=1, help="Read at most so many samples of each file.")],
}
"""Of the data."""
MEASURING: Mapping[str, Any] = {
    "anchor": Annotated[
        list[str] | None,
        typer.Option("--anchor", help="What the data should reach; repeat it for several files. [the example anchor]"),
    ],
    "holdout": Annotated[
        list[str] | None,
        typer.Option("--holdout", help="Evaluation data, to be kept out; repeat it for more."),
    ],
    "threshold": Annotated[
        str | None, typer.Option("--threshold", help="0.0, r0.5 (of the robust maximum) or q90. [r0.5]")
    ],
    "relevance": Annotated[
        str | None, typer.Option("--relevance", help="contrast, judge, contrast+judge or all. [contrast]")
    ],
    "task": Annotated[str | None, typer.Option("--task", help="What the data is for: a name, or a YAML file.")],
    "background": Annotated[
        str | None, typer.Option("--background", help="Folder of an encoded corpus. [ships with the SAE]")
    ],
}
"""Of a measurement."""
JUDGE: Mapping[str, Any] = {
    "judge_url": Annotated[
        str | None, typer.Option("--judge-url", help="An OpenAI-compatible endpoint. [the run's, or its own model]")
    ],
    "judge_model": Annotated[str | None, typer.Option("--judge-model", help="The model to ask there.")],
}
"""Of what asks a model about features."""
MaxWait = Annotated[
    float | None,
    typer.Option("--max-wait", min=0, help="Seconds to wait for an endpoint that limits or went away. [3600]"),
]
WAIT: Mapping[str, Any] = {"max_wait": MaxWait}
"""Of what may ask an endpoint."""
PerFeature = Annotated[
    int | None, typer.Option("--per-feature", min=1, help="Samples that each feature wants at least. [1]")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Run folder; the same command goes on in it.")]
Kept = Annotated[Path | None, typer.Option("--out", "-o", help="Run folder to keep. [in the user's cache]")]

Command = Callable[..., None]


def takes(*groups: Mapping[str, Any]) -> Callable[[Command], Command]:
    """Give a command the options of `groups`, in place of its `**options`; None where one is not said."""

    def given(command: Command) -> Command:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
        shared = {name: option for group in groups for name, option in group.items()}
        needed = [p.replace(kind=p.KEYWORD_ONLY) for p in own if p.default is p.empty]
        others = [p.replace(kind=p.KEYWORD_ONLY) for p in own if p.default is not p.empty]
        taken = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
            for name, option in shared.items()
        ]
        command.__signature__ = inspect.Signature([*needed, *taken, *others])  # type: ignore[attr-defined]
        return command

    return given


KEYS = {
    "anchor": "data.anchor",
    "pool": "data.pool",
    "holdout": "data.holdout",
    "per_feature": "budget.per_feature",
    "steps": "writer.steps",
    "rounds": "budget.rounds",
    "n_selected": "budget.n_selected",
    "max_candidates": "budget.max_candidates",
    "form": "data.form",
    "limit": "data.limit",
    "model": "model.path",
    "hook_point": "model.hook_point",
    "chat_template_from": "model.chat_template_from",
    "device": "model.device",
    "dtype": "model.dtype",
    "sae": "sae.path",
    "sae_k": "sae.k",
    "codes": "sae.codes",
    "compat": "sae.compat",
    "sae_check": "sae.check",
    "threshold": "coverage.threshold",
    "relevance": "coverage.relevance",
    "background": "coverage.background",
    "task": "task",
    "judge_url": "judge.endpoint.url",
    "judge_model": "judge.endpoint.model",
    "features": "budget.features",
    "rng_seed": "rng_seed",
    **{f"{part}_field": f"data.fields.{part}" for part in
       ("text", "prompt", "completion", "messages", "chosen", "rejected")},
}  # fmt: skip
"""Where each option stands in a settings file."""


def resolve(
    config: Path | None, seed: list[str] | None = None, *, max_wait: float | None = None, **options: Any
) -> RunSettings:
    """The settings file, if any, with everything said on the command line over it.

    Args:
        config: a YAML file.
        seed: the seed set's files.
        max_wait: seconds, for every endpoint that is named.
        options: by the names of `KEYS`; None is not said.
    """
    from facsynth.blocks import read_yaml
    from facsynth.demo import example_file
    from facsynth.settings import parse_settings

    raw = read_yaml(config) if config else {}
    options = {KEYS[name]: value for name, value in options.items() if value is not None}
    options |= {"data.seed": seed} if seed else {}
    if isinstance(raw, dict):
        for key, value in options.items():
            _put(raw, key.split("."), value)
        for which in ("writer", "judge"):
            if max_wait is not None and isinstance(raw.get(which), dict) and raw[which].get("endpoint"):
                _put(raw, [which, "endpoint", "max_wait_s"], max_wait)
        data = raw.get("data")
        if isinstance(data, dict) and data.get("anchor") is None:
            data["anchor"] = [str(example_file("anchor.jsonl"))]
    sources = [*([str(config)] if config else []), *(["the command line"] if options else [])]
    return parse_settings(raw, " with ".join(sources))


def said(settings: RunSettings) -> list[str]:
    """What was asked of a measurement, as the words of a command line, but for model, SAE and the example anchor."""
    found = settings.model_dump(mode="json", exclude_defaults=True)
    if uses_example_anchor(settings):
        del found["data"]["anchor"]
    words = list(settings.data.seed)
    for name, key in KEYS.items():
        block, _, rest = key.partition(".")
        if block not in {"data", "coverage"} or name in {"relevance", "background"}:
            continue
        value: Any = found.get(block, {})
        for part in rest.split("."):
            value = value.get(part, {})
        for one in value if isinstance(value, list | dict) else [value]:  # an empty dict: not said
            words += [f"--{name.replace('_', '-')}", str(one)]
    return words


def uses_example_anchor(settings: RunSettings) -> bool:
    """Whether nothing else was named."""
    from facsynth.demo import example_file

    return settings.data.anchor == (str(example_file("anchor.jsonl")),)


def check_run_folder(folder: Path) -> None:
    """Refuse a folder that holds no run.

    Raises:
        InputError: saying what is there.
    """
    from facsynth.store import read_json

    plan = read_json(folder / "plan.json") if (folder / "plan.json").is_file() else {}
    if plan.get("stage") != "run":
        found = "there is no such folder"
        if folder.exists():
            found = "there is no plan.json of a run in it" if folder.is_dir() else "it is a file"
        if stage := plan.get("stage"):
            found = f"it holds what `facsynth {stage}` made"
        raise InputError(f"{folder} is no run folder: {found}\nName one that `facsynth missing`, `run` or `demo` made.")


def _put(raw: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        if raw.get(part) is None:
            raw[part] = {}
        if not isinstance(raw[part], dict):  # what is wrong with it is said when the settings are checked
            return
        raw = raw[part]
    raw[path[-1]] = value
