"""Several data sets against one anchor: each encoded, then told apart.

Before: settings whose seed files are the sets. After: `comparison.json`, which the report and the terminal show.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

from facsynth.assemble import open_background, open_space, read_data
from facsynth.errors import SettingsError
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
from facsynth.store import Artifact, read_json, write_json
from facsynth.text.corpus import Corpus


def compare_sets(settings: RunSettings, out: Path, cache: Path, progress: Progress = no_progress) -> dict[str, Any]:
    """Encode the anchor and each set, and write down how they differ.

    Args:
        settings: whose seed files are the sets, each by itself: data, or the folder of an encoded corpus.
        out: folder; the same call goes on in it.
        cache: for hashes.
        progress: told of every set.

    Returns:
        What `comparison.json` holds, as `side_by_side` gives it.

    Raises:
        SettingsError: fewer than two sets, relevance by a judge, or by contrast without a background.
        MismatchError: a set that was encoded in another feature space.
    """
    sources = settings.data.seed
    _check(settings)
    with locked(out):
        anchor_texts = read_data(settings.data, "anchor", progress)
        corpora = [_read(settings, source, progress) for source in sources]
        prints = [anchor_texts.fingerprint, *map(_fingerprint, corpora)]
        names = ["anchor", *(f"set-{n}" for n in range(1, len(corpora) + 1))]
        folder = Artifact(out, "compare", effective(settings), dict(zip(names, prints, strict=True)))
        if folder.manifest is not None:
            return read_json(out / RECORD, "sets", "pairs")
        check_background_place(settings, cache)
        progress("loading the model", 0, None)
        space = open_space(settings, cache)
        background = open_background(settings, space)
        texts = chain(anchor_texts, *(corpus for corpus in corpora if isinstance(corpus, Corpus)))
        notes = check_before_measuring(space, texts, settings, cache, progress, data=prints)
        anchor, *sets = (
            _encoded(corpus, space, out / "features" / name, cache, progress)
            for name, corpus in zip(names, [anchor_texts, *corpora], strict=True)
        )
        named = dict(zip(names_of(sources), sets, strict=True))
        record = side_by_side(named, anchor, background, space, settings)
        record["notes"] = [*notes, *record["notes"]]
        write_json(out / RECORD, record)
        folder.finish(n_sets=len(sets))
        return record


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
        return Encoded.open(Path(source)).check_shards()
    return read_data(settings.data.model_copy(update={"seed": (source,)}), "seed", progress)


def _fingerprint(corpus: Corpus | Encoded) -> str:
    return corpus.fingerprint if isinstance(corpus, Corpus) else str(corpus.manifest["fingerprint"])


def _encoded(corpus: Corpus | Encoded, space: FeatureSpace, out: Path, cache: Path, progress: Progress) -> Encoded:
    return encode_part(corpus, space, out, cache, progress) if isinstance(corpus, Corpus) else corpus
