"""An encoded corpus on disk: Parquet shards, one row a sample, and their profile. Resumable by shard.

Before: `features.encode` pools. After: `features.spans`, `coverage`, `meaning`. The same corpus in the same space gives
the same bytes, wherever it was interrupted. Samples that are taken from other folders were computed in other batches:
the same within 1e-4 in float32; in bfloat16 0.3 % of active features flip (docs/LOG.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from facsynth.bins import Floats, Ids, Ints
from facsynth.errors import InputError, MismatchError
from facsynth.features.encode import FeatureSpace, Read
from facsynth.features.queue import Part, Queue, Todo
from facsynth.features.reuse import Known
from facsynth.features.shards import (
    CODES,
    content_tokens,
    count,
    encode_anew,
    entries_of,
    n_rows,
    over_roles,
    read_shard,
    table_of,
    write_shard,
)
from facsynth.incidence import Incidence
from facsynth.profile import Profile, ProfileBuilder
from facsynth.records import Failure, Progress, no_progress
from facsynth.store import Artifact, read_jsonl, write_jsonl
from facsynth.text.corpus import Corpus

SHARD_SAMPLES = 512


Engine = Callable[[Todo], Iterable[tuple[int, pa.Table, list[Failure]]]]
"""Numbered samples in; number, `shards.table_of` and failures out, in any order."""


class Space(Protocol):
    """What of a feature space is written down."""

    @property
    def identity(self) -> Mapping[str, str]:
        """As of `FeatureSpace`, and so are the others."""

    @property
    def precision(self) -> str: ...  # noqa: D102

    @property
    def d_sae(self) -> int: ...  # noqa: D102

    @property
    def form(self) -> str: ...  # noqa: D102


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
            table = read_shard(path, columns)
            n_samples += len(table)
            yield table
        self._check_number(n_samples)

    def check_shards(self) -> Encoded:
        """Itself, where all its shards are there and whole, but for what only reading them would show.

        Raises:
            InputError: one is damaged or gone.
        """
        self._check_number(sum(map(n_rows, sorted(self.folder.glob("shards/*.parquet")))))
        return self

    def _check_number(self, n_samples: int) -> None:
        if n_samples != self.manifest["n_samples"]:
            found = f"{n_samples} samples, its manifest says {self.manifest['n_samples']}"
            raise InputError(f"{self.folder} holds {found}\n{encode_anew(self.folder)}")

    def halves(self) -> tuple[Profile, Profile]:
        """Profiles of two halves of the samples, split by sample id: the same halves whatever the order."""
        builders = [ProfileBuilder(self.profile.space, self.profile.d_sae) for _ in range(2)]
        for table in self.shards():
            side = np.array([int(sample_id[-1], 16) % 2 for sample_id in table["sample_id"].to_pylist()])
            for which, builder in enumerate(builders):
                count(builder, table.filter(pa.array(side == which)))
        return builders[0].build(), builders[1].build()

    def ids(self) -> Iterator[str]:
        """The sample ids, in order."""
        for table in self.shards(["sample_id"]):
            yield from table["sample_id"].to_pylist()

    def texts(self, tokenizer: Any) -> Iterator[tuple[str, str]]:
        """Sample ids with their content, in order; `tokenizer` is that of the model which encoded them."""
        for table in self.shards(["sample_id", "token_ids", "token_role"]):
            rows = zip(table["token_ids"].to_pylist(), table["token_role"].to_pylist(), strict=True)
            content = [[i for i, role in zip(ids, roles, strict=True) if role] for ids, roles in rows]
            decoded = tokenizer.decode(content, clean_up_tokenization_spaces=False) if content else []
            yield from zip(table["sample_id"].to_pylist(), decoded, strict=True)

    def incidence(self, feature_ids: Ints, thresholds: Floats) -> Iterator[Incidence]:
        """Which samples fire which of these features (sorted ids) above their thresholds, shard by shard."""
        limits = np.full(self.profile.d_sae, np.inf, np.float32)
        limits[feature_ids] = thresholds[feature_ids]
        column = np.zeros(self.profile.d_sae, np.int64)
        column[feature_ids] = np.arange(len(feature_ids))
        for table in self.shards(["sample_id", "token_role", *CODES]):
            entries = entries_of(table)
            entries = over_roles(entries.take(np.flatnonzero(entries.activation > limits[entries.feature])))
            ids = np.array([int(sample_id, 16) for sample_id in table["sample_id"].to_pylist()], np.uint64)
            yield Incidence(ids, content_tokens(table), entries.sample, column[entries.feature])

    def lengths(self) -> tuple[Ids, Ints]:
        """Ids and content tokens of the samples, in order."""
        ids, lengths = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        for table in self.shards(["sample_id", "token_role"]):
            ids.append(np.array([int(sample_id, 16) for sample_id in table["sample_id"].to_pylist()], np.uint64))
            lengths.append(content_tokens(table))
        return np.concatenate(ids), np.concatenate(lengths)

    def __repr__(self) -> str:
        return f"Encoded({self.profile.n_samples} samples, {self.profile.n_tokens} content tokens, {self.folder})"


def encode(
    corpus: Corpus,
    space: Space,
    out: Path,
    *,
    part: Part | None = None,
    known: Known | None = None,
    engine: Engine | None = None,
    progress: Progress = no_progress,
) -> Encoded:
    """Encode a corpus into a folder; the same call goes on where it stopped.

    Args:
        corpus: read in the space's form.
        space: model, SAE and settings; a `FeatureSpace` where no `engine` is given.
        out: artifact folder.
        part: only every n-th shard, for another process to do the others; see `features.merge`.
        known: samples of the same space that are copied instead of run again.
        engine: who pools the shards; this process, where nobody is named.
        progress: told the samples done.

    Raises:
        InputError: no sample could be encoded.
        MismatchError: the folder was begun with another corpus or space, or the corpus was read in another form.
    """
    if corpus.form != space.form:
        raise MismatchError(
            f"{corpus.name} was read in the form {corpus.form}, the feature space is of the form {space.form}\n"
            f"Read it in that form, with --form {space.form}."
        )
    settings = settings_of(space)
    artifact = Artifact(out, "encode", settings | ({"part": str(part)} if part else {}), {"corpus": corpus.fingerprint})
    if artifact.manifest is not None:
        return Encoded.open(out).check_shards()
    queue = Queue(corpus, artifact, part or Part(1, 1), known or Known((), settings), SHARD_SAMPLES)
    for number, table, failures in (engine or partial(_here, space, progress, len(corpus)))(queue):
        for name, rows, failed in queue.complete(number, table, failures):
            artifact.write(name, partial(write_shard, rows), failed)
        progress("encoding", min((number + 1) * SHARD_SAMPLES, len(corpus)), len(corpus))
    return _finish(artifact, corpus, space, part)


def settings_of(space: Space) -> dict[str, str]:
    """What an encoded corpus depends on besides its samples, as its plan has it."""
    return {**space.identity, "dtype": space.precision}


def _here(space: Space, progress: Progress, total: int, todo: Todo) -> Iterator[tuple[int, pa.Table, list[Failure]]]:
    """The engine that is this process; the next shard is read and tokenised beside the model's work on this one."""
    assert isinstance(space, FeatureSpace), "whoever hands in another space hands in its engine too"
    shards = iter(todo)

    def read_next() -> tuple[int, Read] | None:
        shard = next(shards, None)
        return None if shard is None else (shard[0], space.read(shard[1]))

    with ThreadPoolExecutor(1) as beside:
        coming = beside.submit(read_next)
        while (shard := coming.result()) is not None:
            coming = beside.submit(read_next)
            start = shard[0] * SHARD_SAMPLES
            progress("encoding", start, total)
            pooled = space.pool_read(shard[1], progress=partial(_tell, progress, start, total))
            yield shard[0], table_of(pooled), pooled.failures


