"""A finished run as a data set for a trainer: rows, a side table of where each comes from, and a card.

Before: a run folder. After: TRL, LLaMA-Factory, or the Hub. Rows hold nothing but what is trained on: trainers refuse
columns that they do not know.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from facsynth.assemble import read_data
from facsynth.errors import InputError, SettingsError
from facsynth.proof import sample_of
from facsynth.records import Progress, no_progress
from facsynth.report.card import card_of
from facsynth.report.shapes import PROVENANCE, SUMMARY, read_object, read_rows
from facsynth.settings import RunSettings, load_settings
from facsynth.store import RESTORE, Artifact, read_json, read_jsonl, write_atomic, write_json, write_jsonl, write_text
from facsynth.synthesis.accept import text_sha256
from facsynth.text.export import Layout, dataset_info, laid_out
from facsynth.text.layouts import RowError

RECORD = "export.json"
"""What an export was made with; a folder that holds it is written anew."""
OFFENSIVE = "toxicity"
"""The task whose samples are offensive by design."""


class ExportSettings(NamedTuple):
    """What is written, and how."""

    layout: Layout = "trl"
    parquet: bool = False
    mix: bool = False
    """The whole training set: the seed set too."""
    synthetic_share: float | None = None
    """Of a mix, that written samples make up; of what there is too much is drawn at random. None: all there is."""
    rng_seed: int = 0
    """Of the draw, and of the order of a mix."""


class _Item(NamedTuple):
    source: str
    """seed, selected or written."""
    sample_id: str
    row: dict[str, Any]
    provenance: dict[str, Any]


def export_run(run: Path, to: Path, settings: ExportSettings, progress: Progress = no_progress) -> dict[str, Any]:
    """Write the samples of a finished run for a trainer.

    Args:
        run: its folder.
        to: a folder that is empty, not there, or holds an earlier export.
        settings: what is written, and how.
        progress: told of the rows of the seed set.

    Returns:
        What is written to `export.json`: counts by source, duplicates left out, files, notes.

    Raises:
        InputError: the run is not finished, has no samples, or `to` holds something else.
        SettingsError: a layout that such samples cannot have, or a share that is none.
    """
    _check(run, to, settings)
    of_run = load_settings(run / "facsynth.yaml")
    seed, unread = _seed(of_run, progress) if settings.mix else ([], [])
    found = [*seed, *_filled(run)]
    items = list({item.sample_id: item for item in reversed(found)}.values())[::-1]
    chosen = _mixed(items, settings) if settings.mix else items
    if not chosen:
        raise InputError(f"there is nothing to export: no sample of {run} was accepted")
    rows = laid_out([item.row for item in chosen], of_run.data.form, settings.layout)
    record: dict[str, Any] = {
        **settings._asdict(), "n_rows": len(rows), "sources": dict(Counter(item.source for item in chosen)),
        "n_duplicates": len(found) - len(items),
        "notes": [*_of_layout(rows, settings.layout), *_of_share(items, chosen), *_of_unread(unread)],
    }  # fmt: skip
    _write(rows, chosen, run, to, record)
    return record


def _check(run: Path, to: Path, settings: ExportSettings) -> None:
    if not (run / "manifest.json").exists():
        raise InputError(f"{run} is not finished\nFinish it: facsynth synthesize {run}")
    if to.exists() and (not to.is_dir() or (any(to.iterdir()) and not (to / RECORD).exists())):
        raise InputError(f"{to} is there, and is no export\nName an empty folder, or a new one.")
    if settings.synthetic_share is not None and not settings.mix:
        raise SettingsError("a share of written samples is one of a mix\nAsk for one: --mix.")


def _seed(settings: RunSettings, progress: Progress) -> tuple[list[_Item], list[str]]:
    """The seed set, and the places of rows whose other turns are no texts."""
    items, unread = [], []
    for sample, row in read_data(settings.data, "seed", progress).rows():
        try:
            items.append(_Item("seed", sample.sample_id, row(), {}))
        except RowError:
            unread.append(Path(sample.where).name)
    return items, unread


def _filled(run: Path) -> Iterator[_Item]:
    """The accepted samples, each with its row of provenance, as they were proved.

    Raises:
        InputError: a text is another than the one that was proved.
    """
    rows, known = read_jsonl(run / "samples.jsonl"), read_rows(run / "provenance.jsonl", PROVENANCE)
    if len(rows) != len(known):
        found = f"{len(rows)} rows and provenance.jsonl {len(known)}"
        raise InputError(f"{run / 'samples.jsonl'} has {found}: one of them was changed\n{RESTORE}")
    for number, (row, provenance) in enumerate(zip(rows, known, strict=True), start=1):
        sample = sample_of(row, provenance["form"])
        if sample is None or text_sha256(sample.text) != provenance["text_sha256"]:
            raise InputError(
                f"{run / 'samples.jsonl'}, row {number}: its text was changed after it was proved\n"
                "Restore it; or export, and change the exported copy. `facsynth verify` names every such row."
            )
        yield _Item(provenance["source"], provenance["sample_id"], row, provenance)


def _mixed(items: Sequence[_Item], settings: ExportSettings) -> list[_Item]:
    """In random order, with the share of written ones that was asked for."""
    rng = random.Random(settings.rng_seed)
    written = rng.sample(found := [i for i in items if i.source == "written"], len(found))
    others = rng.sample(found := [i for i in items if i.source != "written"], len(found))
    if settings.synthetic_share is not None:
        written, others = _cut(written, others, settings.synthetic_share)
    return rng.sample(found := [*written, *others], len(found))


def _cut(written: list[_Item], others: list[_Item], share: float) -> tuple[list[_Item], list[_Item]]:
    """As many of both as there can be with this share of written ones."""
    if not 0 <= share <= 1:
        raise SettingsError(f"the share of written samples is {share}\nGive one between 0 and 1.")
    if share and not written:
        raise SettingsError(
            f"a mix with {share:.0%} of written samples is empty: the run has no written ones\n"
            "Leave out --synthetic-share: selected samples are real ones."
        )
    n_written = len(written) if share == 1 else min(len(written), math.floor(len(others) * share / (1 - share) + 1e-9))
    n_others = len(others) if share == 0 else min(len(others), math.floor(len(written) * (1 - share) / share + 1e-9))
    return written[:n_written], others[:n_others]


def _of_layout(rows: Sequence[dict[str, Any]], layout: Layout) -> list[str]:
    if set(rows[0]) == {"prompt"}:
        return ["some samples have no reply: all are exported as prompts alone, for a model to answer"]
    if layout == "trl-completion" and "completion" not in rows[0]:
        return [f"these samples have no one completion: rows hold {', '.join(rows[0])}"]
    return []


def _of_share(items: Sequence[_Item], chosen: Sequence[_Item]) -> list[str]:
    n_left = Counter(item.source for item in items)
    n_left.subtract(item.source for item in chosen)
    counts = [f"{n:,} of {source}" for source, n in n_left.items() if n]
    return [f"left out, for the share that was asked for: {', '.join(counts)}"] if counts else []


def _of_unread(unread: Sequence[str]) -> list[str]:
    if not unread:
        return []
    return [
        f"{len(unread)} rows of the seed set have turns that are no texts, and are left out: {unread[0]} is the first"
    ]


def _write(rows: list[dict[str, Any]], items: Sequence[_Item], run: Path, to: Path, record: dict[str, Any]) -> None:
    to.mkdir(parents=True, exist_ok=True)
    name = "train.parquet" if record["parquet"] else "train.jsonl"
    if record["layout"] == "llama-factory":
        try:
            entry = dataset_info(to.resolve().name, name, rows)
        except ValueError as err:
            raise SettingsError(f"LLaMA-Factory cannot train on these samples: {err}\nExport as trl.") from err
        write_json(to / "dataset_info.json", entry)
    write_json(to / RECORD, record)
    if record["parquet"]:
        write_atomic(to / name, partial(pq.write_table, pa.Table.from_pylist(rows)))
    else:
        write_jsonl(to / name, rows)
    summary = read_object(run / "summary.json", SUMMARY)
    side = [{"row": n, "source": i.source, "sample_id": i.sample_id} | i.provenance for n, i in enumerate(items)]
    write_jsonl(to / "provenance.jsonl", side)
    write_text(to / "README.md", card_of(run.resolve().name, name, record, summary, _about(run)))


def _about(run: Path) -> dict[str, Any]:
    """What a card says of a run besides its figures."""
    settings = load_settings(run / "facsynth.yaml")
    manifests = {part: run / "features" / part / "manifest.json" for part in ("seed", "anchor", "pool")}
    return {
        "licences": {part: read_json(path)["licence"] for part, path in manifests.items() if path.exists()},
        "writer": Artifact.reopen(run / "synthesis", "synthesize").parents["writer"],
        "task": settings.task or "",
        "is_offensive": settings.task == OFFENSIVE,
        "settings": yaml.safe_dump(_public(settings.model_dump(mode="json")), sort_keys=False, allow_unicode=True),
    }


def _public(value: Any) -> Any:
    """Without the folders of this machine and the addresses of its endpoints."""
    if isinstance(value, dict):
        return {key: _public(item) for key, item in value.items() if key not in {"url", "key_env"}}
    if isinstance(value, list):
        return [_public(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def push_export(to: Path, name: str) -> str:
    """Upload an export to a private data set on the Hub, and give back its address.

    Raises:
        InputError: the Hub does not take it: no token, no such owner, no network.
    """
    from huggingface_hub import HfApi  # noqa: PLC0415  (a second to load, needed for the Hub only)

    try:
        hub = HfApi()
        hub.create_repo(name, repo_type="dataset", private=True, exist_ok=True)
        hub.upload_folder(repo_id=name, repo_type="dataset", folder_path=to, ignore_patterns=[".*"])
    except Exception as err:  # the hub client raises many kinds
        raise InputError(
            f"the Hub does not take {name}: {type(err).__name__}: {err}\n{to} is written; log in with `hf auth login`, "
            "or set HF_TOKEN, and run the same command again."
        ) from err
    return f"https://huggingface.co/datasets/{name}"
