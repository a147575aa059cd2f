"""What of a corpus is still to be pooled, shard by shard, and shards put together from what is known and what is new.

Before: `text.corpus`, and folders of `features.reuse`. After: an engine of `features.encoded` pools what is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from facsynth.errors import SettingsError
from facsynth.features.reuse import Known, in_order
from facsynth.records import Failure, Sample
from facsynth.store import Artifact
from facsynth.text.corpus import Corpus

FEWEST = 64
"""New samples that are worth passes of their own: of shards whose others are known, more are pooled together."""

MOST_SHARDS = 16
"""Shards that wait for each other at most: they are held in memory, and a kill loses them."""


class Todo(Protocol):
    """Numbered samples that are to be pooled; walked through once, and how many numbers there are is known before."""

    def __iter__(self) -> Iterator[tuple[int, list[Sample]]]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Part:
    """Shards number - 1, number - 1 + n, … of a corpus."""

    number: int
    n: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read "2/7".

        Raises:
            SettingsError: anything else.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise SettingsError(f"there is no shard {text!r}\nWrite 1/8 for the first of eight parts.")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.n}"


@dataclass(frozen=True)
class _Shard:
    """One that is not written yet."""

    name: str
    sample_ids: list[str]
    known: list[pa.Table]
    """Rows of those of its samples that are known."""
    new: list[Sample]


class Queue:
    """A `Todo`: the shards that are not there yet, without the samples that are known, and with them again."""

    def __init__(self, corpus: Corpus, artifact: Artifact, part: Part, known: Known, shard_samples: int) -> None:
        self._corpus, self._artifact, self._part, self._known = corpus, artifact, part, known
        self._shard_samples = shard_samples
        self._in_hand: dict[int, list[_Shard]] = {}
        """By number: the shards whose new samples were asked for under it."""

    def __len__(self) -> int:
        return sum(map(self._is_missing, range(-(-len(self._corpus) // self._shard_samples))))

    def __iter__(self) -> Iterator[tuple[int, list[Sample]]]:
        """Number and samples; a shard with few unknown ones asks for none, and the next one for its as well."""
        carried: list[_Shard] = []
        n_left = len(self)
        for number, samples in enumerate(_shards(self._corpus, self._shard_samples)):
            if not self._is_missing(number):
                continue
            n_left -= 1
            shard = self._shard(number, samples)
            if n_left and not shard.new:  # nothing to wait for
                self._in_hand[number] = [shard]
                yield number, []
                continue
            carried.append(shard)
            few = len(carried) < MOST_SHARDS and sum(len(shard.new) for shard in carried) < FEWEST
            if n_left and shard.known and few:
                yield number, []
            else:
                self._in_hand[number] = carried
                yield number, [sample for shard in carried for sample in shard.new]
                carried = []

    def complete(
        self, number: int, table: pa.Table, failures: Sequence[Failure]
    ) -> Iterator[tuple[str, pa.Table, list[Failure]]]:
        """The whole shards that an engine's answer to `number` makes: name, rows in the corpus' order, failures."""
        for shard in self._in_hand.pop(number, []):
            asked = {name for sample in shard.new for name in (sample.where, sample.sample_id) if name}
            rows = in_order(shard.sample_ids, [table, *shard.known])
            yield shard.name, rows, [failure for failure in failures if failure.where in asked]

    def _shard(self, number: int, samples: list[Sample]) -> _Shard:
        ids = [sample.sample_id for sample in samples]
        copied = self._known.find(ids)
        there = set(copied["sample_id"].to_pylist()) if copied else set()
        new = [sample for sample in samples if sample.sample_id not in there]
        return _Shard(_name(number), ids, [copied] if copied else [], new)

    def _is_missing(self, number: int) -> bool:
        return number % self._part.n == self._part.number - 1 and not self._artifact.has(_name(number))


def _name(number: int) -> str:
    return f"shards/{number:05d}.parquet"


def _shards(corpus: Corpus, size: int) -> Iterator[list[Sample]]:
    shard: list[Sample] = []
    for sample in corpus:
        shard.append(sample)
        if len(shard) == size:
            yield shard
            shard = []
    if shard:
        yield shard
