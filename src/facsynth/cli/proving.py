"""Prove: verify, report, show."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from facsynth.cli import options as o
from facsynth.cli.console import Panel, cache_folder, note, print_json, print_table, shown_progress
from facsynth.cli.fill import print_summary
from facsynth.cli.measuring import print_coverage
from facsynth.errors import InputError, LimitError

RunFolder = Annotated[Path, typer.Argument(help="A run folder.")]


def verify(
    folder: RunFolder,
    strict: Annotated[bool, typer.Option("--strict", help="Marginal samples fail too.")] = False,
    json: o.Json = False,
) -> None:
    """Prove every accepted sample: encode it again, exit 3 where one does not hold.

    Example:  facsynth verify runs/demo
    """
    o.check_run_folder(folder)
    with shown_progress() as progress:
        from facsynth.proof import verify_run

        progress("loading the model", 0, None)
        found = verify_run(folder, cache_folder(), progress)
    if json:
        print_json(
            {"n_samples": found.n_samples, "holds": found.holds, "findings": [asdict(f) for f in found.findings]}
        )
    elif found.findings:
        rows = [
            (str(f.row), str(f.feature), f.problem, f"{f.recorded:.4f}", f"{f.found:.4f}", f"{f.threshold:.4f}")
            for f in found.findings
        ]
        print_table("not as recorded", ("row", "feature", "problem", "recorded", "now", "threshold"), rows)
    n_sound = found.n_samples - len(found.findings)
    note(f"{n_sound} of {found.n_samples} samples fire their feature as recorded; {found.n('marginal')} marginal")
    if not found.holds or (strict and found.findings):
        raise LimitError(
            f"{folder} does not verify: {found.n('text changed')} texts changed, "
            f"{found.n('does not fire')} do not fire, {found.n('marginal')} are marginal"
        )


def report(folder: RunFolder) -> None:
    """Write report.html again from what the run folder holds.

    Example:  facsynth report runs/demo
    """
    from facsynth.report.build import build_report

    o.check_run_folder(folder)
    print(build_report(folder))


def show(
    folder: RunFolder,
    feature: Annotated[int | None, typer.Option("--feature", "-f", help="All about one feature.")] = None,
    n: Annotated[int, typer.Option("--top", min=1, help="Accepted samples to print.")] = 20,
) -> None:
    """What a run holds: its figures and accepted samples, or all about one feature.

    Example:  facsynth show runs/demo --feature 123
    """
    from facsynth.store import read_json, read_jsonl

    o.check_run_folder(folder)
    if not (folder / "summary.json").exists():
        _show_unfinished(folder)
        return
    if feature is None:
        print_summary(read_json(folder / "summary.json"), read_json(folder / "coverage" / "before.json"), folder)
    targets = read_json(folder / "targets.json")["attempted"] if (folder / "targets.json").exists() else []
    if feature is not None:
        found = next((t for t in targets if t["feature_id"] == feature), None)
        if found is None:
            known = ", ".join(str(t["feature_id"]) for t in targets[:12]) or "none so far"
            raise InputError(
                f"feature {feature} was not attempted in {folder}\nAttempted: {known}{' …' * (len(targets) > 12)}"
            )
        print_table(
            f"feature {feature}, threshold {found['threshold']:.3f}: anchor spans",
            ("activation", "span (its last token fires)"),
            [(f"{s['activation']:.2f}", s["text"][-100:]) for s in found["spans"]],
        )
    samples = zip(read_jsonl(folder / "samples.jsonl"), read_jsonl(folder / "provenance.jsonl"), strict=False)
    rows = [
        (
            str(p["feature"]),
            f"{p['activation']:.2f}",
            f"{p['threshold']:.2f}",
            p["span"][-40:],
            s["messages"][-1]["content"],
        )
        for s, p in samples
        if feature is None or feature in p["fires"]
    ]
    print_table(f"{len(rows)} accepted samples", ("feature", "fires", "threshold", "where", "sample"), rows[:n])


def _show_unfinished(folder: Path) -> None:
    from facsynth.settings import load_settings
    from facsynth.store import read_json

    record = folder / "coverage" / "before.json"
    if record.exists():
        print_coverage(read_json(record), load_settings(folder / "facsynth.yaml"))
    note(f"{folder} is not finished; go on with: facsynth synthesize {folder}")


COMMANDS: Panel = {"verify": verify, "report": report, "show": show}
