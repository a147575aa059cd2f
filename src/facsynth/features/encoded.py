"""An encoded corpus on disk: Parquet shards, one row a sample, and their profile. Resumable by shard.

Before: `features.encode` pools. After: `features.spans`, `coverage`, `meaning`. The same corpus in the same space gives
the same bytes, wherever it was interrupted. Samples that are taken from other folders were computed in other batches:
the same within 1e-4 in float32; in bfloat16 0.3 % of active features flip (docs/LOG.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from facsynth.errors import InputError, MismatchError
from facsynth.features.encode import Entries, FeatureSpace, Pooled, sort_entries
from facsynth.profile import Profile, ProfileBuilder
from facsynth.records import Progress, Sample, no_progress
from facsynth.store import Artifact, read_jsonl, write_jsonl
from facsynth.text.corpus import Corpus

SHARD_SAMPLES = 512
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


@dataclass(frozen=True, repr=False)
class Encoded:
    """A finished encoded corpus."""

    folder: Path
    manifest: dict[str, Any]
    profile: Profile

    @classmethod
    def open(cls, folder: Path) -> Encoded:
        """Open a finished folder.

        Raises:
            InputError: it is not one.
        """
        artifact = Artifact.reopen(folder, "encode")
        if artifact.manifest is None:
            raise InputError(f"{folder} is not finished\nRun the same encode command again, it goes on.")
        return cls(folder, artifact.manifest, Profile.load(folder / "profile.npz"))

    def shards(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The shards in order, whole or some columns.

        Raises:
            InputError: one is damaged or gone.
        """
        n_samples = 0
        for path in sorted(self.folder.glob("shards/*.parquet")):
            table = _read_shard(path, columns)
            n_samples += len(table)
            yield table
        if n_samples != self.manifest["n_samples"]:
            found = f"{n_samples} samples, its manifest says {self.manifest['n_samples']}"
            raise InputError(f"{self.folder} holds {found}\n{_encode_anew(self.folder)}")

    def halves(self) -> tuple[Profile, Profile]:
        """Profiles of two halves of the samples, split by sample id: the same halves whatever the order."""
        builders = [ProfileBuilder(self.profile.space, self.profile.d_sae) for _ in range(2)]
        for table in self.shards():
            side = np.array([int(sample_id[-1], 16) % 2 for sample_id in table["sample_id"].to_pylist()])
            for which, builder in enumerate(builders):
                _count(builder, table.filter(pa.array(side == which)))
        return builders[0].build(), builders[1].build()

    def ids(self) -> Iterator[str]:
        """The sample ids, in order."""
        for table in self.shards(["sample_id"]):
            yield from table["sample_id"].to_pylist()

    def incidence(self, thresholds: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(sample index, feature) of every pair above its threshold, each once."""
        samples, features, start = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
        for table in self.shards():
            entries = _over_roles(entries_of(table))
            above = entries.activation > thresholds[entries.feature]
            samples.append(entries.sample[above] + start)
            features.append(entries.feature[above])
            start += len(table)
        return np.concatenate(samples), np.concatenate(features)

    def __repr__(self) -> str:
        return f"Encoded({self.profile.n_samples} samples, {self.profile.n_tokens} content tokens, {self.folder})"


def encode(
    corpus: Corpus,
    space: FeatureSpace,
    out: Path,
    *,
    reuse: Sequence[Path] = (),
    token_budget: int = 8192,
    progress: Progress = no_progress,
) -> Encoded:
    """Encode a corpus into a folder; the same call goes on where it stopped.

    Args:
        corpus: read in the space's form.
        space: model, SAE and settings.
        out: artifact folder.
        reuse: folders of the same space; samples that stand there are copied instead of run again.
        token_budget: padded tokens a forward pass.
        progress: told the samples done.

    Raises:
        InputError: no sample could be encoded.
        MismatchError: the folder was begun with another corpus or space, or the corpus was read in another form.
    """
    if corpus.form != space.settings.form:
        raise MismatchError(
            f"{corpus.name} was read in the form {corpus.form}, the feature space is of the form "
            f"{space.settings.form}\nRead it in that form, with --form {space.settings.form}."
        )
    settings = {**space.identity, "dtype": str(space.backbone.dtype)}
    artifact = Artifact(out, "encode", settings, {"corpus": corpus.fingerprint})
    if artifact.manifest is not None:
        return Encoded.open(out)
    known = _Known(reuse, space)
    for number, samples in enumerate(_shards(corpus)):
        name = f"shards/{number:05d}.parquet"
        progress("encoding", number * SHARD_SAMPLES, len(corpus))
        if artifact.has(name):
            continue
        copied = known.find([sample.sample_id for sample in samples])
        start = number * SHARD_SAMPLES + len(copied)
        tell = partial(_tell, progress, start, len(corpus))
        pooled = space.pool([s for s in samples if s.sample_id not in copied], token_budget, tell)
        table = _in_order(samples, _table(pooled), copied)
        artifact.write(name, partial(_write_shard, table), pooled.failures)
    progress("encoding", len(corpus), len(corpus))
    return _finish(artifact, corpus, space)


def _finish(artifact: Artifact, corpus: Corpus, space: FeatureSpace) -> Encoded:
    builder = ProfileBuilder(space.identity, space.sae.d_sae)
    n_cut = n_merged = n_samples = 0
    for path in sorted(artifact.folder.glob("shards/*.parquet")):
        table = _read_shard(path)
        _count(builder, table)
        n_samples += len(table)
        n_cut += int(np.sum(table["cut"].to_numpy()))
        n_merged += int(np.sum(table["merged"].to_numpy()))
    if n_samples == 0:
        listed = sorted(artifact.folder.glob("shards/*.failures.jsonl"))
        first = read_jsonl(listed[0])[0]["reason"] if listed else "it holds no samples"
        raise InputError(f"no sample of {corpus.name} has content tokens\n  {first}\nSee {artifact.folder} for all.")
    profile = builder.build()
    profile.save(artifact.folder / "profile.npz")
    rows = [{"where": f.where, "reason": f.reason, "raw": f.raw} for f in corpus.failures]
    write_jsonl(artifact.folder / "corpus.failures.jsonl", rows)
    manifest = artifact.finish(
        corpus=corpus.name, n_samples=n_samples, n_tokens=profile.n_tokens, n_cut=n_cut, n_merged=n_merged,
        n_repaired=corpus.n_repaired, licence=corpus.licence or "unknown",
    )  # fmt: skip
    return Encoded(artifact.folder, manifest, profile)


def _tell(progress: Progress, start: int, total: int, what: str, done: int, _: int | None) -> None:
    progress(what, start + done, total)


class _Known:
    """Samples of the same space that were encoded before, by id."""

    def __init__(self, folders: Sequence[Path], space: FeatureSpace) -> None:
        self._where: dict[str, tuple[Path, int]] = {}
        settings = {**space.identity, "dtype": str(space.backbone.dtype)}
        for folder in folders:
            with suppress(InputError):  # a damaged folder saves no work, and stops none
                if Artifact.settings_of(folder) == settings:
                    for path in sorted(folder.glob("shards/*.parquet")):
                        ids = _read_shard(path, ["sample_id"])["sample_id"].to_pylist()
                        self._where |= {sample_id: (path, row) for row, sample_id in enumerate(ids)}

    def find(self, sample_ids: Sequence[str]) -> dict[str, pa.Table]:
        wanted: dict[Path, dict[str, int]] = {}
        for sample_id in sample_ids:
            if sample_id in self._where:
                path, row = self._where[sample_id]
                wanted.setdefault(path, {})[sample_id] = row
        found: dict[str, pa.Table] = {}
        for path, rows in wanted.items():
            with suppress(InputError):
                table = _read_shard(path)
                found |= {sample_id: table.slice(row, 1) for sample_id, row in rows.items()}
        return found


def _shards(corpus: Corpus) -> Iterator[list[Sample]]:
    shard: list[Sample] = []
    for sample in corpus:
        shard.append(sample)
        if len(shard) == SHARD_SAMPLES:
            yield shard
            shard = []
    if shard:
        yield shard


def _table(pooled: Pooled) -> pa.Table:
    starts = np.searchsorted(pooled.entries.sample, np.arange(len(pooled.sample_ids) + 1)).astype(np.int32)
    columns: dict[str, Any] = {
        "sample_id": pooled.sample_ids,
        "cut": [tokens.cut for tokens in pooled.tokens],
        "merged": [tokens.merged for tokens in pooled.tokens],
        "token_ids": [tokens.ids for tokens in pooled.tokens],
        "token_role": [tokens.role for tokens in pooled.tokens],
    }
    for name in CODES:
        values = pa.array(getattr(pooled.entries, name)).cast(SCHEMA.field(name).type.value_type)
        columns[name] = pa.ListArray.from_arrays(pa.array(starts), values)
    return pa.table(columns, schema=SCHEMA)


def _read_shard(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=list(columns) if columns else None)
    except (OSError, pa.ArrowException) as err:
        folder = path.parent.parent
        raise InputError(f"{path} is damaged: {err}\n{_encode_anew(folder)}") from err


def _encode_anew(folder: Path) -> str:
    return f"Remove {folder} and run the same command again: it is encoded anew."


def _write_shard(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd")


def _in_order(samples: Sequence[Sample], fresh: pa.Table, copied: dict[str, pa.Table]) -> pa.Table:
    """Rows as the corpus has them; samples that failed are left out."""
    if not copied:
        return fresh
    rows = {sample_id: fresh.slice(row, 1) for row, sample_id in enumerate(fresh["sample_id"].to_pylist())} | copied
    return pa.concat_tables([rows[s.sample_id] for s in samples if s.sample_id in rows]).combine_chunks()


def entries_of(table: pa.Table) -> Entries:
    """The pooled codes of a shard; `sample` counts its rows."""
    lists = {name: table[name].combine_chunks() for name in CODES}
    sample = np.repeat(np.arange(len(table)), np.diff(lists["feature"].offsets.to_numpy()))
    flat: dict[str, npt.NDArray[Any]] = {name: column.flatten().to_numpy() for name, column in lists.items()}
    return Entries(
        sample, flat["role"], flat["feature"].astype("i8"), flat["activation"],
        flat["position"].astype("i4"), flat["n_firing"].astype("i4"),
    )  # fmt: skip


def _count(builder: ProfileBuilder, table: pa.Table) -> None:
    """Add a shard to a profile: over all roles, the higher maximum and the sum of firing tokens."""
    if not len(table):
        return
    entries = _over_roles(entries_of(table))
    roles = table["token_role"].combine_chunks()
    starts = roles.offsets.to_numpy()[:-1]
    content: npt.NDArray[np.int64] = np.add.reduceat((roles.flatten().to_numpy() > 0).astype(np.int64), starts)
    builder.add(
        table["sample_id"].to_pylist(), content, entries.sample, entries.feature,
        entries.activation, entries.position, entries.n_firing,
    )  # fmt: skip


def _over_roles(entries: Entries) -> Entries:
    if len(np.unique(entries.role)) < 2:
        return entries
    order = np.lexsort((entries.position, -entries.activation, entries.feature, entries.sample))
    e = entries.take(order)
    starts = np.flatnonzero(np.append(True, (e.sample[1:] != e.sample[:-1]) | (e.feature[1:] != e.feature[:-1])))
    best = e.take(starts)
    summed = np.add.reduceat(e.n_firing, starts)
    return sort_entries([best._replace(n_firing=summed, role=np.ones_like(best.role))])
