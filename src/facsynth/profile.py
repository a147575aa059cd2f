"""What a set of samples fires: integers and extremes only, so that profiles merge exactly in any order.

Coverage at any bin edge is exact (see `bins`). Single samples can not be read back, the 16 best of a feature excepted.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from facsynth.bins import (
    EDGES,
    N_LENGTH_BINS,
    Floats,
    Ids,
    Ints,
    Positions,
    activation_bin,
    best_samples,
    bincount,
    edge_index,
    length_bin,
    quantile_edge,
    sum_by_key,
)
from facsynth.errors import InputError, MismatchError, ModelError
from facsynth.store import SCHEMA, write_atomic

WAITING_ENTRIES = 500_000
"""Entries that wait at least before they are counted, 40 bytes each."""
FEATURE_BITS, LENGTH_BITS = 16, 8
"""A cell's key is feature << 16 | length_bin << 8 | activation_bin."""
SCALE_KEYS = ("d_sae", "model", "sae", "hook_point", "codes", "compat")
"""What two sets must share for their activations to mean the same, though form or max_tokens differ."""


class TopSample(NamedTuple):
    """One of the samples that fire a feature most."""

    sample_id: str
    position: int
    activation: float


@dataclass(frozen=True, eq=False)
class Profile:
    """Counts and extremes of one set of samples; see `EDGES` and `N_LENGTH_BINS` for the bins."""

    space: Mapping[str, str]
    """What must agree for two profiles to be compared: model, sae, hook_point, codes, form, max_tokens …"""
    d_sae: int
    length_samples: Ints
    """[n_length_bins], all samples of the set by their content tokens."""
    length_tokens: Ints
    """[n_length_bins], their content tokens."""
    cell_key: Ints
    """[n_cells], ascending; only cells that hold a sample."""
    cell_samples: Ints
    cell_tokens: Ints
    """[n_cells], content tokens of the cell's samples on which the cell's feature fires."""
    top_value: Floats
    """[d_sae, 16], descending, ties by sample id; the highest maxima of different samples; 0 is empty."""
    top_sample: Ids
    """[d_sae, 16], the 16 hex digits of the sample id as a number."""
    top_position: Positions

    @property
    def identity(self) -> dict[str, str]:
        """The space and the width: what `check_same_space` compares."""
        return {"d_sae": str(self.d_sae), **self.space}

    @property
    def n_samples(self) -> int:
        """How many samples the set has."""
        return int(self.length_samples.sum())

    @property
    def n_tokens(self) -> int:
        """How many content tokens the set has."""
        return int(self.length_tokens.sum())

    def firing_samples(self, thresholds: Floats) -> Ints:
        """int64[d_sae]: how many samples have a maximum above the feature's threshold, each 0.0 or a bin edge."""
        feature, _, samples = self._above(thresholds)
        return bincount(feature, samples, self.d_sae)

    def firing_by_length(self, thresholds: Floats) -> Ints:
        """int64[d_sae, n_length_bins]: `firing_samples` by the length of the sample."""
        feature, length, samples = self._above(thresholds)
        counts = bincount(feature * N_LENGTH_BINS + length, samples, self.d_sae * N_LENGTH_BINS)
        return counts.reshape(self.d_sae, N_LENGTH_BINS)

    def firing_tokens(self) -> Ints:
        """int64[d_sae]: on how many content tokens each feature fires at all."""
        return bincount(self.cell_key >> FEATURE_BITS, self.cell_tokens, self.d_sae)

    def robust_maximum(self) -> Floats:
        """float32[d_sae]: mean of the ten highest samples, of fewer where fewer fire, 0 where none does."""
        return self.top_mean(10)

    def top_mean(self, n: int) -> Floats:
        """`robust_maximum` over the `n` highest samples; 3 is the strength that steering counts in."""
        best = self.top_value[:, :n].astype(np.float64)
        mean: Floats = (best.sum(axis=1) / np.maximum((best > 0).sum(axis=1), 1)).astype(np.float32)
        return mean

    def quantile_edges(self, q: float) -> Floats:
        """float32[d_sae]: the bin edge nearest to the `q` quantile over the samples that fire; 0 where none does."""
        flat = (self.cell_key >> FEATURE_BITS) * len(EDGES) + (self.cell_key & 0xFF)
        counts = bincount(flat, self.cell_samples, self.d_sae * len(EDGES))
        return quantile_edge(counts.reshape(self.d_sae, len(EDGES)), q)

    def top_samples(self, feature_id: int) -> list[TopSample]:
        """The samples that fire the feature most, best first."""
        n = int((self.top_value[feature_id] > 0).sum())
        rows = zip(self.top_sample[feature_id], self.top_position[feature_id], self.top_value[feature_id], strict=True)
        return [TopSample(f"{int(sample):016x}", int(position), float(g)) for sample, position, g in list(rows)[:n]]

    def save(self, path: Path) -> None:
        """Write one compressed .npz, atomically; equal profiles give equal bytes."""
        meta = {"schema": SCHEMA, "space": dict(self.space), "d_sae": self.d_sae}
        arrays: dict[str, Any] = {name: _shrink(getattr(self, name)) for name in _COUNTS}
        arrays["cell_key"] = _shrink(np.diff(self.cell_key, prepend=0))
        arrays |= {name: getattr(self, name) for name in _TOP}
        text = json.dumps(meta, sort_keys=True)

        def write(temporary: Path) -> None:
            with temporary.open("wb") as handle:
                np.savez_compressed(handle, meta=np.array(text), **arrays)

        write_atomic(path, write)

    @staticmethod
    def load(path: Path) -> Profile:
        """Read what `save` wrote.

        Raises:
            InputError: no profile there, or a damaged one, or one of another schema.
        """
        try:
            with path.open("rb") as handle, np.load(handle, allow_pickle=False) as data:
                arrays = {name: data[name] for name in data.files}
            meta = json.loads(str(arrays["meta"]))
            found, space = meta["schema"], meta["space"]
        except FileNotFoundError as err:
            raise InputError(f"there is no profile {path}\nRemove its folder and encode again.") from err
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as err:
            raise InputError(f"{path} is not a profile: {err}\nRemove its folder and encode again.") from err
        if found != SCHEMA:
            raise InputError(f"{path} has schema {found}, this version reads {SCHEMA}\nEncode in a new folder.")
        fields: dict[str, Any] = {name: arrays[name].astype(np.int64) for name in _COUNTS}
        fields["cell_key"] = np.cumsum(arrays["cell_key"], dtype=np.int64)
        fields |= {name: arrays[name] for name in _TOP}
        return Profile(space=space, d_sae=meta["d_sae"], **fields)

    def _above(self, thresholds: Floats) -> tuple[Ints, Ints, Ints]:
        """Feature, length bin and sample count of the cells above the feature's threshold."""
        lowest = edge_index(thresholds, self.d_sae)
        feature = self.cell_key >> FEATURE_BITS
        above = (self.cell_key & 0xFF) >= lowest[feature]
        return feature[above], (self.cell_key[above] >> LENGTH_BITS) & 0xFF, self.cell_samples[above]


_CELLS = ("cell_key", "cell_samples", "cell_tokens")
_COUNTS = ("length_samples", "length_tokens", *_CELLS[1:])
_TOP = ("top_value", "top_sample", "top_position")


class ProfileBuilder:
    """Takes batches, gives their profile. Batches wait in memory until they outweigh what is counted already."""

    def __init__(self, space: Mapping[str, str], d_sae: int) -> None:
        none = np.zeros(0, np.int64)
        best = (none, none.astype("f4"), none.astype("u8"), none.astype("i4"))
        self._done = _gather(dict(space), d_sae, (none, none, none), best, np.zeros((2, N_LENGTH_BINS), np.int64))
        self._waiting: list[tuple[npt.NDArray[Any], ...]] = []
        self._n_waiting = 0

    def add(  # noqa: PLR0917 -- one array a column
        self,
        sample_ids: Sequence[str],
        n_content_tokens: npt.ArrayLike,
        sample_index: npt.ArrayLike,
        features: npt.ArrayLike,
        activations: npt.ArrayLike,
        positions: npt.ArrayLike,
        firing_tokens: npt.ArrayLike,
    ) -> None:
        """Count a batch of samples.

        `sample_ids` (16 hex digits each) and `n_content_tokens` are [n_samples]; the rest is [n_entries], one entry
        for each pair of a sample of this batch and a feature it fires: the maximum over content tokens, its
        position, and the number of content tokens on which the feature fires. Entries of 0 are passed over.

        Raises:
            ModelError: an activation is not finite.
            InputError: a feature that the SAE does not have.
        """
        tokens, ids = np.asarray(n_content_tokens, np.int64), np.array([int(i, 16) for i in sample_ids], np.uint64)
        value, sample = np.asarray(activations, np.float32), np.asarray(sample_index, np.int64)
        if not np.isfinite(value).all():
            raise ModelError("the SAE gave activations that are not finite\nCheck the weights of model and SAE.")
        fires = value > 0
        value, sample, feature = value[fires], sample[fires], np.asarray(features, np.int64)[fires]
        if len(feature) and not 0 <= feature.min() <= feature.max() < self._done.d_sae:
            raise InputError(f"feature {feature.max()} was given for an SAE of {self._done.d_sae} features")
        key = feature << FEATURE_BITS | length_bin(tokens)[sample] << LENGTH_BITS
        position = np.asarray(positions, np.int32)[fires]
        counts = np.asarray(firing_tokens, np.int64)[fires]
        self._waiting.append((tokens, key | activation_bin(value), counts, value, ids[sample], position, ids))
        self._n_waiting += len(key) + len(ids)
        if self._n_waiting > max(WAITING_ENTRIES, len(self._done.cell_key)):
            self._count()

    def build(self) -> Profile:
        """The profile of all samples so far."""
        self._count()
        return self._done

    def _count(self) -> None:
        if not self._waiting:
            return
        tokens, key, counts, *best, ids = (np.concatenate(column) for column in zip(*self._waiting, strict=True))
        length = length_bin(tokens)
        lengths = np.array([bincount(length, n, N_LENGTH_BINS) for n in (np.ones_like(length), tokens)])
        feature = key >> FEATURE_BITS
        hopeful = best[0] >= self._done.top_value[feature, -1]
        cells, best = (key, np.ones_like(key), counts), [column[hopeful] for column in (feature, *best)]
        once = len(np.unique(ids)) == len(ids)
        self._done = merge([self._done, _gather(self._done.space, self._done.d_sae, cells, best, lengths, once)])
        self._waiting, self._n_waiting = [], 0


