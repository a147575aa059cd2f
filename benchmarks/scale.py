"""Merging eight profiles to one of 1M samples x 65,536 features, and measuring with it. Synthetic cells.

    python benchmarks/scale.py N_SAMPLES D_SAE

is the process that is measured; it prints JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt
from figures import REPEATS, CheckError, Row, peak_mb

N_PARTS = 8
LENGTH_BINS, ACTIVATION_BINS = np.arange(6, 14), np.arange(80, 104)
"""8 to 128 content tokens; maxima of 1 to 8."""
CHUNK = 4096
ENOUGH_S = 60
"""Fewer repeats on a machine where they would take longer."""


def rows(quick: bool) -> list[Row]:
    """Seconds and peak memory."""
    n_samples, d_sae = (16_000, 2048) if quick else (1_000_000, 65_536)
    command = [sys.executable, __file__, str(n_samples), str(d_sae)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CheckError(f"profiles: {done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    size = f"{n_samples:,} samples x {d_sae:,} features"
    note = f"profiles: {found['n_cells']:,} cells after merging, {found['n_targets']:,} targets"
    together = tuple(a + b for a, b in zip(found["merge"], found["measure"], strict=True))
    return [
        Row(f"merging {N_PARTS} profiles, {size}", "s", tuple(found["merge"])),
        Row("thresholds, relevance and coverage with them", "s", tuple(found["measure"])),
        Row("merge, relevance and coverage together", "s", together, at_most=60, note=note),
        Row("merge, relevance and coverage: peak memory", "MB", (found["peak"],)),
    ]


def _child(n_samples: int, d_sae: int) -> dict[str, Any]:
    from facsynth.coverage.coverage import coverage, targets  # noqa: PLC0415  (the parent needs none of it)
    from facsynth.coverage.threshold import Threshold, feature_thresholds  # noqa: PLC0415
    from facsynth.meaning.relevance import contrast  # noqa: PLC0415
    from facsynth.profile import merge  # noqa: PLC0415

    rng = np.random.default_rng(0)
    rates = np.exp(rng.uniform(np.log(1e-5), np.log(0.3), d_sae))
    broader = np.minimum(rates * np.exp(rng.normal(0, 1, d_sae)), 0.3)
    parts = [_profile(rates, n_samples // N_PARTS, rng) for _ in range(N_PARTS)]
    anchor, background = (_profile(r, n_samples // N_PARTS, rng) for r in (broader, rates))
    seconds: dict[str, list[float]] = {"merge": [], "measure": []}
    while len(seconds["merge"]) < REPEATS and sum(map(sum, seconds.values())) < ENOUGH_S:
        started = time.perf_counter()
        merged = merge(parts)
        halfway = time.perf_counter()
        limits = feature_thresholds(Threshold.parse("r0.5"), anchor, background)
        aims = targets(anchor, limits, contrast(anchor, background, limits).feature_ids)
        covered = coverage(merged, aims, limits)
        seconds["measure"].append(time.perf_counter() - halfway)
        seconds["merge"].append(halfway - started)
    firing = sum(part.firing_samples(limits) for part in parts)
    if merged.n_samples != n_samples or not np.array_equal(merged.firing_samples(limits), firing):
        raise CheckError("the merged profile does not count what its parts count")
    if not np.array_equal(covered.covered, aims.feature_ids[firing[aims.feature_ids] > 0]):
        raise CheckError("coverage is not that of the parts")
    sizes = {"n_cells": len(merged.cell_key), "n_targets": len(aims.feature_ids), "peak": peak_mb()}
    return {**seconds, **sizes}


def _profile(rates: npt.NDArray[np.float64], n_samples: int, rng: np.random.Generator) -> Any:
    """A set whose samples fire each feature at its rate, alike at all lengths, low maxima oftener than high ones."""
    from facsynth.bins import N_LENGTH_BINS, N_TOP  # noqa: PLC0415
    from facsynth.profile import Profile  # noqa: PLC0415

    d_sae = len(rates)
    of_length = np.full(len(LENGTH_BINS), n_samples // len(LENGTH_BINS))
    lengths, sizes = np.zeros(N_LENGTH_BINS, np.int64), np.zeros(N_LENGTH_BINS, np.int64)
    lengths[LENGTH_BINS], sizes[LENGTH_BINS] = of_length, of_length * np.exp2(LENGTH_BINS / 2).astype(np.int64)
    share = np.linspace(2, 0.01, len(ACTIVATION_BINS))
    expected = of_length[:, None] * share / share.sum()
    keys, counts = [], []
    for start in range(0, d_sae, CHUNK):
        drawn = rng.poisson(rates[start : start + CHUNK, None, None] * expected)
        feature, length, activation = np.nonzero(drawn)
        keys.append((feature + start) << 16 | LENGTH_BINS[length] << 8 | ACTIVATION_BINS[activation])
        counts.append(drawn[feature, length, activation])
    key, samples = np.concatenate(keys), np.concatenate(counts)
    n_firing = np.bincount(key >> 16, weights=samples, minlength=d_sae)
    shown = np.arange(N_TOP) < n_firing[:, None]
    top = np.where(shown, -np.sort(-rng.uniform(1, 8, (d_sae, N_TOP))), 0).astype(np.float32)
    ids = np.where(shown, rng.integers(1 << 63, size=top.shape), 0).astype(np.uint64)
    return Profile(
        space={"sae": "synthetic"}, d_sae=d_sae, length_samples=lengths, length_tokens=sizes,
        cell_key=key, cell_samples=samples, cell_tokens=2 * samples,
        top_value=top, top_sample=ids, top_position=np.where(shown, 7, 0).astype(np.int32),
    )  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(_child(int(sys.argv[1]), int(sys.argv[2]))))
