"""Fill: init, demo, select, run, synthesize."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facsynth.cli import options as o
from facsynth.cli.console import Panel, cache_folder, note, print_json, print_table, shown_progress
from facsynth.cli.measuring import plan_of, print_coverage, print_notes, print_plan, record_of
from facsynth.cli.ready import READY, ready_text
from facsynth.cli.summary import print_summary
from facsynth.errors import InputError

if TYPE_CHECKING:
    from facsynth.settings import RunSettings

Replay = Annotated[
    Path | None, typer.Option("--replay", help="The ledger.sqlite of another run, instead of its writer.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Measure, and say what writing would take; write nothing.")]
N_SHOWN = 10
"""Features of the plan that are printed before anything is written for them."""
TEMPLATE = """\
# A facsynth run. Check and start it with:  facsynth run {path} -o runs/mine
data:
  seed: [my.jsonl]          # the data you have: .jsonl .json .csv .tsv .parquet (.gz), hf:owner/name
  anchor: [broad.jsonl]     # what it should reach; never the evaluation set
  # pool: [more.jsonl]      # samples to select from, before anything is written
  form: message             # which part of a row is encoded: message, chat, preference, ab, text
  # fields: {{text: body}}    # for rows of another layout
model: {{path: embedded}}     # or a Hugging Face folder or id, with dtype and device
sae: {{path: embedded}}       # or a file or folder, hf:owner/name:path, saelens:RELEASE:SAE_ID; k where it lacks one
coverage:
  threshold: {threshold}           # of each feature's robust maximum; or 0.0, or q90
  relevance: contrast       # against the background; or judge, contrast+judge, all
# task: toxicity            # what the data is for, to judge by: a task that ships, or a YAML file of yours
writer:                     # the model above, steered; or a model at an OpenAI-compatible endpoint
  # rungs: [spans]          # of plain, spans, steered: what is tried, cheapest first
  # endpoint: {{url: http://localhost:8000/v1, model: NAME, price: {{prompt: 0, written: 0}}}}
  # draft: local            # with an endpoint: the model above steers drafts, and the endpoint rewrites them
judge: {{}}                   # who explains and judges features: the model above; or an endpoint, as for the writer
budget:
  features: null            # attempt so many concepts, drawn at random; null: all that are missing
  per_feature: 1            # samples that each of them wants at least
  max_candidates: {max_candidates}        # a feature, then it is given up
  max_tokens: null          # a hard cap, of prompt and written tokens; max_calls and max_money are others
  control: {control}              # plain samples beside, for the chance level
