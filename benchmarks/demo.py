"""The warm demo: everything installed and converted, nothing encoded yet."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import CheckError, Row, SkippedError

from facsynth.assemble import embedded_sae_folder
from facsynth.cli.console import cache_folder
from facsynth.errors import ModelError
from facsynth.model.embedded import embedded_model

LIMIT_S = 1200


def rows(quick: bool) -> list[Row]:
    """Seconds of one run, whose samples are then verified."""
    if quick:
        raise SkippedError("the demo takes minutes, and this is --quick")
    if not (embedded_sae_folder() / "background.npz").exists():
        raise SkippedError("no SAE with a background ships yet")
    try:
        embedded_model(cache_folder())
    except ModelError as err:
        raise SkippedError(str(err).splitlines()[0]) from err
    with tempfile.TemporaryDirectory() as folder:
        out, environment = Path(folder, "demo"), warm_cache(Path(folder))
        started = time.perf_counter()
        summary = json.loads(facsynth("demo", "-o", str(out), "--json", env=environment))
        seconds = time.perf_counter() - started
        facsynth("verify", str(out), env=environment)
    note = f"demo: {summary['n_accepted']} samples accepted and verified, {summary['writer_tokens']} tokens written"
    return [Row("facsynth demo, warm", "s", (seconds,), at_most=300, note=note)]


def warm_cache(folder: Path) -> dict[str, str]:
    """An environment of its own cache in `folder`: the user's converted model and hashes, and nothing encoded."""
    cache, own = folder / "cache", cache_folder()
    cache.mkdir()
    (cache / "models").symlink_to((own / "models").resolve())
    if (own / "hashes").exists():
        shutil.copytree(own / "hashes", cache / "hashes")
    return {"FACSYNTH_CACHE": str(cache)}


def facsynth(*words: str, env: dict[str, str]) -> str:
    """What a command prints, with `env` in its environment."""
    command = [str(Path(sys.executable).with_name("facsynth")), *words]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **env}, timeout=LIMIT_S, check=False
    )
    if done.returncode:
        raise CheckError(f"facsynth {words[0]} ends with {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout
