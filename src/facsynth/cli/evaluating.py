"""Prove: eval, what a model learns from the data, a command a task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from facsynth.cli import options as o
from facsynth.cli.console import Panel, cache_folder, note, print_json, print_table, shown_progress
from facsynth.names import n_of

if TYPE_CHECKING:
    from facsynth.settings import ModelBlock

Test = Annotated[list[str], typer.Option("--test", help="A file to test with; may be given again.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the result.")]
Model = Annotated[str, typer.Option("--model", help="A model folder or Hub id.")]
Device = Annotated[str, typer.Option("--device", help="A torch device.")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"], typer.Option("--dtype", help="Precision of the model.")
]
Adapt = Annotated[
    Literal["head", "lora"],
    typer.Option("--adapt", help="What is trained: a head on final states, or a LoRA adapter with a head."),
]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="Fits, each of a model of its own, or with its own folds.")]
TRAINED = {"head": "a head on final states", "lora": "a LoRA adapter with a head"}


def toxicity(
    train: Annotated[list[str], typer.Argument(help="Labelled files, or exports, to train on: together one set.")],
    test: Test,
    out: Out,
    model: Model = "embedded",
    label: Annotated[str, typer.Option("--label", help="What a positive sample is labelled, besides 1.")] = "toxic",
    adapt: Adapt = "head",
    n_seeds: Seeds = 5,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    json: o.Json = False,
) -> None:
    """How well a model tells labelled messages apart, its head or an adapter trained on your data: AUPRC.

    Example:  facsynth eval toxicity train.jsonl --test test.jsonl -o results/mine
    """
    with shown_progress() as progress:
        from facsynth.evaluating.results import read_result
        from facsynth.evaluating.toxicity import evaluate_toxicity

        folder = evaluate_toxicity(
            train, test, model_block(model, device, dtype), label=label, adapt=adapt, seeds=range(n_seeds), out=out,
            cache=cache_folder(), progress=progress,
        )  # fmt: skip
        record = read_result(folder).record
    if json:
        print_json(record)
    else:
        _print_toxicity(record)
    if record["n_seen"]:
        note(f"note: {record['n_seen']:,} of the test samples are in training too: {without_shared(record)}")
    for part, words in record["labels"].items():
        if len(words.keys() - {"1", "true", "0", "false"}) > 2:
            told = ", ".join(f"{n:,} {word}" for word, n in words.items())
            note(f"note: {part} labels are {told}: all but 1, true and {label} count as negative")
    for text in notes_on_skipped(record):
        note(f"note: {text}")
    _note_cut(record)


def reward(
    train: Annotated[list[str], typer.Argument(help="Files of pairs, or exports, to train on: together one set.")],
    test: Test,
    out: Out,
    model: Model = "embedded",
    adapt: Adapt = "head",
    n_seeds: Seeds = 5,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    json: o.Json = False,
) -> None:
    """How often a Bradley-Terry reward model finds the better of two replies, trained on your data: accuracy.

    With RewardBench's subsets in the test file it is the mean over its sections.

    Example:  facsynth eval reward train.jsonl --test rewardbench.jsonl -o results/mine
    """
    with shown_progress() as progress:
        from facsynth.evaluating.results import read_result
        from facsynth.evaluating.reward import evaluate_reward

        folder = evaluate_reward(
            train, test, model_block(model, device, dtype), adapt=adapt, seeds=range(n_seeds), out=out,
            cache=cache_folder(), progress=progress,
        )  # fmt: skip
        record = read_result(folder).record
    if json:
        print_json(record)
    else:
        _print_reward(record)
    if record["n_seen"]:
        note(f"note: the prompts of {record['n_seen']:,} test pairs are in training too: {without_shared(record)}")
    if record["lacking"]:
        lacking = ", ".join(record["lacking"])
        note(f"note: the test files have nothing of {lacking}: the mean is that of the other sections")
    if any(record["n_ties"]):
        note(f"note: in up to {max(record['n_ties']):,} test pairs both replies have one reward: each counts a half")
    for text in notes_on_skipped(record, "no pair of a prompt with two replies that are texts and differ"):
        note(f"note: {text}")
    _note_cut(record)


def notes_on_skipped(record: dict[str, Any], why: str = "they cannot be read") -> list[str]:
    """Of the rows that are left out."""
    found = record["n_skipped"].items()
    notes = [f"{n_of(n, 'row')} of the {name} files left out: {why}" for name, n in found if n]
    if n_twice := record.get("n_twice"):
        notes.append(f"{n_of(n_twice, 'test item')} came again: each counts once")
    return notes


def _note_cut(record: dict[str, Any]) -> None:
    if record["n_cut"]:
        note(f"note: {record['n_cut']:,} texts are longer than {record['max_tokens']:,} tokens, and were cut to that")


def steering(
    train: Annotated[list[str], typer.Argument(help="Files of A/B questions, or exports, to take a direction from.")],
    test: Test,
    out: Out,
    model: Model = "embedded",
    hook_point: Annotated[
        str | None, typer.Option("--hook-point", help="Module path from 0, as layers.14. [the middle block]")
    ] = None,
    strength: Annotated[
        float, typer.Option("--strength", help="Length of the direction, as a share of a state's, at most 0.5.")
    ] = 0.25,
    flip: Annotated[
        list[str] | None, typer.Option("--flip", help="One of the files, whose matching answer shows the opposite.")
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    json: o.Json = False,
) -> None:
    """How far a direction taken from your A/B pairs turns a model's answers: the control rate, against its null.

    Example:  facsynth eval steering pairs.jsonl --test test.jsonl -o results/mine
    """
    with shown_progress() as progress:
        from facsynth.evaluating.results import read_result
        from facsynth.evaluating.steering import evaluate_steering

        folder = evaluate_steering(
            train, test, model_block(model, device, dtype, hook_point), strength=strength, flip=flip or [], out=out,
            cache=cache_folder(), progress=progress,
        )  # fmt: skip
        record = read_result(folder).record
    if json:
        print_json(record)
    else:
        _print_steering(record)
    for text in _notes_on_steering(record):
        note(f"note: {text}")


def model_block(model: str, device: str, dtype: str, hook_point: str | None = None) -> ModelBlock:
    """The model that a command names."""
    from facsynth.blocks import parse_block
    from facsynth.settings import ModelBlock

    asked = {"path": model, "device": device, "dtype": dtype, "hook_point": hook_point}
    return parse_block(ModelBlock, asked, "the model")


def _print_toxicity(record: dict[str, Any]) -> None:
    rows = [figure_row("AUPRC", record)]
    if record["unseen"] is not None:
        rows.append(figure_row("without what is in training", record["unseen"]))
        rows.append(("a guess there", f"{record['unseen']['prevalence']:.3f}", "the share of those that is positive"))
    n_positive = f"{record['n_test_positive']:,} of {record['n_test']:,} test samples"
    rows.append(("a guess", f"{record['prevalence']:.3f}", f"the share that is positive: {n_positive}"))
    rows.append(("trained on", f"{record['n_train']:,}", f"of which {record['n_train_positive']:,} positive"))
    print_table(f"toxicity, {TRAINED[record['adapt']]}", ("", "", ""), rows)


def _print_reward(record: dict[str, Any]) -> None:
    rows = [figure_row(record["metric"], record)]
    rows += [figure_row(f"  {name}", found) for name, found in record["sections"].items()]
    if record["unseen"] is not None:
        rows.append(figure_row("prompts not in training", record["unseen"]))
    rows.append(("a guess", "0.500", f"of {n_of(record['n_test'], 'test pair')}"))
    rows.append(("trained on", f"{record['n_train']:,}", "pairs"))
    print_table(f"reward, {TRAINED[record['adapt']]}", ("", "", ""), rows)


def _print_steering(record: dict[str, Any]) -> None:
    by_multiplier = zip(record["multipliers"], record["robust_accuracy"], record["accuracy"], strict=True)
    rows = [
        figure_row("control rate", record),
        ("its null", f"{record['null_limit']:.3f}", f"95 % of {len(record['null'])} directions of exchanged answers"),
        *((f"at {m:+g}", f"{robust:.3f}", f"of either order alone {one:.3f}") for m, robust, one in by_multiplier),
        ("pairs", f"{record['n_train']:,}", f"and {n_of(record['n_test'], 'test item')}, at {record['hook_point']}"),
    ]
    print_table("steering: matching answer preferred in both orders of the options", ("", "", ""), rows)


def _notes_on_steering(record: dict[str, Any]) -> list[str]:
    notes = [f"{name} points away from the other files: does its matching answer show the opposite? (--flip)"
             for name in record["points_away"]]  # fmt: skip
    if not record["is_measurable"]:
        notes.append("the control rate is not above its null: nothing can be compared by it on this model and data")
    if record["n_seen"]:
        notes.append(f"{record['n_seen']:,} of the test items are in training too")
    notes += notes_on_skipped(record)
    return notes


def without_shared(record: dict[str, Any]) -> str:
    """What the figure is without test items that are in training."""
    return "no figure is left without them" if record["unseen"] is None else f"without, {record['unseen']['value']:.3f}"


def figure_row(name: str, found: dict[str, Any]) -> tuple[str, str, str]:
    """A figure, its interval and the range of its seeds."""
    low, high = found["ci95"]
    seeds = found["by_seed"]
    told = f"; seeds {min(seeds):.3f} to {max(seeds):.3f}" if min(seeds) < max(seeds) else ""
    return name, f"{found['value']:.3f}", f"95 %: {low:.3f} to {high:.3f}{told}"


app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None,
    help="What a model learns from your data, task by task, with an interval.\n\n"
    "Example:  facsynth eval toxicity train.jsonl --test test.jsonl -o results/mine",
)  # fmt: skip
app.command("toxicity")(toxicity)
app.command("reward")(reward)
app.command("steering")(steering)

COMMANDS: Panel = {"eval": app}
