"""Models by name, made when they are first asked for, and sequences of tokens to run them on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import tiny

LENGTHS = (9, 2, 17, 5, 17, 1, 30)


def sequences(vocabulary: int = 400, lengths: tuple[int, ...] = LENGTHS) -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.integers(20, vocabulary, n).astype(np.int32) for n in lengths]


def everything(ids: list[Any]) -> list[Any]:
    return [np.ones(len(row), dtype=bool) for row in ids]


def folders_in(root: Path) -> Callable[[str], Path]:
    """Of a family of `tiny.FAMILIES`, which "with a window" and "with a wide window" may follow."""

    def folder_of(name: str) -> Path:
        folder, (family, _, window) = root / name, name.partition(" ")
        config = tiny.WINDOWED[family] if window else {}
        config = config | ({"sliding_window": 4096} if "wide" in window else {})
        return folder if folder.exists() else tiny.save_model(folder, family, n_blocks=4, **config)

    return folder_of
