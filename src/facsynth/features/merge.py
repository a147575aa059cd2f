"""Encoded folders into one: the parts of a corpus that several processes shared, or corpora of other days and machines.

Before: `features.encoded`, with `part`. The parts of one corpus merge to exactly what one pass over it leaves.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from facsynth.errors import InputError, MismatchError
from facsynth.features.encoded import Encoded, finished
from facsynth.features.queue import Part
from facsynth.profile import merge
from facsynth.store import Artifact, fingerprint, read_json, read_jsonl, write_atomic, write_jsonl

SUMMED = ("n_samples", "n_cut", "n_merged", "n_repaired")


def merge_encoded(folders: Sequence[Path], out: Path) -> Encoded:
    """Put the samples of finished encoded folders into one, in the order given.

    Shards are linked where the file system can, else copied; nothing is encoded.

    Args:
        folders: of one feature space; either all parts of one corpus, or different corpora.
        out: artifact folder; the same call goes on where it stopped.

    Raises:
        InputError: a folder is not finished, damaged, comes twice, or a part of the corpus is missing.
        MismatchError: they come from different feature spaces.
    """
    if not folders:
        raise InputError("no folders to merge\nName those that `facsynth encode` left.")
    found = [Encoded.open(folder).check_shards() for folder in folders]
    plans = [read_json(folder / "plan.json", "settings", "parents") for folder in folders]
    corpora = [str(plan["parents"]["corpus"]) for plan in plans]
    parts = [plan["settings"].pop("part", None) for plan in plans]
    _check_settings(folders, [plan["settings"] for plan in plans])
    is_one = any(parts)
    if is_one:
        _check_parts(folders, corpora, parts)
    elif len(set(corpora)) < len(corpora):
        twice = next(folder for i, folder in enumerate(folders) if corpora[i] in corpora[:i])
        raise InputError(f"{twice} holds the same samples as a folder before it\nName each corpus once.")
    corpus = corpora[0] if is_one or len(corpora) == 1 else fingerprint(corpora)
    artifact = Artifact(out, "encode", plans[0]["settings"], {"corpus": corpus})
    if artifact.manifest is not None:
        return Encoded.open(out)
    _link_shards(folders, artifact, keep_names=is_one)
    manifests = [encoded.manifest for encoded in found]
    if not any(manifest["n_samples"] for manifest in manifests):
        raise InputError(f"no sample of {manifests[0]['corpus']} has content tokens\nSee {folders[0]} for the reasons.")
    write_jsonl(out / "corpus.failures.jsonl", _rows(folders[:1] if is_one else folders))
    return finished(artifact, merge([encoded.profile for encoded in found]), **_counts(manifests, is_one=is_one))


def _check_settings(folders: Sequence[Path], settings: Sequence[dict[str, Any]]) -> None:
    for folder, other in zip(folders[1:], settings[1:], strict=True):
        for key in sorted(settings[0].keys() | other.keys()):
            if settings[0].get(key) != other.get(key):
                raise MismatchError(
                    f"{folders[0]} and {folder} were encoded with another {key}\n"
                    f"  {folders[0]}  {settings[0].get(key)}\n  {folder}  {other.get(key)}\n"
                    "Encode one of them again."
                )


def _check_parts(folders: Sequence[Path], corpora: Sequence[str], parts: Sequence[str | None]) -> None:
    for folder, corpus, part in zip(folders, corpora, parts, strict=True):
        if not (parts[0] and part) or corpus != corpora[0] or Part.parse(part).n != Part.parse(parts[0]).n:
            raise InputError(
                f"{folder} ({part or 'whole'}) is no part of the corpus of {folders[0]} ({parts[0] or 'whole'})\n"
                "Merge the parts of one corpus, or whole corpora."
            )
    n = Part.parse(str(parts[0])).n
    if missing := [str(Part(number, n)) for number in range(1, n + 1) if str(Part(number, n)) not in parts]:
        raise InputError(f"parts of the corpus are missing: {', '.join(missing)}\nEncode them with --shard first.")
    if len(parts) > n:
        raise InputError(f"a part comes twice: {', '.join(map(str, parts))}\nName each part once.")


def _link_shards(folders: Sequence[Path], artifact: Artifact, *, keep_names: bool) -> None:
    number = 0
    for folder in folders:
        for path in sorted(folder.glob("shards/*.parquet")):
            name = path.name if keep_names else f"{number:05d}.parquet"
            number += 1
            if not artifact.has(f"shards/{name}"):
                failures = read_jsonl(folder / "shards" / f"{path.name}.failures.jsonl")
                if failures:
                    write_jsonl(artifact.folder / "shards" / f"{name}.failures.jsonl", failures)
                write_atomic(artifact.folder / "shards" / name, partial(_link, path))


def _link(source: Path, target: Path) -> None:
    with suppress(OSError):  # another file system, or one without links
        os.link(source, target)
        return
    shutil.copyfile(source, target)


def _rows(folders: Sequence[Path]) -> list[dict[str, Any]]:
    return [row for folder in folders for row in read_jsonl(folder / "corpus.failures.jsonl")]


def _counts(manifests: Sequence[dict[str, Any]], *, is_one: bool) -> dict[str, Any]:
    """The manifest of one pass over all."""
    counts: dict[str, Any] = {key: sum(manifest[key] for manifest in manifests) for key in SUMMED}
    if is_one:  # each part read the whole corpus
        counts["n_repaired"] = manifests[0]["n_repaired"]
        counts["corpus"] = manifests[0]["corpus"]
    else:
        counts["corpus"] = " + ".join(str(manifest["corpus"]) for manifest in manifests)
    licences = {str(manifest["licence"]) for manifest in manifests}
    return counts | {"licence": licences.pop() if len(licences) == 1 else "unknown"}
