"""What was tried and is not the default: drafts that another writer rewrites, and two features in one request.

    python benchmarks/tried.py DATA OUT [--rng-seeds 0,1,2] [--arms drafts] [--tokens 4000,8000]

On the demo, with data, curves and table of `rungs.py`. In drafts the embedded model plays both parts: it steers as the
local model does, and answers prompts in words as an endpoint does. OUT/tried.jsonl holds what `arms.jsonl` holds there.
"""

from __future__ import annotations

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
from facsynth.store import Artifact
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
    folder = rungs.begun(name, base)
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
    return rungs.found(folder, tasks, written, started)


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


def write(name: str, base: Path, settings: RunSettings, parts: Any, cache: Path) -> dict[str, Any]:
    """One arm, begun anew from what was measured."""
    return two_at_once(base, settings, parts, cache) if name == TWO else in_words(name, base, settings, parts)


if __name__ == "__main__":
    rungs.compare(__doc__, ARMS, write, "tried.jsonl", data=("demo",), tokens="4000,8000,16000")
