"""Measure: coverage, missing, encode."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from facsynth.cli import options as o
from facsynth.cli.console import cache_folder, note, percent, print_json, print_table, shown_progress
from facsynth.errors import LimitError


def coverage(
    seed: o.Seed,
    anchor: o.Anchor = None,
    config: o.Config = None,
    model: o.Model = None,
    sae: o.Sae = None,
    hook_point: o.HookPoint = None,
    form: o.Form = None,
    text_field: o.TextField = None,
    prompt_field: o.PromptField = None,
    completion_field: o.CompletionField = None,
    messages_field: o.MessagesField = None,
    chosen_field: o.ChosenField = None,
    threshold: o.Threshold = None,
    relevance: o.Relevance = None,
    background: o.Background = None,
    limit: o.Limit = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder to keep. [in the user's cache]")] = None,
    fail_under: Annotated[
        float | None, typer.Option("--fail-under", help="Exit with 3 below this share (0 to 1).")
    ] = None,
    json: o.Json = False,
) -> None:
    """How much of the anchor's features a data set covers.

    Example:  facsynth coverage my.jsonl --anchor broad.jsonl
    """
    fields = o.field_map(
        text=text_field, prompt=prompt_field, completion=completion_field, messages=messages_field, chosen=chosen_field
    )
    settings = o.resolve(
        config, seed, data__anchor=anchor, data__form=form, data__fields=fields, data__limit=limit,
        model__path=model, model__hook_point=hook_point, model__device=device, model__dtype=dtype, sae__path=sae,
        coverage__threshold=threshold, coverage__relevance=relevance, coverage__background=background,
    )  # fmt: skip
    folder = _measure(settings, out)
    record = _read(folder, "coverage/before.json")
    if json:
        print_json(record)
    else:
        _print_coverage(record, settings)
    for text in record["notes"]:
        note(f"note: {text}")
    if settings.model.path == "embedded":
        note(
            "This is a first look, on a model of 135M parameters. The same on an 8B model and your own anchor:\n"
            f"  facsynth coverage {' '.join(settings.data.seed)} --anchor ANCHOR --model MODEL --sae SAE"
        )
    if fail_under is not None and record["value"] < fail_under:
        raise LimitError(f"coverage is {record['value']:.3f}, below the limit of {fail_under} that was asked for")


def missing(
    seed: o.Seed,
    anchor: o.Anchor = None,
    config: o.Config = None,
    form: o.Form = None,
    text_field: o.TextField = None,
    threshold: o.Threshold = None,
    relevance: o.Relevance = None,
    limit: o.Limit = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder to keep. [in the user's cache]")] = None,
    n: Annotated[int, typer.Option("--top", min=1, help="Rows to print; plan.csv holds all.")] = 25,
    json: o.Json = False,
) -> None:
    """What a data set misses: features with their best anchor spans, and plan.csv to edit and give back.

    Example:  facsynth missing my.jsonl --anchor broad.jsonl -o runs/mine
    """
    settings = o.resolve(
        config, seed, data__anchor=anchor, data__form=form, data__fields=o.field_map(text=text_field),
        data__limit=limit, coverage__threshold=threshold, coverage__relevance=relevance,
    )  # fmt: skip
    folder = _measure(settings, out)
    record = _read(folder, "coverage/before.json")
    from facsynth.coverage.plan import read_plan

    rows = read_plan(folder / "plan.csv", known=[*record["missing"], *record["under"]])
    if json:
        print_json([{**vars(row)} for row in rows])
        return
    print_table(
        f"{len(rows)} features to fill: {record['n_missing']} missing, {record['n_under']} under-represented",
        ("feature", "kind", "anchor", "seed", "span that fires it (its last token does)"),
        [(str(r.feature_id), r.kind, percent(r.anchor_rate), percent(r.seed_rate), r.span[-90:]) for r in rows[:n]],
    )
    note(f"all of them, to edit (keep, n_wanted) and give back: {folder / 'plan.csv'}\n  facsynth synthesize {folder}")


def encode(
    corpus: Annotated[str, typer.Argument(help="What to encode.")],
    out: o.Out,
    model: o.Model = None,
    sae: o.Sae = None,
    hook_point: o.HookPoint = None,
    form: o.Form = None,
    text_field: o.TextField = None,
    limit: o.Limit = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    json: o.Json = False,
) -> None:
    """Encode a corpus once, to a folder: an anchor for many runs, or a background.

    Example:  facsynth encode broad.jsonl -o runs/broad
    """
    settings = o.resolve(
        None, [corpus], data__form=form, data__fields=o.field_map(text=text_field), data__limit=limit,
        model__path=model, model__hook_point=hook_point, model__device=device, model__dtype=dtype, sae__path=sae,
    )  # fmt: skip
    from facsynth.assemble import open_space, read_data
    from facsynth.features.encoded import encode as encode_corpus
    from facsynth.store import locked

    with shown_progress() as progress, locked(out):
        space = open_space(settings, cache_folder())
        encoded = encode_corpus(read_data(settings.data, "seed", progress), space, out, progress=progress)
    if json:
        print_json(encoded.manifest)
    else:
        print(f"{encoded.profile.n_samples} samples, {encoded.profile.n_tokens} content tokens: {out}")


def _measure(settings: Any, out: Path | None) -> Path:
    from facsynth.pipeline import measure_run, open_run
    from facsynth.store import fingerprint, locked

    cache = cache_folder()
    folder = out or cache / "runs" / fingerprint(settings.model_dump(mode="json"))[:16]
    with shown_progress() as progress, locked(folder):
        open_run(settings, folder)
        measure_run(settings, folder, cache, progress)
    return folder


def _read(folder: Path, name: str) -> dict[str, Any]:
    from facsynth.store import read_json

    return dict(read_json(folder / name))


def _print_coverage(record: dict[str, Any], settings: Any) -> None:
    low, high = record["ci95"] or (None, None)
    rows = [
        ("coverage", f"{percent(record['value'])}   (95 %: {percent(low)} to {percent(high)})"),
        ("ceiling", f"{percent(record['ceiling'])}   a half of the anchor, on the other half's features"),
        (
            "at equal tokens",
            f"{percent(record['at_equal_tokens'])}   ceiling {percent(record['ceiling_at_equal_tokens'])}",
        ),
        (
            "target features",
            f"{record['n_target']}   ({record['relevance']}, {record['threshold']}; {record['n_thin']} thin left out)",
        ),
        ("covered", str(record["n_covered"])),
        ("missing", str(record["n_missing"])),
        ("under-represented", str(record["n_under"])),
        ("samples, tokens", f"{record['n_samples']}, {record['n_tokens']}"),
    ]
    print_table(", ".join(Path(source).name for source in settings.data.seed), ("", ""), rows)


COMMANDS = {"coverage": coverage, "missing": missing, "encode": encode}
