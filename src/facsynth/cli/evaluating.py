"""Prove: eval, what a model learns from the data, a command a task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from facsynth.cli import options as o
from facsynth.cli.console import Panel, cache_folder, note, print_json, print_table, shown_progress

if TYPE_CHECKING:
    from facsynth.settings import ModelBlock

Test = Annotated[list[str], typer.Option("--test", help="A file to test with; may be given again.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the result.")]
Model = Annotated[str, typer.Option("--model", help="A model folder or Hub id.")]
Device = Annotated[str, typer.Option("--device", help="A torch device.")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"], typer.Option("--dtype", help="Precision of the model.")
]


def toxicity(
    train: Annotated[list[str], typer.Argument(help="Labelled files, or exports, to train on: together one set.")],
    test: Test,
    out: Out,
    model: Model = "embedded",
    label: Annotated[str, typer.Option("--label", help="What a positive sample is labelled, besides 1.")] = "toxic",
    n_seeds: Annotated[int, typer.Option("--seeds", min=1, help="Fits, each with folds of its own.")] = 5,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    json: o.Json = False,
) -> None:
    """How well a head on a frozen model's final states tells labelled messages apart, trained on your data: AUPRC.

    Example:  facsynth eval toxicity train.jsonl --test test.jsonl -o results/mine
    """
    with shown_progress() as progress:
        from facsynth.evaluating.results import read_result
        from facsynth.evaluating.toxicity import evaluate_toxicity

        folder = evaluate_toxicity(
            train, test, model_block(model, device, dtype), label=label, seeds=range(n_seeds), out=out,
            cache=cache_folder(), progress=progress,
        )  # fmt: skip
        record = read_result(folder).record
    if json:
        print_json(record)
    else:
        _print_toxicity(record)
    if record["n_seen"]:
        apart = "no figure is left without them" if record["unseen"] is None else "the figure without them is below it"
        note(f"note: {record['n_seen']:,} of the test samples are in training too: {apart}")


def model_block(model: str, device: str, dtype: str) -> ModelBlock:
    """The model that a command names."""
    from facsynth.blocks import parse_block
    from facsynth.settings import ModelBlock

    return parse_block(ModelBlock, {"path": model, "device": device, "dtype": dtype}, "the model")


def _print_toxicity(record: dict[str, Any]) -> None:
    rows = [figure_row("AUPRC", record)]
    if record["unseen"] is not None:
        rows.append(figure_row("without what is in training", record["unseen"]))
    n_positive = f"{record['n_test_positive']:,} of {record['n_test']:,} test samples"
    rows.append(("a guess", f"{record['prevalence']:.3f}", f"the share that is positive: {n_positive}"))
    rows.append(("trained on", f"{record['n_train']:,}", f"of which {record['n_train_positive']:,} positive"))
    print_table("toxicity, a head on final states", ("", "", ""), rows)


def figure_row(name: str, found: dict[str, Any]) -> tuple[str, str, str]:
    """A figure, its interval and the range of its seeds."""
    low, high = found["ci95"]
    seeds = found["by_seed"]
    told = f"; seeds {min(seeds):.3f} to {max(seeds):.3f}" if len(seeds) > 1 else ""
    return name, f"{found['value']:.3f}", f"95 %: {low:.3f} to {high:.3f}{told}"


app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None,
    help="What a model learns from your data, task by task, with an interval.\n\n"
    "Example:  facsynth eval toxicity train.jsonl --test test.jsonl -o results/mine",
)  # fmt: skip
app.command("toxicity")(toxicity)

COMMANDS: Panel = {"eval": app}
