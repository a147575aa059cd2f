"""The figures of a finished run on the terminal: of `run`, `synthesize`, `select`, `demo` and `show`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from facsynth.cli.console import note, percent, print_table
from facsynth.cli.measuring import interval_of


def print_summary(summary: dict[str, Any], record: dict[str, Any], out: Path) -> None:
    """The figures of a finished run, each with its scale; `record` is `coverage/before.json`."""
    from facsynth.report.plots import duration

    rejected = ", ".join(f"{n} {reason}" for reason, n in sorted(summary["n_rejected"].items(), key=lambda i: -i[1]))
    rows = [
        ("coverage", f"{percent(summary['before'])} → {percent(summary['after'])}"),
        ("before", interval_of(record)),
        *_against_ceiling(record),
        ("missing features", str(summary["n_missing"])),
        ("attempted", str(summary["n_attempted"])),
        ("recovered of attempted", f"{summary['n_recovered']} = {percent(summary['recovered_of_attempted'])}"),
        ("chance level", _chance(summary)),
        ("accepted", _accepted(summary)),
        *(_rung(row) for row in summary["rungs"]),
        ("rejected", rejected or "0"),
        *_scored(summary["scores"] or {}),
        *_labels(summary["label_head"]),
        ("given up", _gave_up(summary)),
        ("written", _written(summary) if summary["writer_calls"] else "nothing"),
        ("took", duration(summary["seconds"]) + _cost(summary["money"])),
        ("stopped because", summary["stop_reason"]),
    ]
    print_table(str(out), ("", ""), rows)
    prove = f"facsynth verify {shlex.quote(str(out))}"
    note(f"report: {out / 'report.html'}   samples: {out / 'samples.jsonl'}   prove them: {prove}")


def _against_ceiling(record: dict[str, Any]) -> list[tuple[str, str]]:
    """The seed set beside the ceiling: both on the features of a half, at equal samples."""
    if record["n_target_of_half"] is None:
        return []
    value, ceiling = percent(record["at_equal_samples"]), percent(record["ceiling"])
    return [
        (
            "at equal samples",
            f"{value}, ceiling {ceiling} (of {record['n_target_of_half']:,} features of half the anchor)",
        )
    ]


def _cost(money: float | None) -> str:
    return ", cost not known (endpoint.price)" if money is None else f", money {money:.2f}" * (money > 0)


def _rung(row: dict[str, Any]) -> tuple[str, str]:
    """What a rung of the ladder gave, and for how much."""
    tokens = f", {row['written_tokens']} written tokens" if row["written_tokens"] else ""
    closed = f"give {row['n_closed']} features all they lack{tokens}"
    return f"  {row['rung']}", f"{row['n_accepted']} of {row['n_candidates']}   ({closed})"


def _accepted(summary: dict[str, Any]) -> str:
    per_1000 = f"   ({summary['accepted_per_1000_tokens']:.2f} per 1,000 written tokens)"
    return f"{summary['n_accepted']}{per_1000 if summary['writer_tokens'] else ''}"


def _written(summary: dict[str, Any]) -> str:
    tokens, control = summary["writer_tokens"], summary["control_tokens"]
    return f"{tokens} tokens, {control} of them for the chance level alone; in {summary['writer_calls']} calls"


def _chance(summary: dict[str, Any]) -> str:
    """What samples recover that were written by a prompt that names no feature."""
    if summary["recovered_chance"] is None:
        return "not measured: no plain samples were written"
    at_samples, at_tokens = percent(summary["recovered_chance"]), percent(summary["recovered_chance_tokens"])
    estimated = f" (an estimate from {summary['n_control']} of them)" if any(summary["chance_extrapolated"]) else ""
    return f"plain samples: {at_samples} at as many accepted samples, {at_tokens} at as many written tokens{estimated}"


def _gave_up(summary: dict[str, Any]) -> str:
    """Features without all the samples they want; some may be recovered all the same."""
    n_recovered = summary["n_gave_up_recovered"]
    return f"{summary['n_gave_up']}" + (
        f"   ({n_recovered} of them recovered, but with fewer or weaker samples than asked for)" if n_recovered else ""
    )


def _scored(scores: dict[str, Any]) -> list[tuple[str, str]]:
    """How often the judge gave each mark, by source."""
    if not scores:
        return []
    parts = (f"{source} {' '.join(map(str, found['marks']))}" for source, found in scores.items())
    return [("marks 1 to 5", "   ".join(parts))]


def _labels(head: dict[str, Any] | None) -> list[tuple[str, str]]:
    """How good the head is that checked the labels of what was written."""
    if head is None:
        return []
    n = ", ".join(f"{n:,} {name}" for name, n in head["n"].items())
    return [("labels checked", f"by a head on the anchor ({n}), of balanced accuracy {head['balanced_accuracy']:.2f}")]
