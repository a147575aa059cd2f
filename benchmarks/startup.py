"""How long until the command line answers."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from figures import CheckError, Row

REPEATS = 7
IMPORT = "import time; started = time.perf_counter(); import facsynth; print(time.perf_counter() - started)"


def rows(quick: bool) -> list[Row]:
    """`facsynth --help` as a user waits for it, and what importing takes of a Python that runs."""
    helped, imported = [], []
    for _ in range(1 if quick else REPEATS):
        started = time.perf_counter()
        done = subprocess.run(
            [Path(sys.executable).with_name("facsynth"), "--help"], capture_output=True, text=True, check=False
        )
        helped.append(time.perf_counter() - started)
        if done.returncode or "coverage" not in done.stdout:
            raise CheckError(f"facsynth --help fails\n{done.stderr}")
        imported.append(float(subprocess.check_output([sys.executable, "-c", IMPORT], text=True)))
    return [
        Row("facsynth --help", "s", tuple(helped), at_most=0.3),
        Row("import facsynth", "s", tuple(imported)),
    ]
