"""What each rung of writing is worth, alone and as a ladder, on the demo and on real data.

    python benchmarks/rungs.py DATA OUT [--only demo] [--rng-seeds 0,1,2] [--arms ladder,spans] [--tokens 4000,8000]

Every arm begins with the same measured data and attempted features. OUT/arms.jsonl holds, for each arm and seed, how
many of the attempted features had all they lacked after so many written tokens; the last lines printed are shares with
the range over the seeds, and a 95 % interval of the mean (Student's t).
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from evidence import settings_of
from scipy.stats import t as student

from facsynth.assemble import open_space
from facsynth.filling import fill
from facsynth.pipeline import measure_run
from facsynth.planning import fix_targets, planned
from facsynth.records import no_progress
from facsynth.run_folder import open_run, read_unless_known
from facsynth.settings import RunSettings
from facsynth.store import read_jsonl
from facsynth.synthesis.candidates import Synthesis
from facsynth.synthesis.requests import FeatureTask

ARMS: dict[str, dict[str, Any]] = {
    "plain": {"rungs": ("plain",)},
    "spans": {"rungs": ("spans",)},
    "spans, two steps": {"rungs": ("spans",), "steps": 2},
    "steered": {"rungs": ("steered",)},
    "steered, two steps": {"rungs": ("steered",), "steps": 2},
    "spans then steered": {"rungs": ("spans", "steered")},
    "ladder": {"rungs": ("plain", "steered")},
}
BUDGET: dict[str, dict[str, Any]] = {"plain": {"plain_yield": 0.0}}


def with_arm(settings: RunSettings, name: str) -> RunSettings:
    """The settings of an arm."""
    writer = settings.writer.model_copy(update=ARMS[name])
    return settings.model_copy(update={
        "writer": writer, "budget": settings.budget.model_copy(update=BUDGET.get(name, {})),
    })  # fmt: skip


def curve(folder: Path, tasks: Sequence[FeatureTask]) -> list[tuple[int, int]]:
    """(written tokens, features that have all they lacked) after each wave."""
    lacking = Counter({task.feature_id: task.n_wanted for task in tasks})
    points, tokens = [(0, 0)], 0
    for path in sorted((folder / "synthesis" / "waves").glob("[0-9]*.jsonl")):
        rows = list(read_jsonl(path))
        tokens += sum(row["written_tokens"] for row in rows)
        for row in rows:
            if not row["reason"]:
                lacking.subtract(row["fires"])
        points.append((tokens, sum(n <= 0 for n in lacking.values())))
    return points


def at(points: Sequence[tuple[int, int]], tokens: int) -> float:
    """The curve at so many tokens, straight between its points."""
    return float(np.interp(tokens, [x for x, _ in points], [y for _, y in points]))


def measured(name: str, data: Path, out: Path, rng_seed: int) -> tuple[Path, RunSettings, Any]:
    """A folder with anchor and seed set measured and the attempted features fixed."""
    settings = settings_of(name, data, out, rng_seed=rng_seed, control=0.0)
    folder, cache = out / f"{name}-{rng_seed}", out / "cache"
    folder.mkdir(exist_ok=True)
    corpora = read_unless_known(settings, folder, no_progress)
    open_run(settings, folder, corpora)
    before, space, anchor, _ = measure_run(settings, folder, cache, corpora)
    tasks = fix_targets(before, settings, folder, anchor, space, choose=planned)
    return folder, settings, (tasks, before, space, anchor, open_space(settings, cache, dtype="float32"))


def begun(name: str, base: Path) -> Path:
    """The folder of an arm, with nothing in it but what was measured."""
    folder = base.with_name(f"{base.name} {name}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for part in ("features", "targets.json"):
        (folder / part).symlink_to(base / part)
    return folder


def found(folder: Path, tasks: Sequence[FeatureTask], written: Synthesis, started: float) -> dict[str, Any]:
    """What became of an arm that began at `started`."""
    return {
        "seconds": round(time.monotonic() - started, 1), "n_attempted": len(tasks), "curve": curve(folder, tasks),
        "n_accepted": len(written.accepted), "stop_reason": written.stop_reason,
        "rejected": Counter(c.reason.partition(":")[0] for c in written.rejected),
    }  # fmt: skip


def write(name: str, base: Path, settings: RunSettings, parts: Any, cache: Path) -> dict[str, Any]:
    """One arm, begun anew from what was measured."""
    tasks, before, space, anchor, exact = parts
    folder = begun(name, base)
    started = time.monotonic()
    written = fill(
        tasks, with_arm(settings, name), folder, cache, before=before, space=space, anchor=anchor, exact=exact,
        replay=None, progress=no_progress,
    )  # fmt: skip
    return found(folder, tasks, written, started)


def table(rows: Sequence[Mapping[str, Any]], budgets: Sequence[int], arms: Iterable[str]) -> str:
    """Mean, range and interval of the share that is closed, by arm and written tokens."""
    lines = []
    for data in dict.fromkeys(row["data"] for row in rows):
        for arm in arms:
            found = [row for row in rows if row["data"] == data and row["arm"] == arm]
            if not found:
                continue
            cells = [summed([at(r["curve"], n) / r["n_attempted"] for r in found]) for n in budgets]
            cells.append(summed([r["curve"][-1][1] / r["n_attempted"] for r in found]))
            tokens, seconds = (
                np.mean([v(r) for r in found]) for v in (lambda r: r["curve"][-1][0], lambda r: r["seconds"])
            )
            lines.append(f"| {data} | {arm} | {' | '.join(cells)} | {tokens:,.0f} | {seconds:.0f} |")
    return "\n".join(lines)


def summed(values: Sequence[float]) -> str:
    """Mean, range, and the interval of the mean."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.3f}"
    half = float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return f"{mean:.3f} ({min(values):.3f} to {max(values):.3f}; ± {half:.3f})"


