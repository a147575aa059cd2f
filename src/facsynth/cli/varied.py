"""Measure, by words: diversity."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from facsynth.cli import options as o
from facsynth.cli.console import Panel, note, print_json, print_table, shown_progress

LABELS = {
    "distinct_1": "distinct-1", "distinct_2": "distinct-2", "entropy_2": "entropy of word pairs, bits",
    "pos_distinct_2": "distinct-2 of parts of speech", "self_bleu": "self-BLEU (lower: more varied)",
    "sentence_length": "words a sentence",
    "compression_ratio": "compression ratio (lower)", "trace_of_covariance": "trace of covariance",
    "pairwise_distance": "pairwise cosine distance", "semantic_entropy": "semantic entropy, bits",
    "vendi": "Vendi score",
}  # fmt: skip


@o.takes(o.ROWS)
def diversity(
    sets: Annotated[list[str], typer.Argument(help="Data sets, one or more.")],
    encoder: Annotated[
        str, typer.Option("--encoder", help="A sentence encoder: folder or Hub id, or off.")
    ] = "embedded",
    tagger: Annotated[
        str, typer.Option("--tagger", help="A spaCy pipeline, for parts of speech; needs spacy installed.")
    ] = "",
    json: o.Json = False,
    **options: Any,
) -> None:
    """How varied texts are by their words and by a sentence encoder; no feature is looked at.

    Example:  facsynth diversity mine.jsonl yours.jsonl
    """
    settings = o.resolve(None, sets, **options)
    with shown_progress() as progress:
        from facsynth.variety import varieties

        record = varieties(settings.data, encoder, tagger, progress)
    if json:
        print_json(record)
    else:
        _print(record)
    for text in record["notes"]:
        note(f"note: {text}")


def _print(record: dict[str, Any]) -> None:
    sets = record["sets"]
    header = ("", *(one["name"] for one in sets))
    sizes = [("texts", *(f"{one['n_samples']:,}" for one in sets)), ("words", *(f"{one['n_words']:,}" for one in sets))]
    known = [name for name in LABELS if name in sets[0]["all"]]
    rows = {
        part: [(LABELS[name], *(_shown(one[part][name]) for one in sets)) for name in known]
        for part in ("equal", "all")
    }
    if len(sets) > 1:
        print_table(f"at {record['n_words']:,} words each", header, rows["equal"])
    print_table("all of it" if len(sets) > 1 else "diversity", header, [*sizes, *rows["all"]])


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


COMMANDS: Panel = {"diversity": diversity}
