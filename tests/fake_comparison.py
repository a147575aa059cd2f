"""The record of a comparison as `compare` leaves it, with invented figures: what the tests of its report read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facsynth.store import write_json
from fake_run import TEXTS

CI95 = [-0.09, -0.01]
N_WITH_SPANS = 200
THRESHOLDS = [[f"r0.{tenth}", 300 - 10 * tenth] for tenth in range(1, 10)]


def make_comparison(
    folder: Path,
    n: int,
    names: Sequence[str] = ("mine.jsonl", "yours.jsonl"),
    edit: Callable[[str], str] = lambda text: text,
) -> Path:
    """Write the folder: each further set fires `n` features more or less often. `edit` changes every span."""
    sets = [_set(name, 500 + 250 * k, 0.8 - 0.05 * k) for k, name in enumerate(names)]
    less = {"value": -0.05, "ci95": CI95}
    pairs = [
        {
            "first": names[0], "other": other, "at_equal_samples": less, "at_equal_tokens": less,
            "only_first": [*range(12)], "only_other": [99], "n_tested": n + 7, "compared": [0.9, 1.0],
            "differences": [_difference(k, n, edit) for k in range(n)],
        }
        for other in names[1:]
    ]  # fmt: skip
    write_json(folder / "comparison.json", {
        "sets": sets, "pairs": pairs, "thresholds": THRESHOLDS, "n_target": n + 20, "n_thin": 3,
        "n_samples": 500, "n_tokens": 10_000, "threshold": "r0.5", "relevance": "contrast", "codes": "native",
        "form": "message", "min_support": 1, "fingerprints": {"sae": "5f2c" * 16},
        "names": {"model": "SmolLM2-135M-Instruct", "sae": "embedded", "hook_point": "layers.14", "anchor": names[0]},
        "notes": [f"30 samples are in {names[0]} and in {names[1]}"],
    })  # fmt: skip
    return folder


def _set(name: str, n_samples: int, value: float) -> dict[str, Any]:
    n_tokens = 20 * n_samples
    curves = {
        axis: [[int(x), value * float(np.log(x) / np.log(most))] for x in np.unique(np.geomspace(1, most, 24).round())]
        for axis, most in (("samples", n_samples), ("tokens", n_tokens))
    }
    return {
        "name": name, "n_samples": n_samples, "n_tokens": n_tokens, "n_covered": 200, "value": value,
        "ci95": [value - 0.03, value + 0.03], "at_equal_samples": value - 0.01, "at_equal_tokens": value - 0.02,
        "curve": curves, "thresholds": [value * (1 - k / 20) for k in range(len(THRESHOLDS))],
    }  # fmt: skip


def _difference(k: int, n: int, edit: Callable[[str], str]) -> dict[str, Any]:
    """The `k`-th of `n`, the most different first; every third is fired less by the other set."""
    spans = [_span(TEXTS[(k + more) % len(TEXTS)], edit) for more in range(3 if k < N_WITH_SPANS else 0)]
    sign = 1 if k % 3 == 0 else -1
    rates = sorted([0.02 + 0.3 * (n - k) / n, 0.01 + 0.1 * (k % 7) / 7], reverse=sign > 0)
    return {
        "feature": 17 * k % 65_537, "rates": rates, "log_odds": sign * (0.5 + 3 * (n - k) / n), "q": 1e-4,
        "span": spans[0] if spans else None, "more": spans[1:],
    }  # fmt: skip


def _span(text: tuple[str, ...], edit: Callable[[str], str]) -> dict[str, str]:
    """What `edit` puts to the end lies before the token and is the token."""
    return {"text": edit(text[0]) + edit(text[1]), "token": edit(text[1])}
