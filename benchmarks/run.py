"""What `make bench` runs: speed and memory, side by side with other ways, as one Markdown table and as JSON.

    python benchmarks/run.py [--quick] [--only SECTION] [--out bench.json]

Ways that are compared are first checked to give the same, then timed in turn. It measures and does not judge: exit 0
even where a goal is missed, 1 where a check fails. Half an hour on two cores that have nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from figures import CheckError, Row, SkippedError, table

SECTIONS = {
    "encode": "encode",
    "disk": "disk",
    "memory": "memory",
    "profiles": "scale",
    "intervals": "intervals",
    "select": "selecting",
    "startup": "startup",
    "demo": "demo",
    "writing": "writing",
    "endpoint": "endpoint",
    "endpoint-run": "endpoint_run",
}
"""Name to file."""
BUSY = 1.25
"""Load a core, above which something else was running; this is one process of as many threads as there are cores."""
ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Measure, print, write."""
    asked = _arguments()
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    machine = _machine()
    rows: list[Row] = []
    failed: list[str] = []
    for name in [asked.only] if asked.only else SECTIONS:
        started = time.perf_counter()
        try:
            rows += import_module(SECTIONS[name]).rows(asked.quick)
        except SkippedError as reason:
            rows.append(Row(name, note=f"{name}: skipped, {reason}"))
        except CheckError as reason:
            failed.append(f"{name}: {reason}")
            rows.append(Row(name, note=f"{name}: a check failed, nothing measured"))
        machine["load"][name] = os.getloadavg()[0]
        _say(f"{name}: {time.perf_counter() - started:.0f} s, load {machine['load'][name]:.1f}")
        found = {"machine": machine, "quick": asked.quick, "failed": failed, "rows": [row.as_json() for row in rows]}
        _write(asked.out, found)
    print(table(rows))
    busy = [name for name, load in machine["load"].items() if load > BUSY * machine["n_cores"]]
    if busy:
        print(f"\nThe machine had other things to do ({', '.join(busy)}): read ratios, not times.")
    for note in dict.fromkeys(row.note for row in rows if row.note):
        print(f"\n- {note}")
    for reason in failed:
        _say(f"check failed: {reason}")
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed and memory, side by side with other ways.")
    parser.add_argument("--quick", action="store_true", help="toy sizes: does it run, not how fast")
    parser.add_argument("--only", choices=SECTIONS, help="one part")
    parser.add_argument("--out", type=Path, help="JSON file [runs/bench.json; runs/bench-PART.json with --only]")
    asked = parser.parse_args()
    asked.out = asked.out or ROOT / "runs" / (f"bench-{asked.only}.json" if asked.only else "bench.json")
    return asked


def _machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.processor(),
        "n_cores": os.cpu_count() or 1,
        "load": {},
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "transformers", "numpy", "facsynth")},
    }


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
