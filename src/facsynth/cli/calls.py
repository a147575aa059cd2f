"""Advanced: ledger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facsynth.cli import options as o
from facsynth.cli.console import Panel, note, print_json, print_table
from facsynth.errors import InputError

if TYPE_CHECKING:
    from facsynth.llm import Ledger


def ledger(
    folder: Annotated[Path, typer.Argument(help="A run folder, or its ledger.sqlite.")],
    export: Annotated[
        Path | None, typer.Option("--export", help="Write every answered call to this .jsonl, texts and all.")
    ] = None,
    json: o.Json = False,
) -> None:
    """Every call of a run: how many, tokens, money, seconds, errors by kind.

    Example:  facsynth ledger runs/mine --export calls.jsonl
    """
    from facsynth.llm import Ledger

    path = folder / "ledger.sqlite" if folder.is_dir() else folder
    if not path.is_file():
        raise InputError(f"there is no ledger {path}\nName a run folder in which something was written.")
    if export is not None and export.is_dir():
        raise InputError(f"{export} is a folder\nGive a file, as calls.jsonl.")
    with Ledger.open(path) as opened:
        figures = figures_of(opened)
        if export is not None:
            _export(opened, export)
    if json:
        print_json(figures)
    else:
        print_table(str(path), ("", ""), [(name.replace("_", " "), _shown(value)) for name, value in figures.items()])
    if export is not None:
        note(f"calls: {export}")


def figures_of(opened: Ledger) -> dict[str, Any]:
    """What a ledger adds up to."""
    totals, seconds = opened.totals(), opened.latencies()
    return {
        "calls": totals.calls,
        "attempts": opened.spent().calls,
        "answered": totals.answered,
        "failed": totals.failed,
        "without_a_reply": totals.unsettled,
        "prompt_tokens": totals.prompt_tokens,
        "written_tokens": totals.written_tokens,
        "tokens_of_lost_calls": totals.lost_tokens,
        "money": round(totals.price, 6),
        "money_of_lost_calls": round(totals.lost_price, 6),
        "seconds_a_call": {q: round(_quantile(seconds, q), 3) for q in (0.5, 0.9, 0.99)} if seconds else {},
        "errors": opened.errors(),
        "writers": opened.writers(),
    }


def _quantile(values: list[float], q: float) -> float:
    """Of sorted values: the lowest that q of them do not exceed."""
    return values[max(0, -int(-q * len(values) // 1) - 1)]


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        named = {f"{key:.0%}" if isinstance(key, float) else key: found for key, found in value.items()}
        return ", ".join(f"{key}: {found}" for key, found in named.items()) or "none"
    return ", ".join(value) if isinstance(value, list) else f"{value:,}"


def _export(opened: Ledger, path: Path) -> None:
    from dataclasses import asdict

    from facsynth.store import write_jsonl

    rows = (
        {"request_hash": call.key[0], "sample_index": call.key[1], "writer": call.writer, "price": call.price,
         "request": call.request, "reply": asdict(call.reply)}
        for call in opened.recorded()
    )  # fmt: skip
    write_jsonl(path, rows)


COMMANDS: Panel = {"ledger": ledger}
