"""Several data sets against one anchor: each encoded, then told apart.

Before: settings whose seed files are the sets. After: `comparison.json`, which the report and the terminal show.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from facsynth.assemble import open_background, open_space, read_data
from facsynth.errors import InputError, SettingsError
from facsynth.features.encode import FeatureSpace
from facsynth.features.encoded import Encoded
from facsynth.filling import encode_part
from facsynth.lock import locked
from facsynth.names import names_of
from facsynth.pipeline import check_background_place
from facsynth.records import Progress, no_progress
from facsynth.report.comparison import RECORD
from facsynth.run_folder import effective
from facsynth.selfcheck import check_before_measuring
from facsynth.settings import RunSettings
from facsynth.side_by_side import side_by_side
from facsynth.store import Artifact, fingerprint, read_json, write_json
from facsynth.text.corpus import Corpus


def compare_sets(settings: RunSettings, out: Path | None, cache: Path, progress: Progress = no_progress) -> Path:
    """Encode the anchor and each set, and write down how they differ.

    Args:
        settings: whose seed files are the sets, each by itself: data, or the folder of an encoded corpus.
        out: folder, or None for one in the cache of these settings and data; the same call goes on in it.
        cache: for hashes.
        progress: told of every set.

    Returns:
        The folder, whose `comparison.json` holds what `side_by_side` gives.

    Raises:
        SettingsError: fewer than two sets, relevance by a judge, or by contrast without a background.
        MismatchError: a set that was encoded in another feature space.
        InputError: a set that is a part of an encoded corpus.
    """
    _check(settings)
    anchor = read_data(settings.data, "anchor", progress)
    sets = [_read(settings, source, progress) for source in settings.data.seed]
    names = ["anchor", *(f"set {name}" for name in names_of(settings.data.seed))]
    prints = dict(zip(names, [_named_print(one) for one in (anchor, *sets)], strict=True))
    out = out or cache / "runs" / f"compare-{fingerprint([effective(settings), prints])[:16]}"
    with locked(out):
        folder = Artifact(out, "compare", effective(settings), prints)
        if folder.manifest is None:
            write_json(out / RECORD, _compared(settings, anchor, sets, out=out, cache=cache, progress=progress))
            folder.finish(n_sets=len(sets))
    return out


def _compared(
    settings: RunSettings, anchor: Corpus, sets: Sequence[Corpus | Encoded], *, out: Path, cache: Path,
    progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    check_background_place(settings, cache)
    progress("loading the model", 0, None)
    space = open_space(settings, cache)
    background = open_background(settings, space)
    texts = chain(anchor, *(corpus for corpus in sets if isinstance(corpus, Corpus)))
    prints = [anchor.fingerprint, *map(_fingerprint, sets)]
    notes = check_before_measuring(space, texts, settings, cache, progress, data=prints)
    reference = encode_part(anchor, space, out / "features" / "anchor", cache, progress)
    encoded = [
        _encoded(corpus, space, out / "features" / f"set-{n}", cache, progress)
        for n, corpus in enumerate(sets, start=1)
    ]
    named = dict(zip(names_of(settings.data.seed), encoded, strict=True))
    record = side_by_side(named, reference, background, space, settings)
    return record | {"notes": [*notes, *record["notes"]]}


def _check(settings: RunSettings) -> None:
    if len(settings.data.seed) < 2:
        raise SettingsError("a comparison takes two data sets or more\nName them: facsynth compare A.jsonl B.jsonl")
    if "judge" in settings.coverage.relevance:
        raise SettingsError(
            "a comparison does not ask a judge what is relevant\n"
            "Set coverage.relevance to contrast, or to all (--relevance)."
        )


def _read(settings: RunSettings, source: str, progress: Progress) -> Corpus | Encoded:
    """A set, of texts or encoded already."""
    if (Path(source) / "plan.json").is_file():
        if part := read_json(Path(source) / "plan.json", "settings")["settings"].get("part"):
            raise InputError(
                f"{source} is part {part} of a corpus\nPut the parts together first: facsynth merge PARTS… -o WHOLE"
            )
        return Encoded.open(Path(source)).check_shards()
    return read_data(settings.data.model_copy(update={"seed": (source,)}), "seed", progress)


def _fingerprint(corpus: Corpus | Encoded) -> str:
    return corpus.fingerprint if isinstance(corpus, Corpus) else str(corpus.manifest["fingerprint"])


def _named_print(corpus: Corpus | Encoded) -> str:
    """Of what a comparison says of it: its samples, and how many rows are none."""
    if isinstance(corpus, Encoded):
        return _fingerprint(corpus)
    return fingerprint([corpus.fingerprint, corpus.n_failures])


def _encoded(corpus: Corpus | Encoded, space: FeatureSpace, out: Path, cache: Path, progress: Progress) -> Encoded:
    return encode_part(corpus, space, out, cache, progress) if isinstance(corpus, Corpus) else corpus