accept: {{}}                  # what is rejected; check_label: true, min_score: 3 and others are in docs/filling.md
rng_seed: 0
"""


def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("facsynth.yaml"),
    ready: Annotated[str | None, typer.Option("--for", help=f"One for: {', '.join(READY)}.")] = None,
) -> None:
    """Write a commented settings file.

    Example:  facsynth init facsynth.yaml --for llama-3.1-8b
    """
    from facsynth.limits import BudgetBlock
    from facsynth.settings import CoverageBlock
    from facsynth.store import write_text

    if path.exists():
        raise InputError(f"{path} is there already\nChoose another name.")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}\nMake it, or choose another name.")
    budget = BudgetBlock()
    text = TEMPLATE.format(
        path=shlex.quote(str(path)), threshold=CoverageBlock().threshold,
        max_candidates=budget.max_candidates, control=budget.control,
    )  # fmt: skip
    write_text(path, ready_text(ready) if ready else text)
    print(path)


@o.takes(o.MEASURING, o.SPACE, o.ROWS, o.WAIT)
def select(
    seed: o.Seed,
    pool: Annotated[list[str], typer.Option("--pool", help="Where to select from; repeat it for several files.")],
    out: o.Out,
    config: o.Config = None,
    n: Annotated[
        int | None, typer.Option("--top", "-n", min=1, help="Samples at most. [as many as add anything]")
    ] = None,
    per_feature: o.PerFeature = None,
    json: o.Json = False,
    **options: Any,
) -> None:
    """The samples of a pool that cover most of what a data set misses; nothing is written.

    Example:  facsynth select my.jsonl --pool more.jsonl --anchor broad.jsonl -n 100 -o runs/mine
    """
    _run(
        o.resolve(config, seed, pool=pool, n_selected=n, per_feature=per_feature, max_candidates=0, **options),
        out,
        json,
    )


@o.takes(o.WAIT)
def run(
    config: Annotated[Path, typer.Argument(help="A settings file; see `facsynth init`.")],
    out: o.Out,
    features: Annotated[
        int | None,
        typer.Option("--features", min=1, help="Attempt so many concepts, drawn at random. [the file's, or all]"),
    ] = None,
    per_feature: o.PerFeature = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, max=2, help="2: show what fired most and least. [the file's, or 1]")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, help="Go on with what is still missing. [the file's, or 1]")
    ] = None,
    rng_seed: Annotated[
        int | None, typer.Option("--rng-seed", min=0, help="Of all that is drawn. [the file's]")
    ] = None,
    device: o.Device = None,
    replay: Replay = None,
    dry_run: DryRun = False,
    json: o.Json = False,
    **options: Any,
) -> None:
    """The whole job: measure, write, keep what fires, measure again.

    Example:  facsynth run facsynth.yaml -o runs/mine
    """
    settings = o.resolve(
        config, features=features, per_feature=per_feature, steps=steps, rounds=rounds, rng_seed=rng_seed,
        device=device, **options,
    )  # fmt: skip
    if dry_run:
        _dry_run(settings, out, json)
        return
    _run(settings, out, json, replay)
    if o.uses_example_anchor(settings):
        note("note: the anchor is the example that ships: everyday messages")


@o.takes(o.WAIT)
def synthesize(
    folder: Annotated[Path, typer.Argument(help="Run folder that `missing` or `run` made.")],
    device: o.Device = None,
    replay: Replay = None,
    dry_run: DryRun = False,
    json: o.Json = False,
    **options: Any,
) -> None:
    """Write samples for the plan in a run folder, but for rows with keep = no.

    Example:  facsynth synthesize runs/mine
    """
    o.check_run_folder(folder)
    settings = o.resolve(folder / "facsynth.yaml", device=device, **options)
    if dry_run:
        _dry_run(settings, folder, json)
        return
    _run(settings, folder, json, replay)


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder.")] = Path("runs/demo"),
    rng_seed: Annotated[int, typer.Option("--rng-seed", min=0, help="Of all that is drawn.")] = 0,
    json: o.Json = False,
) -> None:
    """The whole job on data, model and SAE that ship, in a few minutes.

    Example:  facsynth demo
    """
    from facsynth.demo import demo_settings

    _run(demo_settings(rng_seed), out, json)


def _dry_run(settings: RunSettings, out: Path, json: bool) -> None:
    """Measure, and say what writing would take; nothing is written."""
    with shown_progress() as progress:
        from facsynth.forecast import forecast

        found = forecast(settings, out, cache_folder(), progress)
    if json:
        print_json(found)
        return
    money = "not known: writer.endpoint.price" if found["most"]["money"] is None else f"{found['most']['money']:.2f}"
    minutes = (
        "not known before the first call"
        if found["minutes"] is None
        else f"about {found['minutes']:.1f} for all of them"
    )
    rows = [
        ("features to write for", f"{found['n_features']}, {found['n_wanted']} samples in all"),
        ("calls", f"{found['least']['calls']:,} if all that is written is kept, at most {found['most']['calls']:,}"),
        ("tokens", f"{found['least']['tokens']:,} to {found['most']['tokens']:,}, prompts counted by their bytes"),
        ("money", f"at most {money}"),
        ("minutes", minutes),
        ("in the ledger", f"{found['n_known']} calls of this writer; those that come again cost nothing"),
        ("caps", found["caps"] or "none"),
    ]
    print_table("what writing would take; nothing was written", ("", ""), rows)


def _run(settings: RunSettings, out: Path, json: bool, replay: Path | None = None) -> None:
    def tell(folder: Path) -> None:
        with progress.aside():
            print_coverage(record_of(folder), settings)
            print_plan(plan_of(folder), N_SHOWN)

    with shown_progress() as progress:
        from facsynth import pipeline
        from facsynth.filling import notes_on_pool

        measured = pipeline.tell_nobody if json else tell
        summary = pipeline.run(settings, out, cache_folder(), progress, measured=measured, replay=replay)
    record = record_of(out)
    if json:
        print_json(summary)
    else:
        print_summary(summary, record, out)
    if settings.data.pool and not summary["n_selected"]:
        note("note: nothing was selected: no sample of the pool fires what the data misses, and is not in it already")
    for text in notes_on_pool(out):
        note(f"note: {text}")
    print_notes(record)


COMMANDS: Panel = {"init": init, "demo": demo, "select": select, "run": run, "synthesize": synthesize}
