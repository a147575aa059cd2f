"""The measures of `diversity` for several data sets, of all of each and of an equal number of words.

Before: files. After: `facsynth diversity` prints them; no model is loaded but a sentence encoder, where one is there.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from facsynth import diversity
from facsynth.assemble import read_data
from facsynth.bins import Ids
from facsynth.errors import InputError, ModelError
from facsynth.incidence import orders
from facsynth.model.encoder import open_encoder
from facsynth.names import names_of
from facsynth.records import Progress, no_progress
from facsynth.settings import DataBlock

MOST = 20_000
"""Texts of a set, drawn at random, that are looked at: vectors are held in memory."""
OFF = "off"


def varieties(data: DataBlock, encoder: str, tagger: str = "", progress: Progress = no_progress) -> dict[str, Any]:
    """Measure each of the seed files by itself.

    Args:
        data: seed files, each a set, with their form and fields.
        encoder: as `model.encoder.open_encoder` takes it, or off. What needs one is None where it is not installed.
        tagger: a spaCy pipeline that knows parts of speech; empty: they are not looked at.
        progress: told of every set.

    Returns:
        `n_words`: of the set with the fewest; `sets`: name, `n_samples`, `n_words`, and measures by name of `all` of it
        and of as many words (`equal`); `notes`.

    Raises:
        InputError: a set without any words.
    """
    sets = [_texts(data, source, progress) for source in data.seed]
    sizes = [sum(map(len, diversity.words_of(one.texts))) for one in sets]
    names = names_of(data.seed)
    if 0 in sizes:
        raise InputError(f"{names[sizes.index(0)]} holds no words\nGive texts, or name the field that holds them.")
    encode, notes = encoder_if_there(encoder)
    if importlib.util.find_spec("nltk") is None:
        notes.append("self-BLEU is left out: nltk is not installed (pip install 'facsynth[text]')")
    for name, one in zip(names, sets, strict=True):
        notes += one.notes
        if one.n_samples > MOST:
            notes.append(f"{name}: {MOST:,} of its {one.n_samples:,} texts, drawn at random")
    found = []
    for name, (texts, ids, *_), size in zip(names, sets, sizes, strict=True):
        progress(f"measuring {name}", 0, None)
        chosen, cut = diversity.within(texts, ids, min(sizes))
        parts = {"all": (range(len(texts)), texts), "equal": (chosen, cut)}
        found.append({
            "name": name, "n_samples": len(texts), "n_words": size,
            **{
                part: _measured(held, ids[list(rows)], encode, tagger) for part, (rows, held) in parts.items()
            },
        })  # fmt: skip
    return {"n_words": min(sizes), "sets": found, "notes": notes}


class _Texts(NamedTuple):
    texts: list[str]
    """`MOST` of the set at most."""
    ids: Ids
    n_samples: int
    notes: list[str]
    """What became of rows that are no samples."""


def _texts(data: DataBlock, source: str, progress: Progress) -> _Texts:
    corpus = read_data(data.model_copy(update={"seed": (source,)}), "seed", progress)
    ids = np.array([int(sample.sample_id, 16) for sample in corpus], np.uint64)
    (order,) = orders(ids, 1, rng_seed=0)
    kept = np.sort(order[:MOST])
    inside = set(kept.tolist())
    notes = []
    if corpus.failures:
        first = corpus.failures[0]
        told = f"the first is {first.where}: {first.reason.splitlines()[0]}"
        notes.append(f"{corpus.name}: rows that could not be used: {corpus.n_failures}; {told}")
    if corpus.n_repaired:
        notes.append(f"{corpus.name}: samples that had broken characters taken out: {corpus.n_repaired}")
    texts = [sample.text for n, sample in enumerate(corpus) if n in inside]
    return _Texts(texts, ids[kept], len(ids), notes)


def encoder_if_there(place: str) -> tuple[Callable[[Sequence[str]], Any] | None, list[str]]:
    """The encoder, if there is one, and what is to be said where there is none."""
    if place == OFF:
        return None, []
    try:
        return open_encoder(place), []
    except ModelError as err:
        if place != "embedded":
            raise
        return None, [f"without a sentence encoder its measures are left out: {' '.join(str(err).split())}"]


def _measured(
    texts: list[str], ids: Ids, encode: Callable[[Sequence[str]], Any] | None, tagger: str
) -> dict[str, float | None]:
    found = diversity.of_words(texts, ids)
    if tagger:
        found["pos_distinct_2"] = diversity.pos_distinct(texts, tagger)
    return found | (diversity.of_vectors(encode(texts)) if encode else {})