def _finish(artifact: Artifact, corpus: Corpus, space: Space, part: Part | None) -> Encoded:
    builder = ProfileBuilder(space.identity, space.d_sae)
    n_cut = n_merged = n_samples = 0
    for path in sorted(artifact.folder.glob("shards/*.parquet")):
        table = read_shard(path)
        count(builder, table)
        n_samples += len(table)
        n_cut += int(np.sum(table["cut"].to_numpy()))
        n_merged += int(np.sum(table["merged"].to_numpy()))
    if n_samples == 0 and part is None:
        listed = sorted(artifact.folder.glob("shards/*.failures.jsonl"))
        first = read_jsonl(listed[0])[0]["reason"] if listed else "it holds no samples"
        raise InputError(f"no sample of {corpus.name} has content tokens\n  {first}\nSee {artifact.folder} for all.")
    rows = [{"where": f.where, "reason": f.reason, "raw": f.raw} for f in corpus.failures]
    write_jsonl(artifact.folder / "corpus.failures.jsonl", rows)
    return finished(
        artifact, builder.build(), corpus=corpus.name, n_samples=n_samples, n_cut=n_cut, n_merged=n_merged,
        n_repaired=corpus.n_repaired, licence=corpus.licence or "unknown",
    )  # fmt: skip


def finished(artifact: Artifact, profile: Profile, **counts: Any) -> Encoded:
    """Write profile and manifest of a folder whose shards are all there."""
    profile.save(artifact.folder / "profile.npz")
    manifest = artifact.finish(n_tokens=profile.n_tokens, **counts)
    return Encoded(artifact.folder, manifest, profile)


def _tell(progress: Progress, start: int, total: int, what: str, done: int, _: int | None) -> None:
    progress(what, start + done, total)