def merge(profiles: Iterable[Profile]) -> Profile:
    """One profile of all samples of all `profiles`, whatever their order and however they were cut.

    Raises:
        MismatchError: their spaces or widths differ.
        InputError: there is none.
    """
    parts = list(profiles)
    if not parts:
        raise InputError("no profiles to merge\nGive at least one.")
    for part in parts[1:]:
        check_same_space(parts[0].identity, part.identity, ("first", "other"))
    filled = [np.nonzero(p.top_value > 0) for p in parts]
    return _gather(
        parts[0].space,
        parts[0].d_sae,
        [np.concatenate([getattr(p, name) for p in parts]) for name in _CELLS],
        [np.concatenate([rows for rows, _ in filled])]
        + [np.concatenate([getattr(p, name)[at] for p, at in zip(parts, filled, strict=True)]) for name in _TOP],
        np.sum([(p.length_samples, p.length_tokens) for p in parts], axis=0),
    )


def check_same_space(
    a: Mapping[str, str], b: Mapping[str, str], names: tuple[str, str], keys: Sequence[str] | None = None
) -> None:
    """Refuse two identities of profiles whose activations do not mean the same; `keys` None: all must agree.

    Raises:
        MismatchError: they differ, with the key and both values.
    """
    for key in sorted(a.keys() | b.keys()) if keys is None else keys:
        if a.get(key) != b.get(key):
            width = max(map(len, names))
            found = "\n".join(f"  {n:<{width}}  {key} {s.get(key)}" for n, s in zip(names, (a, b), strict=True))
            raise MismatchError(
                f"{names[0]} and {names[1]} come from different feature spaces\n{found}\n"
                f"Encode one of them again with the {key} of the other."
            )


def _gather(  # noqa: PLR0917 -- a column each
    space: Mapping[str, str], d_sae: int, cells: Sequence[Ints], best: Sequence[npt.NDArray[Any]], lengths: Ints,
    once: bool = False,
) -> Profile:  # fmt: skip
    """A profile from cells (key, samples, tokens; keys may repeat) and maxima (feature, value, sample, position)."""
    counts = zip(_CELLS, sum_by_key(*cells), strict=True)
    feature, value, sample, position = best
    tops = zip(_TOP, best_samples(feature, value, sample, position, d_sae, different=once), strict=True)
    fields: dict[str, Any] = dict([*counts, *tops])
    return Profile(space=space, d_sae=d_sae, length_samples=lengths[0], length_tokens=lengths[1], **fields)


def _shrink(counts: Ints) -> npt.NDArray[Any]:
    return counts.astype(np.min_scalar_type(int(counts.max(initial=0))))
