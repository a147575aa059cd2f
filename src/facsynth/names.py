"""What data sets are called where several are shown together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path


def names_of(sources: Sequence[str]) -> list[str]:
    """By their files, with a number where two are equal."""
    names = [Path(source).name or source for source in sources]
    counts, seen = Counter(names), Counter[str]()
    for n, name in enumerate(names):
        seen[name] += 1
        names[n] = f"{name} ({seen[name]})" if counts[name] > 1 else name
    return names
