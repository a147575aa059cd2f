"""A whole run on tiny parts: a model with random weights, an SAE with random weights, texts of a few words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from facsynth.model.sae_saelens import save_sae
from facsynth.settings import RunSettings, parse_settings
from tiny import random_sae, save_model

WORDS = [
    "river",
    "field",
    "oven",
    "flour",
    "salt",
    "train",
    "ticket",
    "garden",
    "bank",
    "letter",
    "music",
    "dog",
    "doctor",
    "party",
    "school",
    "number",
    "table",
    "window",
    "glass",
    "paper",
    "bread",
    "water",
    "light",
    "road",
    "winter",
    "summer",
    "morning",
    "evening",
    "book",
    "story",
]


def corpus(path: Path, n_samples: int, rng_seed: int, words: list[str] | None = None) -> Path:
    """Messages of 3 to 14 words."""
    rng = np.random.default_rng(rng_seed)
    rows = []
    for _ in range(n_samples):
        chosen = rng.choice(words or WORDS, size=int(rng.integers(3, 15)))
        rows.append(json.dumps({"messages": [{"role": "user", "content": " ".join(chosen)}]}))
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def parts(folder: Path, n_latents: int = 64) -> dict[str, Any]:
    """Model, SAE and data on disk, as the blocks of a settings file."""
    model = save_model(folder / "model", n_blocks=2, width=32)
    save_sae(random_sae(32, n_latents, k=6), folder / "sae", metadata={})
    return {
        "model": {"path": str(model), "dtype": "float32"},
        "sae": {"path": str(folder / "sae"), "check": "off"},  # random weights rebuild nothing
        "data": {
            "seed": [str(corpus(folder / "seed.jsonl", 8, 1, WORDS[:5]))],
            "anchor": [str(corpus(folder / "anchor.jsonl", 80, 2))],
        },
        "coverage": {"relevance": "all", "threshold": "r0.5", "min_support": 2},
        "writer": {"max_tokens": 24, "batch_size": 8, "strength": 0.6, "rungs": ["plain", "spans", "steered"]},
        "budget": {"features": 8, "per_wave": 2, "max_candidates": 6},
    }


def settings(folder: Path) -> RunSettings:
    """The settings of a tiny run."""
    return parse_settings(parts(folder), "the test")
