"""One shard of an encoded corpus: pooled codes as a table, a Parquet file, and counts for a profile.

Before: `features.encode` pools. After: `features.encoded` keeps shards in a folder. One row a sample; list columns.
Columns are written so that zstd finds little left to do: features as differences, numbers byte by byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from facsynth.errors import InputError
from facsynth.features.encode import Pooled
from facsynth.features.pool import Entries, sort_entries
from facsynth.profile import ProfileBuilder

SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("cut", pa.bool_()),
        ("merged", pa.int32()),
        ("token_ids", pa.list_(pa.int32())),
        ("token_role", pa.list_(pa.uint8())),
        ("role", pa.list_(pa.uint8())),
        ("feature", pa.list_(pa.uint32())),
        ("activation", pa.list_(pa.float32())),
        ("position", pa.list_(pa.uint32())),
        ("n_firing", pa.list_(pa.uint32())),
    ]
)
CODES = ("role", "feature", "activation", "position", "n_firing")
_ENCODING = {
    "feature.list.element": "DELTA_BINARY_PACKED",
    **{f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in ("activation", "position", "n_firing")},
}
DROPPED_BITS = 9
"""Of the 23 that follow the point of a float32: 14 stay, an error of at most 3e-5, for a third less on disk."""


def table_of(pooled: Pooled) -> pa.Table:
    """Pooled codes as rows; activations are rounded here, once for whatever is made of them."""
    starts = np.searchsorted(pooled.entries.sample, np.arange(len(pooled.sample_ids) + 1)).astype(np.int32)
    columns: dict[str, Any] = {
        "sample_id": pooled.sample_ids,
        "cut": [tokens.cut for tokens in pooled.tokens],
        "merged": [tokens.merged for tokens in pooled.tokens],
        "token_ids": [tokens.ids for tokens in pooled.tokens],
        "token_role": [tokens.role for tokens in pooled.tokens],
    }
    entries = pooled.entries._replace(activation=rounded(pooled.entries.activation))
    for name in CODES:
        values = pa.array(getattr(entries, name)).cast(SCHEMA.field(name).type.value_type)
        columns[name] = pa.ListArray.from_arrays(pa.array(starts), values)
    return pa.table(columns, schema=SCHEMA)


def rounded(activations: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """To the nearest of the values that differ by 6e-5 of themselves; what is above 0 stays above 0."""
    bits = activations.view(np.uint32).astype(np.uint64) + (1 << (DROPPED_BITS - 1))
    kept: npt.NDArray[np.float32] = (bits >> DROPPED_BITS << DROPPED_BITS).astype(np.uint32).view(np.float32)
    return np.where(kept > 0, kept, activations)


def write_shard(table: pa.Table, path: Path) -> None:
    """Write one shard; equal tables give equal bytes."""
    pq.write_table(
        table, path, compression="zstd", use_dictionary=False, column_encoding=_ENCODING, write_page_checksum=True
    )


def read_shard(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a shard, whole or some columns.

    Raises:
        InputError: it is damaged or gone.
    """
    try:
        return pq.read_table(path, columns=list(columns) if columns else None, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as err:
        raise InputError(f"{path} is damaged: {err}\n{encode_anew(path.parent.parent)}") from err


def n_rows(path: Path) -> int:
    """Samples of a shard, by what stands at its end.

    Raises:
        InputError: it is damaged or gone.
    """
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException) as err:
        raise InputError(f"{path} is damaged: {err}\n{encode_anew(path.parent.parent)}") from err


def encode_anew(folder: Path) -> str:
    """The way out where an encoded corpus is damaged."""
    return f"Remove {folder} and run the command that made it again: it is encoded anew."


def entries_of(table: pa.Table) -> Entries:
    """The pooled codes of a shard; `sample` counts its rows."""
    lists = {name: table[name].combine_chunks() for name in CODES}
    sample = np.repeat(np.arange(len(table)), np.diff(lists["feature"].offsets.to_numpy()))
    flat: dict[str, npt.NDArray[Any]] = {name: column.flatten().to_numpy() for name, column in lists.items()}
    return Entries(
        sample, flat["role"], flat["feature"].astype("i8"), flat["activation"],
        flat["position"].astype("i4"), flat["n_firing"].astype("i4"),
    )  # fmt: skip


def count(builder: ProfileBuilder, table: pa.Table) -> None:
    """Add a shard to a profile: over all roles, the higher maximum and the sum of firing tokens."""
    if not len(table):
        return
    entries = over_roles(entries_of(table))
    builder.add(
        table["sample_id"].to_pylist(), content_tokens(table), entries.sample, entries.feature,
        entries.activation, entries.position, entries.n_firing,
    )  # fmt: skip


def content_tokens(table: pa.Table) -> npt.NDArray[np.int64]:
    """[n_rows], content tokens of each sample; every sample of a shard has some."""
    if not len(table):
        return np.zeros(0, np.int64)
    roles = table["token_role"].combine_chunks()
    starts = roles.offsets.to_numpy()[:-1]
    content: npt.NDArray[np.int64] = np.add.reduceat((roles.flatten().to_numpy() > 0).astype(np.int64), starts)
    return content


def over_roles(entries: Entries) -> Entries:
    """One entry for each (sample, feature): the highest of its roles, with the firing tokens of all."""
    if len(np.unique(entries.role)) < 2:
        return entries
    order = np.lexsort((entries.position, -entries.activation, entries.feature, entries.sample))
    e = entries.take(order)
    starts = np.flatnonzero(np.append(True, (e.sample[1:] != e.sample[:-1]) | (e.feature[1:] != e.feature[:-1])))
    best = e.take(starts)
    summed = np.add.reduceat(e.n_firing, starts)
    return sort_entries([best._replace(n_firing=summed, role=np.ones_like(best.role))])
