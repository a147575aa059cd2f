"""Choosing 1,000 of a pool of 1M samples x 65,536 features. Synthetic pairs.

    python benchmarks/selecting.py N_SAMPLES D_SAE N

is the process that is measured; it prints JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import numpy as np
from figures import REPEATS, CheckError, Row, peak_mb

FIRES_MOST = 0.02
"""Rates are log-uniform from a millionth up to this."""


def rows(quick: bool) -> list[Row]:
    """Seconds and peak memory."""
    n_samples, d_sae, n = (20_000, 2048, 50) if quick else (1_000_000, 65_536, 1000)
    command = [sys.executable, __file__, str(n_samples), str(d_sae), str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CheckError(f"select: {done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    note = f"select: {found['n_pairs']:,} pairs, {found['n_chosen']:,} chosen"
    figure = f"selecting {n:,} of {n_samples:,} samples x {d_sae:,} features"
    return [
        Row(figure, "s", tuple(found["seconds"]), at_most=120, note=note),
        Row("selecting: peak memory, the pairs included", "MB", (found["peak"],)),
    ]


def _child(n_samples: int, d_sae: int, n: int) -> dict[str, Any]:
    from scipy.sparse import csr_array  # noqa: PLC0415  (the parent needs none of it)

    from facsynth.coverage.select import select  # noqa: PLC0415

    rng = np.random.default_rng(0)
    counts = rng.poisson(n_samples * np.exp(rng.uniform(np.log(1e-6), np.log(FIRES_MOST), d_sae)))
    feature = np.repeat(np.arange(d_sae, dtype=np.int32), counts)
    sample = rng.integers(n_samples, size=len(feature), dtype=np.int32)
    fires = csr_array((np.ones(len(feature), np.int8), (sample, feature)), shape=(n_samples, d_sae))
    fires.sum_duplicates()
    del feature, sample
    wanted = rng.integers(1, 4, d_sae)
    weights, lengths = counts + 1, rng.integers(4, 200, n_samples)
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        chosen = select(fires, wanted, weights, lengths, n)
        seconds.append(time.perf_counter() - started)
    gains = fires.astype(bool) @ weights
    if gains[chosen[0]] != gains.max() or len(set(chosen.tolist())) != len(chosen):
        raise CheckError("the first chosen is not the one that adds most, or one was chosen twice")
    return {"seconds": seconds, "n_pairs": fires.nnz, "n_chosen": len(chosen), "peak": peak_mb()}


if __name__ == "__main__":
    print(json.dumps(_child(*map(int, sys.argv[1:]))))
