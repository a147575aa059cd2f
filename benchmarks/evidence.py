"""The whole job on real data, at several values of rng_seed.

    python benchmarks/evidence.py DATA OUT [--only fwd] [--rng-seeds 0,1,2] [--control 0.1]

`fwd`: a broad anchor of requests, a seed set of mathematics; `rev`: the reverse; `demo`: what ships. Every line of
OUT/runs.jsonl is the summary of one run; a run that is there is not repeated.
"""

from __future__ import annotations

import argparse
import gzip
import json
from itertools import islice
from pathlib import Path

from facsynth.demo import demo_settings
from facsynth.pipeline import run
from facsynth.settings import BudgetBlock, DataBlock, RunSettings

BROAD = ("alpaca_en_demo", "self_instruct_seed_tasks", "user_oriented_instructions")
N_FEATURES = 60


def settings_of(name: str, data: Path, out: Path, *, rng_seed: int, control: float) -> RunSettings:
    """The settings of one run."""
    if name == "demo":
        asked = demo_settings(rng_seed)
        budget = asked.budget.model_copy(update={"control": control})
        return asked.model_copy(update={"budget": budget})
    broad = tuple(str(data / "instruction" / f"{part}.jsonl.gz") for part in BROAD)
    narrow = (str(first_questions(data / "instruction" / "gsm8k_train.jsonl.gz", out / "gsm500.jsonl")),)
    seed, anchor = (narrow, broad) if name == "fwd" else (broad, narrow)
    return RunSettings(
        data=DataBlock(seed=seed, anchor=anchor), rng_seed=rng_seed,
        budget=BudgetBlock(features=N_FEATURES, control=control),
    )  # fmt: skip


def first_questions(source: Path, target: Path, n_rows: int = 500) -> Path:
    """A file of the first rows."""
    if not target.exists():
        with gzip.open(source, "rt", encoding="utf-8") as file:
            target.write_text("".join(islice(file, n_rows)), encoding="utf-8")
    return target


def main() -> None:
    """Run what is asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", choices=("fwd", "rev", "demo"), action="append")
    parser.add_argument("--rng-seeds", default="0,1,2")
    parser.add_argument("--control", type=float, default=1.0, help="plain samples beside, a candidate")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for rng_seed in (int(part) for part in asked.rng_seeds.split(",")):
        for name in asked.only or ("fwd", "rev", "demo"):
            folder = asked.out / f"{name}-{rng_seed}-{asked.control}"
            if (folder / "manifest.json").exists():
                continue
            settings = settings_of(name, asked.data, asked.out, rng_seed=rng_seed, control=asked.control)
            summary = run(settings, folder, asked.out / "cache")
            row = {"name": name, "rng_seed": rng_seed, **summary}
            with (asked.out / "runs.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
