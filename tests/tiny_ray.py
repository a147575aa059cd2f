"""Feature spaces that Ray's actors can open, some of which go wrong: functions of a module, which can be sent."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import tiny
from facsynth.errors import InputError
from facsynth.features.encode import EncodeSettings, FeatureSpace, Pooled
from facsynth.records import Progress, Sample, no_progress


def opened(model: Path, dtype: str = "float32") -> FeatureSpace:
    """The space of a model that `tiny.save_model` left."""
    return FeatureSpace(tiny.backbone(model, dtype=dtype), tiny.random_sae(), EncodeSettings(form="chat"))


class _Watched(FeatureSpace):
    """Does something before it pools."""

    before: Callable[[Sequence[Sample]], None]

    def pool(
        self, samples: Sequence[Sample], token_budget: int | None = None, progress: Progress = no_progress
    ) -> Pooled:
        self.before(samples)
        return super().pool(samples, token_budget, progress)


def _watched(model: Path, before: Callable[[Sequence[Sample]], None]) -> FeatureSpace:
    plain = opened(model)
    space = _Watched(plain.backbone, plain.sae, plain.settings)
    space.before = before
    return space


def slow(model: Path, pids: Path) -> FeatureSpace:
    """Takes a second a shard, and leaves a file named after its process in the folder `pids`."""

    def before(samples: Sequence[Sample]) -> None:
        (pids / str(os.getpid())).touch()
        time.sleep(1)

    return _watched(model, before)


def deadly(model: Path, word: str) -> FeatureSpace:
    """Kills its process where a sample begins with `word`."""

    def before(samples: Sequence[Sample]) -> None:
        if any(sample.text.startswith(word) for sample in samples):
            os.kill(os.getpid(), signal.SIGKILL)

    return _watched(model, before)


def refusing(model: Path, message: str) -> FeatureSpace:
    """Cannot pool."""

    def before(samples: Sequence[Sample]) -> None:
        raise InputError(message)

    return _watched(model, before)


def faulty(model: Path) -> FeatureSpace:
    """Has a bug."""

    def before(samples: Sequence[Sample]) -> None:
        raise KeyError("a bug")

    return _watched(model, before)


def changing(model: Path, seen: Path) -> FeatureSpace:
    """In float32 the first time, in bfloat16 from then on."""
    if seen.exists():
        return opened(model, "bfloat16")
    seen.touch()
    return opened(model)


def runs(pid: int) -> bool:
    """Whether a process does: a dead one may stand in /proc until somebody asks how it ended."""
    with suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return False


def until(holds: Callable[[], object], within_s: float = 240) -> None:
    """Wait for it."""
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)
