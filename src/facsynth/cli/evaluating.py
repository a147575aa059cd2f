"""Prove: eval, what a model learns from the data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from facsynth.cli import options as o
from facsynth.cli.console import Panel, cache_folder, note, print_json, print_table, shown_progress


def evaluate(
    task: Annotated[Literal["toxicity"], typer.Argument(help="What is learnt: toxicity.")],
    train: Annotated[list[str], typer.Argument(help="Labelled files to train on, together one set.")],
    test: Annotated[list[str], typer.Option("--test", help="A labelled file to test with; may be given again.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the result.")],
    model: Annotated[str, typer.Option("--model", help="A model folder or Hub id.")] = "embedded",
    label: Annotated[str, typer.Option("--label", help="What a positive sample is labelled, besides 1.")] = "toxic",
    n_seeds: Annotated[int, typer.Option("--seeds", min=1, help="Fits, each with folds of its own.")] = 5,
    device: Annotated[str, typer.Option("--device", help="A torch device.")] = "cpu",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], typer.Option("--dtype", help="Precision of the model.")
    ] = "auto",
    json: o.Json = False,
) -> None:
    """How well a head on a frozen model's final states tells labelled messages apart, trained on your data: AUPRC.

    Example:  facsynth eval toxicity train.jsonl --test test.jsonl -o results/mine
    """
    with shown_progress() as progress:
        from facsynth.blocks import parse_block
        from facsynth.evaluating import RESULT, evaluate_toxicity
        from facsynth.settings import ModelBlock
        from facsynth.store import read_json

        block = parse_block(ModelBlock, {"path": model, "device": device, "dtype": dtype}, "the model")
        folder = evaluate_toxicity(
            train, test, block, label=label, seeds=range(n_seeds), out=out, cache=cache_folder(), progress=progress
        )
        record = read_json(folder / RESULT, "value", "ci95")
    if json:
        print_json(record)
    else:
        _print(record)
    if record["n_seen"]:
        apart = "no figure is left without them" if record["unseen"] is None else "the figure without them is below it"
        note(f"note: {record['n_seen']:,} of the test samples are in training too: {apart}")


def _print(record: dict[str, Any]) -> None:
    rows = [_row("AUPRC", record)]
    if record["unseen"] is not None:
        rows.append(_row("without what is in training", record["unseen"]))
    n_positive = f"{record['n_test_positive']:,} of {record['n_test']:,} test samples"
    rows.append(("a guess", f"{record['prevalence']:.3f}", f"the share that is positive: {n_positive}"))
    rows.append(("trained on", f"{record['n_train']:,}", f"of which {record['n_train_positive']:,} positive"))
    print_table("toxicity, a head on final states", ("", "", ""), rows)


def _row(name: str, found: dict[str, Any]) -> tuple[str, str, str]:
    low, high = found["ci95"]
    seeds = found["by_seed"]
    return name, f"{found['value']:.3f}", f"95 %: {low:.3f} to {high:.3f}; seeds {min(seeds):.3f} to {max(seeds):.3f}"


COMMANDS: Panel = {"eval": evaluate}
