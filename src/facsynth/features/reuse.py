"""Where samples of a feature space were encoded before, so that a changed corpus costs only what changed.

A list of folders in the user's cache; nothing is copied there, and a folder that is gone is passed over. Rows are taken
from old shards in bulk: samples that kept their order cost one read of an old shard each, whatever was put between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from facsynth.bins import Ids, Ints
from facsynth.errors import InputError, MismatchError
from facsynth.features.shards import read_shard
from facsynth.store import Artifact, read_json, write_json

N_REMEMBERED = 32
N_OPEN_SHARDS = 4
"""Old shards held in memory while new ones are filled from them."""


def known_folders(cache: Path, fingerprint: str) -> list[Path]:
    """Folders of finished encoded corpora of the space, latest first."""
    try:
        noted = read_json(cache / "encoded" / f"{fingerprint}.json", "folders")["folders"]
    except InputError:  # none yet, or a damaged one
        return []
    listed = noted if isinstance(noted, list) else []
    return [Path(name) for name in listed if isinstance(name, str) and _is_finished(name)]


def _is_finished(name: str) -> bool:
    try:
        return (Path(name) / "manifest.json").exists()
    except OSError:  # it may not be entered, or no folder can have that name
        return False


def remember(cache: Path, fingerprint: str, folder: Path) -> None:
    """Note a finished folder; two processes at once may lose one note, never more."""
    here = folder.resolve()
    others = [str(known) for known in known_folders(cache, fingerprint) if known != here]
    write_json(cache / "encoded" / f"{fingerprint}.json", {"folders": [str(here), *others][:N_REMEMBERED]})


def check_named(folders: Sequence[Path], settings: Mapping[str, Any]) -> None:
    """Refuse folders to reuse, named by the user, that can save no work.

    Args:
        folders: left by `facsynth encode`, finished or not, whole or a part.
        settings: `encoded.settings_of` the space that is encoded in.

    Raises:
        InputError: one is none.
        MismatchError: one was encoded with other settings.
    """
    for folder in folders:
        there = whole(Artifact.reopen(folder, "encode").settings)
        for key in sorted(there.keys() | settings.keys()):
            if there.get(key) != settings.get(key):
                raise MismatchError(
                    f"{folder} cannot be reused: it was encoded with another {key}\n"
                    f"  there  {there.get(key)}\n  asked  {settings.get(key)}\n"
                    "Ask for the same, or leave out --reuse."
                )


def whole(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a folder that holds a part of a corpus, as those of one that holds all."""
    return {key: value for key, value in settings.items() if key != "part"}


class Known:
    """Samples of the same space that were encoded before, by id: 24 bytes each."""

    def __init__(self, folders: Sequence[Path], settings: Mapping[str, Any]) -> None:
        """Look through `folders` once something is asked for.

        Those begun with other `settings`, and damaged shards, save no work and stop none.
        """
        self.n_found = 0
        """Samples that `find` gave, in all."""
        self._folders, self._settings = folders, settings
        self._paths: list[Path] = []
        self._open = lru_cache(N_OPEN_SHARDS)(read_shard)

    @cached_property
    def _index(self) -> tuple[Ids, npt.NDArray[np.int32]]:
        """Ids, sorted, and where each stands: [n, 2], the number of its shard and its row there."""
        ids, places = [np.zeros(0, np.uint64)], [np.zeros((0, 2), np.int32)]
        for path in (path for folder in self._folders for path in _shards(folder, self._settings)):
            with suppress(InputError):
                ids.append(_numbers(read_shard(path, ["sample_id"])["sample_id"].to_pylist()))
                rows = np.arange(len(ids[-1]), dtype=np.int32)
                places.append(np.stack([np.full_like(rows, len(self._paths)), rows], axis=1))
                self._paths.append(path)
        found, first = np.unique(np.concatenate(ids), return_index=True)
        return found, np.concatenate(places)[first]

    def find(self, sample_ids: Sequence[str]) -> pa.Table | None:
        """The rows of those that are known, in any order; None where none is."""
        asked, (ids, places) = np.unique(_numbers(sample_ids)), self._index
        at = np.minimum(np.searchsorted(ids, asked), max(len(ids) - 1, 0))
        places = places[at[ids[at] == asked]] if len(ids) else places
        tables = []
        for shard in np.unique(places[:, 0]):
            with suppress(InputError):  # damaged since
                rows = places[places[:, 0] == shard, 1]
                tables.append(self._open(self._paths[shard]).take(pa.array(rows)))
        self.n_found += sum(map(len, tables))
        return pa.concat_tables(tables) if tables else None


def _shards(folder: Path, settings: Mapping[str, Any]) -> list[Path]:
    """Of a folder of these settings; none of another."""
    with suppress(InputError, MismatchError):
        if whole(Artifact.reopen(folder, "encode").settings) == settings:
            return sorted(folder.glob("shards/*.parquet"))
    return []


def in_order(sample_ids: Sequence[str], tables: Sequence[pa.Table]) -> pa.Table:
    """The rows of `tables` as `sample_ids` has them, as often as it has them; ids without a row are left out."""
    joined = pa.concat_tables(tables).combine_chunks()
    found = _numbers(joined["sample_id"].to_pylist())
    if found.tolist() == _numbers(sample_ids).tolist():
        return joined
    order: Ints = np.argsort(found, kind="stable")
    asked = _numbers(sample_ids)
    at = np.minimum(np.searchsorted(found[order], asked), max(len(found) - 1, 0))
    rows = order[at[found[order][at] == asked]] if len(found) else order
    return joined.take(pa.array(rows)).combine_chunks()


def _numbers(sample_ids: Sequence[str]) -> Ids:
    return np.array([int(sample_id, 16) for sample_id in sample_ids], np.uint64)
