"""A run's folder: begun, gone on with, and refused where it means another run.

Before: `settings` and the corpora. After: `pipeline` does the work in it.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from facsynth.assemble import read_data
from facsynth.errors import MismatchError
from facsynth.records import Progress, no_progress
from facsynth.settings import RunSettings, dump_settings, load_settings
from facsynth.store import Artifact, file_sha256, read_json, write_json, write_text
from facsynth.tasks import load_task
from facsynth.text.corpus import Corpus

RESOLVED = "# The settings of this run, all of them; written by facsynth.\n"
"""First line of a run's facsynth.yaml: tells it from one that a person wrote."""
ON_THE_WAY = {
    "url", "key_env", "concurrency", "timeout_s", "max_attempts", "max_wait_s", "limit_field",
    "allow_spans_to_endpoint",
}  # fmt: skip
"""What of an endpoint is not about its model."""
WITHOUT_EFFECT: dict[str, Any] = {
    "data": {"seed", "anchor", "pool"}, "model": {"device"}, "sae": {"check"},
    "writer": {"batch_size": True, "endpoint": ON_THE_WAY}, "judge": {"batch_size": True, "endpoint": ON_THE_WAY},
}  # fmt: skip
"""What a run may be gone on with in another way: data sets count by their content, not by their place."""
MAY_HOLD = {"facsynth.yaml", "seconds.json", "plan.csv", "meaning"}
MAY_HOLD |= {f"ledger.sqlite{end}" for end in ("", "-wal", "-shm")}
"""What may lie in a folder before a run begins in it: a plan is followed, once it was checked; what a
ledger holds is not asked again."""
Corpora = tuple[Corpus, Corpus]
"""Anchor and seed set."""


def open_run(settings: RunSettings, out: Path, corpora: Corpora | None) -> Artifact:
    """Begin or reopen the run folder; other settings or data are refused once anything was encoded.

    Args:
        settings: of the run.
        out: the run folder.
        corpora: anchor and seed set; None where they came from stdin and are encoded.

    Raises:
        InputError: it is not empty, and what is in it is no run.
        MismatchError: it was begun with other settings or data, or its plan.csv was edited after the run.
    """
    plan, resolved = out / "plan.json", out / "facsynth.yaml"
    there = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    if there - MAY_HOLD == {"plan.json"} and read_json(plan, "stage")["stage"] == "run":
        plan.unlink()  # nothing came of it: begin anew
        if resolved.exists() and resolved.read_bytes().startswith(RESOLVED.encode()):
            resolved.unlink()
    if not plan.exists():
        _check_resolved(resolved, settings)
    parents = read_json(plan, "parents")["parents"] if corpora is None else {
        which: corpus.fingerprint for which, corpus in zip(("anchor", "seed"), corpora, strict=True)
    }  # fmt: skip
    folder = Artifact(out, "run", effective(settings), parents, may_hold=MAY_HOLD)
    _check_resolved(resolved, settings)
    if not resolved.exists():
        write_text(resolved, RESOLVED + dump_settings(settings))
    if folder.manifest is not None:
        check_plan_file(out)
    return folder


def effective(settings: RunSettings) -> dict[str, Any]:
    """The settings that a run's results depend on; of a task its content, which may stand in a file of the user's."""
    if "judge" not in settings.coverage.relevance or settings.task is None:
        return settings.model_dump(mode="json", exclude=WITHOUT_EFFECT | {"judge": True, "task": True})
    task = asdict(load_task(settings.task))
    return settings.model_dump(mode="json", exclude=WITHOUT_EFFECT) | {"task": task | {"rubric": list(task["rubric"])}}


def read_unless_known(settings: RunSettings, out: Path, progress: Progress = no_progress) -> Corpora | None:
    """Anchor and seed set, before anything is loaded; None where one was stdin and both are encoded: it is gone."""
    encoded = all((out / "features" / which / "manifest.json").exists() for which in ("anchor", "seed"))
    if encoded and "-" in (*settings.data.anchor, *settings.data.seed):
        return None
    return read_data(settings.data, "anchor", progress), read_data(settings.data, "seed", progress)


def check_plan_file(out: Path) -> None:
    """Refuse a plan.csv that is not the one that targets.json was made from."""
    targets, plan = out / "targets.json", out / "plan.csv"
    if targets.exists() and plan.exists() and read_json(targets, "plan_sha256")["plan_sha256"] != file_sha256(plan):
        copied, settings = shlex.quote(str(plan)), shlex.quote(str(out / "facsynth.yaml"))
        raise MismatchError(
            f"{plan} was changed after samples were begun\nRestore it, or follow it in a folder of its own:\n"
            f"  mkdir NEW && cp {copied} NEW && facsynth run {settings} -o NEW"
        )


def _check_resolved(resolved: Path, settings: RunSettings) -> None:
    """Refuse a facsynth.yaml in the run folder that means another run."""
    if resolved.exists() and effective(load_settings(resolved)) != effective(settings):
        raise MismatchError(
            f"{resolved} says something else than what was asked for\n"
            "Choose another folder with -o, or ask for what it says. Nothing was changed."
        )


@contextmanager
def timed(out: Path) -> Iterator[Callable[[], float]]:
    """Gives the seconds worked on a run so far; kept from call to call, but for calls that were killed."""
    path, started = out / "seconds.json", time.monotonic()
    before = float(read_json(path, "seconds")["seconds"]) if path.exists() else 0.0

    def seconds() -> float:
        return before + time.monotonic() - started

    try:
        yield seconds
    finally:
        write_json(path, {"seconds": round(seconds(), 1)})
