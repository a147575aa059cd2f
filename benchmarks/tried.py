"""What was tried and is not the default: drafts that another writer rewrites, and two features in one request.

    python benchmarks/tried.py DATA OUT [--rng-seeds 0,1,2] [--arms drafts] [--tokens 4000,8000]

On the demo, with data, curves and table of `rungs.py`. In drafts the embedded model plays both parts: it steers as the
local model does, and answers prompts in words as an endpoint does. OUT/tried.jsonl holds what `arms.jsonl` holds there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import rungs

from facsynth import filling
from facsynth.assemble import open_local_writer
from facsynth.llm import Ledger, LedgerWriter
from facsynth.llm.drafting import DraftingWriter
from facsynth.proof import measurer
from facsynth.records import no_progress
from facsynth.settings import RunSettings
from facsynth.store import Artifact, read_jsonl
from facsynth.synthesis.loop import synthesize
from facsynth.synthesis.requests import in_common
from facsynth.synthesis.waves import Wave, Waves
from facsynth.writers import ROLES

IN_WORDS: dict[str, dict[str, Any]] = {
    "spans in words": {"rungs": ("spans",)},
    "drafts": {"rungs": ("steered",), "is_drafted": True},
    "spans then drafts": {"rungs": ("spans", "steered"), "is_drafted": True},
}
TWO = "steered, two at once"
ARMS = (*IN_WORDS, TWO)
TOKENS = 64


def in_words(name: str, base: Path, settings: RunSettings, parts: Any) -> dict[str, Any]:
    """An arm that is asked as an endpoint is, by a model in this process."""
    tasks, _, space, anchor, exact = parts
    folder = base.with_name(f"{base.name} {name}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for part in ("features", "targets.json"):
        (folder / part).symlink_to(base / part)
    asked = replace(settings.synthesis, asks="message", n_tries=1, max_tokens=TOKENS, control=0.0, **IN_WORDS[name])
    local = partial(open_local_writer, space, anchor.profile, [task.feature_id for task in tasks], settings)
    steered = settings.model_copy(update={"writer": settings.writer.model_copy(update={"rungs": ("steered",)})})
    seen, _ = filling._seen(settings, folder, space)
    started = time.monotonic()
    with Ledger.open(folder / "ledger.sqlite") as ledger:
        writer: Any = LedgerWriter(local(), ledger)
        if asked.is_drafted:
            drafter = LedgerWriter(local(), ledger, role=ROLES["draft"])
            about = {task.feature_id: in_common(task) for task in tasks}
            writer = DraftingWriter(drafter, writer, about, draft_tokens=TOKENS)
        artifact = Artifact(folder / "synthesis", "synthesize", asdict(asked), {"writer": writer.identity})
        written = synthesize(
            tasks, writer, measurer(exact), artifact, asked, guard=filling._guard(steered, space, anchor), seen=seen,
            progress=no_progress,
        )  # fmt: skip
    return {
        "seconds": round(time.monotonic() - started, 1), "n_attempted": len(tasks), "curve": rungs.curve(folder, tasks),
        "n_accepted": len(written.accepted), "stop_reason": written.stop_reason,
    }  # fmt: skip


def two_at_once(base: Path, settings: RunSettings, parts: Any, cache: Path) -> dict[str, Any]:
    """Every request is steered along the next open feature too."""
    one = Waves._feature_wave

    def two(waves: Waves) -> Wave:
        wave = one(waves)
        steering = {feature: request.steering for feature, request in wave}
        order = list(steering)
        following = dict(zip(order, order[1:] + order[:1], strict=True)) if len(order) > 1 else {}
        return [
            (feature, replace(request, steering=tuple(sorted({*request.steering, *steering[following[feature]]}))))
            if feature in following and request.steering
            else (feature, request)
            for feature, request in wave
        ]

    rungs.ARMS[TWO] = {"rungs": ("steered",)}
    Waves._feature_wave = two  # type: ignore[method-assign]
    try:
        return rungs.write(TWO, base, settings, parts, cache)
    finally:
        Waves._feature_wave = one  # type: ignore[method-assign]


def main() -> None:
    """Run what is asked for, one after the other, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rng-seeds", default="0,1,2")
    parser.add_argument("--arms", default=",".join(name.replace(", ", "+") for name in ARMS))
    parser.add_argument("--tokens", default="4000,8000,16000")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    kept = asked.out / "tried.jsonl"
    rows = list(read_jsonl(kept)) if kept.exists() else []
    arms = [name.replace("+", ", ") for name in asked.arms.split(",")]
    for rng_seed in (int(part) for part in asked.rng_seeds.split(",")):
        left = [arm for arm in arms if (rng_seed, arm) not in {(row["rng_seed"], row["arm"]) for row in rows}]
        if not left:
            continue
        base, settings, parts = rungs.measured("demo", asked.data, asked.out, rng_seed)
        for arm in left:
            found = (
                two_at_once(base, settings, parts, asked.out / "cache")
                if arm == TWO
                else in_words(arm, base, settings, parts)
            )
            rows.append({"data": "demo", "rng_seed": rng_seed, "arm": arm} | found)
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(rng_seed, arm, rows[-1]["curve"][-1], rows[-1]["stop_reason"], rows[-1]["seconds"], flush=True)
    print(rungs.table(rows, [int(part) for part in asked.tokens.split(",")], arms))


if __name__ == "__main__":
    main()
