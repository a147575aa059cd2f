"""How data sets, counts and p values are written where they are shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import Path


def names_of(sources: Sequence[str]) -> list[str]:
    """By their files, with a number where two are equal; no two are."""
    names = [Path(source).name or source for source in sources]
    counts, taken = Counter(names), set(names)
    for n, name in enumerate(names):
        if counts[name] > 1:
            numbered = (f"{name} ({number})" for number in count(1))
            names[n] = next(other for other in numbered if other not in taken)
            taken.add(names[n])
    return names


def n_of(n: int, what: str) -> str:
    """1 seed, 3 seeds."""
    return f"{n:,} {what}" + "s" * (n != 1)


def p_of(p: float) -> str:
    """Three digits; less than can be shown is no nothing."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
