"""Coverage over tokens and its interval, of 1M samples against 2,000 targets, read part by part. Synthetic firings.

    python benchmarks/intervals.py N_SAMPLES

is one such process; it prints JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from figures import CheckError, Row, peak_mb

N_TARGET, PART, FEW = 2_000, 512, 1_000


def rows(quick: bool) -> list[Row]:
    """Seconds, and memory beside that of a tenth of the samples."""
    many = 20_000 if quick else 1_000_000
    large, small = _in_child(many), _in_child(many // 10)
    size = f"{many:,} samples x {N_TARGET:,} targets"
    found = f"coverage {large['value']:.4f}, {large['low']:.4f} to {large['high']:.4f}"
    note = f"intervals: {large['n_entries']:,} firings; {found}"
    return [
        Row(f"coverage over tokens, {size}", "s", (large["cover_s"],)),
        Row("its interval, 200 halvings", "s", (large["interval_s"],)),
        Row(f"that of {FEW:,} samples drawn from it", "s", (large["part_s"],)),
        Row("reading what each takes, which is random here", "s", (large["read_s"],)),
        Row("peak memory above the imports", "MB", (large["above"],), f"{many // 10:,} samples", (small["above"],),
            note=note),
    ]  # fmt: skip


def _in_child(n_samples: int) -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, str(n_samples)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CheckError(f"intervals: {done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _child(n_samples: int) -> dict[str, Any]:
    from facsynth.coverage.intervals import coverage_interval, drawn_from, enough  # noqa: PLC0415  (the parent needs none)
    from facsynth.coverage.rarefaction import at_tokens, covered_at  # noqa: PLC0415
    from facsynth.coverage.richness import expected_coverage  # noqa: PLC0415

    rates = np.geomspace(1e-6, 0.3, N_TARGET)
    before, clock = peak_mb(), [time.perf_counter()]
    firing, n_tokens, ids = np.zeros(N_TARGET, np.int64), [], []
    for part in _parts(n_samples, rates):
        firing += part.counts(N_TARGET)
        n_tokens.append(part.n_tokens)
        ids.append(part.ids)
    clock.append(time.perf_counter())
    cover = covered_at(np.concatenate(ids), np.concatenate(n_tokens), _parts(n_samples, rates), N_TARGET)
    clock.append(time.perf_counter())
    found = coverage_interval(drawn_from(_parts(n_samples, rates), firing))
    clock.append(time.perf_counter())
    part = coverage_interval(
        drawn_from(_parts(n_samples, rates), firing, share=FEW / n_samples, kept=enough(n_samples, FEW / n_samples))
    )
    clock.append(time.perf_counter())
    total, value = int(np.concatenate(n_tokens).sum()), (firing > 0).mean()
    half = expected_coverage(firing, n_samples, n_samples // 2, N_TARGET)
    if at_tokens(cover, total) != value or abs(at_tokens(cover, total // 2) - half) > 0.01:
        raise CheckError(f"coverage over tokens ends at {at_tokens(cover, total)}, not {value}, or passes {half} by")
    if found is None or not found.low <= value <= found.high:
        raise CheckError(f"the interval {found} does not hold its own estimate {value}")
    if part is None or not 0 < part.high - part.low < 0.05:
        raise CheckError(f"the interval of a part is {part}")
    seconds = dict(zip(("read_s", "cover_s", "interval_s", "part_s"), np.diff(clock).tolist(), strict=True))
    return {
        "value": value, "low": found.low, "high": found.high, "n_entries": int(firing.sum()),
        "above": peak_mb() - before, **seconds,
    }  # fmt: skip


def _parts(n_samples: int, rates: Any) -> Iterator[Any]:
    """The same parts, whenever they are asked for."""
    from facsynth.incidence import Incidence  # noqa: PLC0415

    rng = np.random.default_rng(0)
    for start in range(0, n_samples, PART):
        n = min(PART, n_samples - start)
        counts = rng.binomial(n, rates)
        sample = np.concatenate([rng.choice(n, count, replace=False) for count in counts if count])
        column = np.repeat(np.arange(len(rates)), counts)
        yield Incidence(rng.integers(0, 2**63, n).astype(np.uint64), rng.integers(5, 80, n), sample, column)


if __name__ == "__main__":
    print(json.dumps(_child(int(sys.argv[1]))))
