"""Measure, before anything else: check."""

from __future__ import annotations

from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facsynth.cli import options as o
from facsynth.cli.console import Panel, cache_folder, note, percent, print_json, print_table, shown_progress
from facsynth.errors import LimitError, SettingsError

if TYPE_CHECKING:
    from facsynth.settings import RunSettings

N_SAMPLES = 1024
"""Read at most: 512 content tokens are enough."""
SPACE = {name: option for name, option in o.SPACE.items() if name not in {"sae", "codes", "compat", "sae_check"}}


@o.takes(SPACE, o.ROWS)
def check(
    files: Annotated[
        list[str] | None, typer.Argument(help="The data, or a settings file (.yaml). [the example anchor]")
    ] = None,
    sae: Annotated[
        list[str] | None, typer.Option("--sae", help="As elsewhere; repeat it to compare several. [embedded]")
    ] = None,
    json: o.Json = False,
    **options: Any,
) -> None:
    """Whether SAEs fit a model: what they explain of its activations on your data, beside what they declare.

    Example:  facsynth check my.jsonl --sae runs/sae-a --sae runs/sae-b

    With a settings file the endpoints of writer and judge are tried too. Exits with 3 where one does not fit, cannot
    be opened, or does not answer.
    """
    config, data = _told_apart(files or [])
    paths: list[str | None] = [*sae] if sae else [None]
    asked = [o.resolve(config, data, sae=path, **options) for path in paths]
    with shown_progress() as progress:
        from facsynth.assemble import read_data
        from facsynth.selfcheck import UNOPENED, check_saes

        parts = ("seed",) if data else ("anchor", "seed")
        block = asked[0].data
        block = block.model_copy(update={"limit": min(block.limit or N_SAMPLES, N_SAMPLES)})
        samples = [read_data(block, part, progress) for part in parts]
        first = list(islice(chain.from_iterable(samples), N_SAMPLES))
        progress("loading the model", 0, None)
        rows = check_saes(asked, first, cache_folder(), progress)
    if json:
        print_json(rows)
    else:
        _print_rows(rows, asked[0].model.path)
    for row in rows:
        for text in (*row["reasons"], *row["notes"]):
            note(f"{row['sae']}: {text}")
    endpoints = [] if config is None else _probe_endpoints(asked[0])
    bad = [row["sae"] for row in rows if row["verdict"] in {"does not fit", UNOPENED}]
    if bad:
        raise LimitError(f"{len(bad)} of {len(rows)} SAEs cannot be used here: {', '.join(bad)}")
    if endpoints:
        raise LimitError(f"the endpoint cannot be used: {', '.join(endpoints)}")


def _probe_endpoints(settings: RunSettings) -> list[str]:
    """Try the endpoints of writer and judge, each with a request for each thing; which of them fail.

    No text of the data is sent. Tables go to stderr, so that stdout stays that of the SAEs.
    """
    from facsynth.llm.probe import probe
    from facsynth.writers import endpoint_settings

    blocks = {"writer": settings.writer.endpoint, "judge": settings.judge.endpoint}
    failed = []
    for name, block in blocks.items():
        if block is None:
            continue
        for row in probe(endpoint_settings(block)):
            note(f"{name}, {row.what}: {'works' if row.works else 'does not work'}, {row.found}")
            failed += [] if row.works else [f"{name}, {row.what}"]
        price = block.price
        known = f"{price.prompt:g} and {price.written:g} a million tokens" if price else "not known (endpoint.price)"
        note(f"{name}, price: {known}")
    return failed


def _told_apart(files: list[str]) -> tuple[Path | None, list[str] | None]:
    """The settings file and the data among the words of a command line; the example anchor where there is neither.

    Raises:
        SettingsError: two settings files.
    """
    from facsynth.demo import example_file

    configs = [Path(name) for name in files if name.endswith((".yaml", ".yml"))]
    data = [name for name in files if not name.endswith((".yaml", ".yml"))]
    if len(configs) > 1:
        raise SettingsError(f"{configs[0]} and {configs[1]} are both settings files\nGive one of them.")
    if not files:
        data = [str(example_file("anchor.jsonl"))]
    return (configs[0] if configs else None), data or None


def _print_rows(rows: list[dict[str, Any]], model: str) -> None:
    n_tokens = max(row["n_tokens"] for row in rows)
    print_table(
        f"{model}, {n_tokens} content tokens; in brackets what the file declares",
        ("SAE", "verdict", "explained", "L0", "silent", "hook"),
        [
            (
                row["sae"], row["verdict"], _beside(row, "explained_variance", ".2f"), _beside(row, "l0", ".1f"),
                percent(row["dead_share"]), row["hook_point"] or "",
            )
            for row in rows
        ],
    )  # fmt: skip


def _beside(row: dict[str, Any], key: str, form: str) -> str:
    found, declared = row[key], row["declared"].get(key)
    return " ".join([
        "" if found is None else format(found, form),
        "" if declared is None else f"({declared:{form}})",
    ]).strip()  # fmt: skip


COMMANDS: Panel = {"check": check}
