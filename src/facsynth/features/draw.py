"""For each feature, spans over the whole range of its activations, and spans of texts that do not fire it.

Before: `features.encoded`. After: `meaning.interpret` explains some of them, `meaning.score` tests on the others. Drawn
by a hash of sample, feature and seed, so that order and shards change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from facsynth.bins import Floats, Ids, Ints
from facsynth.features.encoded import Encoded
from facsynth.features.shards import CODES, entries_of, over_roles
from facsynth.features.spans import cut_span
from facsynth.records import Span

N_POOL = 1024
"""Samples among which the silent ones of every feature are looked for."""
SPARE = 2
"""Times the wanted spans that are drawn: some texts are equal."""
WAITING_ROWS = 200_000
"""That wait at least before they are sorted in."""
SILENT_SHARE = 0.25
"""Of its threshold, that a silent sample stays under."""
_MIX = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


@dataclass(frozen=True)
class Drawn:
    """Spans of one feature, each of another sample, no text twice."""

    firing: tuple[Span, ...]
    """Above its threshold; the first few cover the whole range of activations, and so do the next."""
    distinct_share: float
    """Of the texts around firing tokens that were drawn, before equal ones were left out."""
    hard: tuple[Span, ...]
    """Of texts that do not fire it, and yet end with a token that does elsewhere."""
    easy: tuple[Span, ...]
    """Of any other texts that do not fire it."""


class _Row(NamedTuple):
    sample: int
    position: int
    activation: float


class _Text(NamedTuple):
    ids: npt.NDArray[np.int32]
    roles: npt.NDArray[np.uint8]


def draw(
    encoded: Encoded,
    tokenizer: Any,
    feature_ids: Sequence[int],
    thresholds: Floats,
    *,
    n_firing: int,
    n_silent: int,
    rng_seed: int = 0,
) -> dict[int, Drawn]:
    """Draw spans of some features.

    Args:
        encoded: where from.
        tokenizer: of the model that encoded it.
        feature_ids: which.
        thresholds: [d_sae]; a feature fires above its own.
        n_firing: spans that fire it, at most.
        n_silent: spans that do not, at most; half of them hard, where there are so many.
        rng_seed: of all that is drawn.

    Returns:
        For each feature what there is, which may be less than was asked for.
    """
    limits = np.full(encoded.profile.d_sae, np.inf, np.float32)
    limits[list(feature_ids)] = thresholds[list(feature_ids)]
    firing, pool = _lowest(encoded, limits, SPARE * n_firing, N_POOL if n_silent else 0, rng_seed)
    chosen = {feature: _over_range(firing.of(feature)) for feature in feature_ids}
    pooled = [row.sample for row in pool.of(0)]
    wanted = {row.sample for rows in chosen.values() for row in rows}
    texts, heard = _read(encoded, wanted, pooled, limits * SILENT_SHARE)
    words = {sample: set(texts[sample].ids[texts[sample].roles > 0].tolist()) for sample in pooled}
    cut = _cutter(texts, tokenizer)
    found = {}
    for feature, rows in chosen.items():
        tokens = {int(texts[row.sample].ids[row.position]) for row in rows}
        quiet = [sample for sample in _shuffled(pooled, feature, rng_seed) if feature not in heard[sample]]
        hard = [sample for sample in quiet if tokens & words[sample]][: n_silent // 2]
        easy = [sample for sample in quiet if sample not in hard][: n_silent - len(hard)]
        at = {s: _place(texts[s], tokens if s in hard else set(), s + feature) for s in (*hard, *easy)}
        spans = _spans(feature, rows, cut)
        found[feature] = Drawn(
            tuple(spans[:n_firing]),
            len(spans) / len(rows) if len(rows) >= n_firing else 1.0,
            *(tuple(_spans(feature, [_Row(sample, at[sample], 0.0) for sample in part], cut)) for part in (hard, easy)),
        )
    return found


def _lowest(encoded: Encoded, limits: Floats, n: int, n_pool: int, rng_seed: int) -> tuple[_Lowest, _Lowest]:
    """`n` samples above the limit of each feature, and `n_pool` of all."""
    firing, pool = _Lowest(n, len(limits), rng_seed), _Lowest(n_pool, 1, rng_seed)
    for table in encoded.shards(["sample_id", *CODES]):
        ids = np.array([int(i, 16) for i in table["sample_id"].to_pylist()], np.uint64)
        entries = over_roles(entries_of(table))
        loud = entries.take(np.flatnonzero(entries.activation > limits[entries.feature]))
        firing.add(loud.feature, ids[loud.sample], loud.position, loud.activation)
        pool.add(np.zeros(len(ids), np.int64), ids, 0, 0.0)
    return firing, pool


class _Lowest:
    """Of each key, the `n` rows whose hashes are lowest: a random choice that no order enters."""

    def __init__(self, n: int, n_keys: int, rng_seed: int) -> None:
        self._n, self._rng_seed = n, rng_seed
        self._worst = np.full(n_keys, np.iinfo(np.uint64).max if n else 0, np.uint64)
        """By key, the hash under which a row may still be among the lowest."""
        none = np.zeros(0, [("key", "i8"), ("rank", "u8"), ("sample", "u8"), ("position", "i4"), ("activation", "f4")])
        self._kept, self._waiting = none, [none]

    def add(self, key: Ints, sample: Ids, position: npt.ArrayLike, activation: npt.ArrayLike) -> None:
        """Take in rows, [n] each."""
        rows = np.zeros(len(key), self._kept.dtype)
        rows["key"], rows["sample"], rows["position"], rows["activation"] = key, sample, position, activation
        rows["rank"] = _hashed(sample, key, self._rng_seed)
        self._waiting.append(rows[rows["rank"] < self._worst[key]])
        if sum(map(len, self._waiting)) > max(WAITING_ROWS, len(self._kept)):
            self._sort()

    def of(self, key: int) -> list[_Row]:
        """The rows of a key."""
        self._sort()
        start, end = np.searchsorted(self._kept["key"], [key, key + 1])
        rows = self._kept[start:end]
        return [_Row(int(row["sample"]), int(row["position"]), float(row["activation"])) for row in rows]

    def _sort(self) -> None:
        if not self._waiting:
            return
        rows = np.concatenate([self._kept, *self._waiting])
        rows = rows[np.lexsort((rows["rank"], rows["key"]))]
        place = np.arange(len(rows)) - np.searchsorted(rows["key"], rows["key"])
        last = rows[place == self._n - 1]
        self._worst[last["key"]] = last["rank"]
        self._kept, self._waiting = rows[place < self._n], []


def _hashed(sample: Ids, key: Ints, rng_seed: int) -> Ids:
    """SplitMix64 of sample, key and seed."""
    salt = (rng_seed * _MIX[1] + 1) % (1 << 64)
    with np.errstate(over="ignore"):
        x = sample ^ ((key.astype(np.uint64) + np.uint64(salt)) * np.uint64(_MIX[0]))
        for shift, factor in ((30, _MIX[1]), (27, _MIX[2])):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
        mixed: Ids = x ^ (x >> np.uint64(31))
    return mixed


def _shuffled(samples: Sequence[int], feature: int, rng_seed: int) -> list[int]:
    ids = np.array(samples, np.uint64)
    order: list[int] = ids[np.argsort(_hashed(ids, np.full(len(ids), feature), rng_seed))].tolist()
    return order


def _over_range(rows: list[_Row]) -> list[_Row]:
    """Ordered so that every few in a row cover the whole range of activations: by the reversed bits of their ranks."""
    ordered = sorted(rows, key=lambda row: (-row.activation, row.sample))
    n_bits = max(len(rows) - 1, 1).bit_length()
    return [ordered[i] for i in sorted(range(len(rows)), key=lambda i: int(f"{i:0{n_bits}b}"[::-1], 2))]


def _read(
    encoded: Encoded, firing: set[int], pooled: Sequence[int], limits: Floats
) -> tuple[dict[int, _Text], dict[int, set[int]]]:
    """The tokens of all these samples, and the features that each of `pooled` fires above `limits`."""
    texts: dict[int, _Text] = {}
    heard: dict[int, set[int]] = {}
    in_pool = set(pooled)
    for table in encoded.shards(["sample_id", "token_ids", "token_role", *CODES]):
        entries = entries_of(table)
        entries = entries.take(np.flatnonzero(entries.activation > limits[entries.feature]))
        starts = np.searchsorted(entries.sample, np.arange(len(table) + 1))
        for row, sample_id in enumerate(table["sample_id"].to_pylist()):
            sample = int(sample_id, 16)
            if sample in firing or sample in in_pool:
                columns = (table[name][row].values.to_numpy().copy() for name in ("token_ids", "token_role"))
                texts[sample] = _Text(*columns)
            if sample in in_pool:
                heard[sample] = set(entries.feature[starts[row] : starts[row + 1]].tolist())
    return texts, heard


def _place(text: _Text, tokens: set[int], key: int) -> int:
    """A content position: of one of `tokens` where there is one, else any; by `key`, the same each time."""
    content = np.flatnonzero(text.roles > 0)
    among = content[np.isin(text.ids[content], list(tokens))]
    among = among if len(among) else content
    return int(among[key % len(among)])


def _cutter(texts: Mapping[int, _Text], tokenizer: Any) -> Callable[[int, int], tuple[str, str, str]]:
    """`cut_span` by sample and position, each once: features fire at the same tokens, and decoding is most of it."""

    @cache
    def cut(sample: int, position: int) -> tuple[str, str, str]:
        ids, roles = texts[sample]
        return cut_span(ids.tolist(), roles.tolist(), position, tokenizer)

    return cut


def _spans(feature: int, rows: Sequence[_Row], cut: Callable[[int, int], tuple[str, str, str]]) -> list[Span]:
    spans: dict[str, Span] = {}
    for sample, position, activation in rows:
        text, token, context = cut(sample, position)
        span = Span(feature, text, token, activation, f"{sample:016x}", position, context)
        spans.setdefault(" ".join(context.split()).lower(), span)
    return list(spans.values())
