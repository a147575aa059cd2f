"""Prove: eval instruction, what a model answers after it learned from the data, and which answers a judge prefers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from facsynth.cli import evaluating as e
from facsynth.cli import options as o
from facsynth.cli.console import cache_folder, note, percent, print_json, print_table, shown_progress
from facsynth.errors import SettingsError
from facsynth.names import n_of

JudgeUrl = Annotated[
    str | None, typer.Option("--judge-url", help="Endpoint that compares, and sees the texts. [the model]")
]
JudgeModel = Annotated[str | None, typer.Option("--judge-model", help="Model at that endpoint.")]
JudgePairs = Annotated[
    list[str] | None,
    typer.Option("--judge-pairs", help="In its place: preference pairs, on which a reward head is trained."),
]


def instruction(
    test: Annotated[list[str], typer.Option("--test", help="A file of instructions; may be given again.")],
    reference: Annotated[
        str, typer.Option("--reference", help="Outputs to compare with, in AlpacaEval's layout or as chats.")
    ],
    out: e.Out,
    train: Annotated[
        list[str] | None, typer.Argument(help="Chats, or exports, to train on: together one set. [no training]")
    ] = None,
    model: e.Model = "embedded",
    adapter: Annotated[
        Path | None, typer.Option("--adapter", help="Instead of training: a LoRA adapter of the model, a PEFT folder.")
    ] = None,
    judge_url: JudgeUrl = None,
    judge_model: JudgeModel = None,
    judge_pairs: JudgePairs = None,
    max_wait: o.MaxWait = None,
    n_seeds: Annotated[int, typer.Option("--seeds", min=1, help="Trainings, each of a fresh model.")] = 3,
    n_epochs: Annotated[int, typer.Option("--epochs", min=1, help="Of a training.")] = 5,
    answer_tokens: Annotated[int, typer.Option("--answer-tokens", min=1, help="Of an answer, at most.")] = 512,
    device: e.Device = "cpu",
    dtype: e.Dtype = "auto",
    json: o.Json = False,
) -> None:
    """How often a judge prefers the answers of a model that was tuned on your chats to those of a reference: win rate.

    Example:  facsynth eval instruction chats.jsonl --test prompts.jsonl --reference outputs.json -o results/mine
    """
    with shown_progress() as progress:
        from facsynth.evaluating.instruction import InstructionSettings, evaluate_instruction
        from facsynth.evaluating.results import read_result
        from facsynth.model.tuning import SftRecipe

        folder = evaluate_instruction(
            train or [], test, reference, e.model_block(model, device, dtype),
            InstructionSettings(tuple(range(n_seeds)), SftRecipe(n_epochs=n_epochs), answer_tokens),
            adapter=adapter, judge=_judge(judge_url, judge_model, judge_pairs or [], max_wait),
            out=out, cache=cache_folder(), progress=progress,
        )  # fmt: skip
        record = read_result(folder).record
    if json:
        print_json(record)
    else:
        _print(record)
    for text in _notes(record):
        note(f"note: {text}")


def _judge(url: str | None, model: str | None, pairs: list[str], max_wait: float | None) -> Any:
    from facsynth.asked import EndpointBlock
    from facsynth.blocks import parse_block

    if url is None and model is None:
        return pairs
    if pairs:
        raise SettingsError("an endpoint that judges and --judge-pairs are both given\nName one of them.")
    if url is None or model is None:
        raise SettingsError("a judge needs both --judge-url and --judge-model\nOr leave out both: the model judges.")
    return parse_block(EndpointBlock, {"url": url, "model": model, "max_wait_s": max_wait}, "the judge")


def _print(record: dict[str, Any]) -> None:
    judging, at_equal = record["judging"], record["length_controlled"]
    rows = [e.figure_row("win rate", record)]
    if record["unseen"] is not None:
        rows.append(e.figure_row("without what is in training", record["unseen"]))
    if at_equal["value"] is not None:
        rows.append(("at equal length", f"{at_equal['value']:.3f}", "alpaca-eval, length_controlled_minimal"))
    words = f"words an answer; the reference has {record['words_reference']:.0f}"
    rows.append(("length", f"{record['words']:.0f}", words))
    letters = ", ".join(f"{letter} {n:,}" for letter, n in judging["letters"].items())
    rows.append(("the judge", "", f"{record['judge']}: {letters}"))
    rows.append(("its orders disagree", percent(judging["disagree"]), f"of {judging['n_asked_twice']:,} pairs"))
    if (probe := record["probe"])["n"]:
        of = f"preferred by it to one of another instruction, {probe['n']:,} pairs"
        rows.append(("right references", f"{probe['value']:.3f}", of))
    rows.append(_trained(record))
    print_table(f"instruction following, {n_of(record['n_test'], 'instruction')}", ("", "", ""), rows)


def _trained(record: dict[str, Any]) -> tuple[str, str, str]:
    if adapter := record["names"].get("adapter"):
        return "trained elsewhere", "", adapter
    n_epochs = record["recipe"] and record["recipe"]["n_epochs"]
    return "trained on", f"{record['n_train']:,}", n_of(n_epochs, "epoch") if n_epochs else "the model as it is"


def _notes(record: dict[str, Any]) -> list[str]:
    found, at_equal = [], record["length_controlled"]
    if record["judge"].startswith("stand-in"):
        found.append("who judged is a stand-in; a figure to quote needs a stronger judge, at --judge-url")
    probe = record["probe"]
    if (p := probe.get("p")) is not None and p > 0.05:
        share = f"in {probe['value']:.0%} of {n_of(probe['n'], 'pair')}"
        found.append(f"the judge prefers the right reference {share}, which does not tell it from a coin")
    if record["n_seen"]:
        found.append(f"{record['n_seen']:,} of the instructions are in training too: {e.without_shared(record)}")
    if record["n_left_out"]:
        found.append(f"{record['n_left_out']:,} answers lack a verdict and do not count: failures.jsonl")
    if record["n_cut"]:
        found.append(f"{record['n_cut']:,} answers were cut at {record['answer_tokens']:,} tokens: --answer-tokens")
    found += e.notes_on_skipped(record)
    if at_equal["value"] is None:
        found.append(f"no win rate at equal length: {at_equal['why']}")
    base = record["names"].get("adapter_base")
    if base:
        found.append(f"the adapter says it was trained on {base}; its matrices fit {record['names']['model']}")
    return found
