"""Whether a text is, in part or in all, one of many others: by the runs of words that they share.

Before: corpora, and what a writer gave. After: duplicates are left out, and so is what an evaluation set holds.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

_WORD = re.compile(r"\w+")
_FACTOR = 0x9E3779B97F4A7C15
"""Odd, so that it has an inverse: each order of words has a number of its own."""
_WAITING = 1 << 22
"""Numbers that wait at least before they are sorted in."""
Numbers = npt.NDArray[np.uint64]


class WordRuns:
    """The runs of `n` words in a row of many texts, as 64-bit numbers: 8 bytes for each different one.

    Marks and case do not count. A text of fewer words is one run. Two different runs of words have one number with a
    chance of 5e-20.
    """

    def __init__(self, texts: Iterable[str], n: int) -> None:
        """Take in all texts; they are not kept."""
        self.n = n
        self._known: Numbers = np.zeros(0, np.uint64)
        waiting: list[Numbers] = []
        n_waiting = 0
        for text in texts:
            waiting.append(runs_of(text, n))
            n_waiting += len(waiting[-1])
            if n_waiting > max(_WAITING, len(self._known)):
                self._known, waiting, n_waiting = np.unique(np.concatenate([self._known, *waiting])), [], 0
        self._known = np.unique(np.concatenate([self._known, *waiting]))

    def __len__(self) -> int:
        return len(self._known)

    def share(self, text: str) -> float:
        """Of the runs of `text`, the share that others have too; 0 of a text without words."""
        found = runs_of(text, self.n)
        if not len(found) or not len(self._known):
            return 0.0
        places = np.minimum(np.searchsorted(self._known, found), len(self._known) - 1)
        return float(np.mean(self._known[places] == found))

    def add(self, text: str) -> None:
        """Take in one more."""
        self._known = np.union1d(self._known, runs_of(text, self.n))


def runs_of(text: str, n: int) -> Numbers:
    """A number for each run of `n` words in a row; one for all where there are fewer."""
    words = np.array([_number(word) for word in _WORD.findall(text.lower())], np.uint64)
    if not len(words):
        return words
    length = min(n, len(words))
    found = np.zeros(len(words) - length + 1, np.uint64)
    with np.errstate(over="ignore"):
        for at in range(length):
            found = found * np.uint64(_FACTOR) + words[at : at + len(found)]
        found ^= np.uint64(length)
    return found


@lru_cache(maxsize=1 << 17)
def _number(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
