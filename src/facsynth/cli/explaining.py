"""Explain: interpret, score, relevance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from facsynth.cli import options as o
from facsynth.cli.console import Panel, cache_folder, note, percent, print_json, print_table, shown_progress
from facsynth.errors import IncompleteError

if TYPE_CHECKING:
    from facsynth.understand import Features, Question, Understood

Folder = Annotated[Path, typer.Argument(help="Run folder that `coverage -o`, `missing -o` or `run` made.")]
Everything = Annotated[bool, typer.Option("--all", help="All target features. [those of the plan]")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say how many calls it takes; ask nothing.")]
N_SHOWN = 15


@o.takes(o.JUDGE, o.WAIT)
def interpret(
    folder: Folder,
    everything: Everything = False,
    dry_run: DryRun = False,
    device: o.Device = None,
    json: o.Json = False,
    **options: Any,
) -> None:
    """What features react to, in words; into meaning/features.csv, to be corrected by hand.

    Example:  facsynth interpret runs/mine --judge-url http://localhost:8000/v1 --judge-model NAME
    """
    _ask(folder, ["interpret"], "targets" if everything else "planned", dry_run, json, device=device, **options)


@o.takes(o.JUDGE, o.WAIT)
def score(
    folder: Folder,
    everything: Everything = False,
    dry_run: DryRun = False,
    device: o.Device = None,
    json: o.Json = False,
    **options: Any,
) -> None:
    """How far explanations can be trusted: do they tell texts that fire from texts that do not?

    Example:  facsynth score runs/mine --judge-url http://localhost:8000/v1 --judge-model NAME
    """
    _ask(folder, ["score"], "targets" if everything else "planned", dry_run, json, device=device, **options)


@o.takes(o.JUDGE, o.WAIT)
def relevance(
    folder: Folder,
    task: Annotated[str | None, typer.Option("--task", help="What the data is for: a name, or a YAML file.")] = None,
    method: Annotated[
        Literal["judge", "contrast+judge"],
        typer.Option("--method", help="Judge all features that are active, or those that contrast tells."),
    ] = "contrast+judge",
    dry_run: DryRun = False,
    device: o.Device = None,
    json: o.Json = False,
    **options: Any,
) -> None:
    """Which features the task needs: a verdict and a reason for each, by the task's rubric.

    Example:  facsynth relevance runs/mine --task toxicity --dry-run
    """
    features: Features = "active" if method == "judge" else "contrast"
    _ask(folder, ["judge"], features, dry_run, json, task=task, device=device, **options)


def _ask(
    folder: Path, questions: list[Question], features: Features, dry_run: bool, json: bool, **options: Any
) -> None:
    o.check_run_folder(folder)
    settings = o.resolve(folder / "facsynth.yaml", **options)
    with shown_progress() as progress:
        from facsynth.understand import understand_run

        found = understand_run(
            settings, folder, cache_folder(), questions, features, dry_run=dry_run, progress=progress
        )
    if json:
        print_json(found.figures if dry_run else found.figures | {"features": [vars(n) for n in found.notes]})
    elif dry_run:
        _print_calls(found.figures)
    else:
        _print(found)
    ends = found.figures.get("above_control_interval")
    if ends and ends[0] <= 0:
        note("note: these explanations do no better than those of other features: try another model")
    if not dry_run:
        note(f"to correct by hand: {folder / 'meaning' / 'features.csv'}; what you change stays")
    if settings.judge.endpoint is None:
        note("note: the model that measures was asked; for words to rely on name a larger one (--judge-url …)")
    if found.n_unusable:
        raise IncompleteError(
            f"{found.n_unusable} answers could not be used: {folder / 'meaning' / 'failures.jsonl'}\n"
            "The rest is kept. Ask another model, or fill in by hand what is missing."
        )


def _print(found: Understood) -> None:
    figures = found.figures
    rows = [
        (str(n.feature_id), n.explanation or n.fires_on, _share(n.score), _share(n.control), n.verdict)
        for n in found.notes[:N_SHOWN]
    ]
    print_table("", ("feature", "explanation, or tokens that fire it", "score", "control", "verdict"), rows)
    if len(found.notes) > N_SHOWN:
        note(f"… and {len(found.notes) - N_SHOWN} more in the sheet")
    n_told, verdicts = figures["n_explained"], ", ".join(f"{n} {label}" for label, n in figures["verdicts"].items())
    above = percent(figures["above_control"]) + _ends(figures["above_control_interval"])
    beat = f"{percent(figures['beats_control'])}{_ends(figures['beats_control_interval'])}"
    if figures["ties_control"]:
        beat += f"; {percent(figures['ties_control'])} tie with it"
    summary = [
        ("features in the sheet", f"{figures['n_features']}; {figures['n_screened']} are screened out"),
        ("explained", f"{n_told}; of {figures['n_cannot_tell']} the model could not tell"),
        (
            "tested",
            f"{figures['n_scored']} of {n_told} explanations; for {figures['n_too_few_texts']} there are too few texts",
        ),
        ("balanced accuracy", f"{percent(figures['score'])}{_ends(figures['score_interval'])}; chance is 50 %"),
        ("above the control", above),
        ("explanations that beat it", beat),
        ("verdicts", verdicts),
        ("corrected by hand", str(figures["n_human"])),
        ("no usable answer", f"{figures['n_failures']}, in meaning/failures.jsonl"),
    ]
    if agreement := figures.get("agreement"):
        told = f"{percent(agreement['share'])} of the features, kappa {_share(agreement['kappa']) or 'not defined'}"
        summary.append(("judge and contrast agree", told))
    print_table("", ("", ""), summary)


def _print_calls(figures: dict[str, Any]) -> None:
    rows = [(name, f"{n:,} calls") for name, n in figures["calls"].items()]
    print_table(f"{figures['n_features']} features; nothing was asked", ("", ""), rows)
    if methods := figures.get("calls_by_method"):
        rows = [(name, f"{n:,} calls") for name, n in methods.items()]
        print_table("What decides relevance, and what it takes", ("", ""), rows)


def _ends(interval: list[float] | None) -> str:
    return f" ({percent(interval[0])} to {percent(interval[1])})" if interval else ""


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


COMMANDS: Panel = {"interpret": interpret, "score": score, "relevance": relevance}