def compare(
    doc: str | None, arms: Iterable[str], write: Callable[..., dict[str, Any]], kept: str, *, data: Sequence[str],
    tokens: str,
) -> None:  # fmt: skip
    """Run the arms that the command line asks for, one after the other, and print the table.

    Args:
        doc: of the command.
        arms: all that there are.
        write: one of them, as `write`; called with its name, what `measured` gives, and the cache.
        kept: the file of the rows; arms that it has are not run again.
        data: what they run on where nothing is asked for.
        tokens: of the table, likewise.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", choices=("fwd", "rev", "demo"), action="append")
    parser.add_argument("--rng-seeds", default="0,1,2")
    parser.add_argument("--arms", default=",".join(name.replace(", ", "+") for name in arms))
    parser.add_argument("--tokens", default=tokens)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / kept
    rows = list(read_jsonl(path)) if path.exists() else []
    wanted = [name.replace("+", ", ") for name in asked.arms.split(",")]
    for rng_seed in (int(part) for part in asked.rng_seeds.split(",")):
        for name in asked.only or data:
            done = {row["arm"] for row in rows if (row["data"], row["rng_seed"]) == (name, rng_seed)}
            left = [arm for arm in wanted if arm not in done]
            if not left:
                continue
            base, settings, parts = measured(name, asked.data, asked.out, rng_seed)
            for arm in left:
                row = write(arm, base, settings, parts, asked.out / "cache")
                rows.append({"data": name, "rng_seed": rng_seed, "arm": arm} | row)
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                print(name, rng_seed, arm, row["curve"][-1], row["stop_reason"], row["seconds"], flush=True)
    print(table(rows, [int(part) for part in asked.tokens.split(",")], arms))


if __name__ == "__main__":
    compare(__doc__, ARMS, write, "arms.jsonl", data=("demo", "fwd"), tokens="2000,4000,8000")
