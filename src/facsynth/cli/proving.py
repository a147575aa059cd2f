"""Prove: verify, report, show."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facsynth.cli import options as o
from facsynth.cli.console import Panel, cache_folder, note, percent, print_json, print_table, shown_progress, tail
from facsynth.cli.measuring import print_coverage
from facsynth.cli.summary import print_summary
from facsynth.errors import InputError, LimitError

if TYPE_CHECKING:
    from facsynth.report.read import RunFiles

N_SHOWN = 160
"""Characters of a sample where many are listed."""
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
    if not json:
        n, n_sound = found.n_samples, found.n_samples - len(found.findings)
        print(
            f"{n_sound} of {n} samples fire their feature as recorded; {found.n('marginal')} marginal"
            if n
            else f"there is nothing to verify: no sample of {folder} was accepted"
        )
    if not found.holds or (strict and found.findings):
        raise LimitError(
            f"{folder} does not verify: {found.n('text changed')} texts changed, "
            f"{found.n('does not fire')} do not fire, {found.n('marginal')} are marginal"
        )


def report(folder: RunFolder) -> None:
    """Write report.html again from what the folder of a run or comparison holds.

    Example:  facsynth report runs/demo
    """
    from facsynth.report.build import build_report
    from facsynth.report.comparison import RECORD, build_comparison

    if (folder / RECORD).is_file():
        print(build_comparison(folder))
        return
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
    from facsynth.report.build import damage
    from facsynth.report.plots import times
    from facsynth.report.read import read_run
    from facsynth.settings import load_settings

    o.check_run_folder(folder)
    files = read_run(folder)
    if feature is not None:
        _show_feature(files, folder, feature)
    elif files.summary and files.before:
        print_summary(files.summary, files.before, folder)
    elif files.before:
        print_coverage(files.before, load_settings(folder / "facsynth.yaml"))
    rows = [
        (
            str(p["feature"]), times(p["activation"], p["threshold"]).replace("\u00a0", " "),
            _cut(files.accepted_text(index) or "?", feature),
        )
        for index, p in enumerate(files.provenance)
        if feature is None or feature in p["fires"]
    ]  # fmt: skip
    if "summary.json" in files.there:
        print_table(f"{len(rows)} accepted samples", ("feature", "fires", "sample"), rows[:n])
    else:
        note(f"{folder} is not finished; go on with: facsynth synthesize {shlex.quote(str(folder))}")
    for notice in (*files.notices, *damage(files)):
        note(f"note: {notice}")


def _cut(text: str, feature: int | None) -> str:
    """The beginning of a sample; all of it where one feature is looked at."""
    return text if feature is not None or len(text) <= N_SHOWN else f"{text[:N_SHOWN].rpartition(' ')[0]} …"


def _show_feature(files: RunFiles, folder: Path, feature: int) -> None:
    """The anchor spans of an attempted feature, or its row of the plan."""
    targets = files.targets.get("attempted", [])
    found = next((t for t in targets if t["feature_id"] == feature), None)
    planned = next((row for row in files.plan if row["feature_id"] == feature), None)
    if found is not None:
        print_table(
            f"feature {feature}, threshold {found['threshold']:.2f}: anchor spans",
            ("activation", "span (its last token fires)"),
            [(f"{span['activation']:.2f}", tail(span["text"], 100)) for span in found["spans"]],
        )
    elif planned is not None:
        title = f"feature {feature}, {planned['kind']}, not attempted"
        print_table(
            title, ("anchor rate", "best span"), [(percent(planned["anchor_rate"]), tail(planned["span"], 100))]
        )
    else:
        known = [str(t["feature_id"]) for t in targets or files.plan]
        listed = ", ".join(known[:12]) + " …" * (len(known) > 12) or "none so far"
        raise InputError(f"feature {feature} is not in the plan of {folder}\nThere: {listed}")


COMMANDS: Panel = {"verify": verify, "report": report, "show": show}
