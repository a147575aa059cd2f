"""Which samples fire which target features: what intervals and rarefaction by tokens need beyond a profile.

Ground: `features` makes it from shards, `coverage` counts on it. What is random is drawn by sample id, so that the
order of samples, and the shards that they lie in, change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from facsynth.bins import Ids, Ints


class Incidence(NamedTuple):
    """Of a set of samples, or a part of it; an entry for each (sample, target feature above its threshold)."""

    ids: Ids
    """[n_samples]"""
    n_tokens: Ints
    """[n_samples], content tokens."""
    sample: Ints
    """[n_entries], in 0 … n_samples - 1."""
    column: Ints
    """[n_entries], which of the targets, in 0 … n_target - 1."""

    def of(self, columns: Ints, n_target: int) -> Incidence:
        """With the entries of some of the targets alone."""
        wanted = np.zeros(n_target, np.bool_)
        wanted[columns] = True
        kept = wanted[self.column]
        return self._replace(sample=self.sample[kept], column=self.column[kept])

    def where(self, kept: npt.NDArray[np.bool_]) -> Incidence:
        """Some of the samples, [n_samples], alone."""
        inside = kept[self.sample]
        number = np.cumsum(kept) - 1
        return Incidence(self.ids[kept], self.n_tokens[kept], number[self.sample[inside]], self.column[inside])

    def thinned(self, share: float) -> Incidence:
        """A share of the samples alone, drawn by id: a sample that two sets hold is in both, or in neither."""
        return self if share >= 1 else self.where(_mixed(self.ids) < np.uint64(share * 2**64))

    def counts(self, n_target: int) -> Ints:
        """[n_target], how many samples fire each."""
        return np.bincount(self.column, minlength=n_target)


def joined(parts: Iterable[Incidence]) -> Incidence:
    """The parts of a set as one."""
    listed = [*parts]
    starts = np.cumsum([0, *(len(part.ids) for part in listed)])
    none = np.zeros(0, np.int64)
    return Incidence(
        np.concatenate([np.zeros(0, np.uint64), *(part.ids for part in listed)]),
        np.concatenate([none, *(part.n_tokens for part in listed)]),
        np.concatenate([none, *(part.sample + start for part, start in zip(listed, starts, strict=False))]),
        np.concatenate([none, *(part.column for part in listed)]),
    )


def orders(ids: Ids, n: int, rng_seed: int) -> Iterator[Ints]:
    """`n` random orders of the samples, each [n_samples]: indices, first drawn first."""
    for seed in np.random.default_rng(rng_seed).integers(0, 2**64, n, dtype=np.uint64):
        yield np.argsort(_mixed(ids ^ seed), kind="stable")


def _mixed(x: Ids) -> Ids:
    """Numbers that look random, one for each (splitmix64, Steele, Lea and Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
