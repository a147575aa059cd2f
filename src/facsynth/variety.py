"""The measures of `diversity` for several data sets, of all of each and of an equal number of words.

Before: files. After: `facsynth diversity` prints them; no model is loaded but a sentence encoder, where one is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

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
    sizes = [sum(map(len, diversity.words_of(texts))) for texts, _, _ in sets]
    names = names_of(data.seed)
    if 0 in sizes:
        raise InputError(f"{names[sizes.index(0)]} holds no words\nGive texts, or name the field that holds them.")
    encode, notes = _encoder(encoder)
    notes += [
        f"{name}: {MOST:,} of its {n:,} texts, drawn at random"
        for name, (_, _, n) in zip(names, sets, strict=True) if n > MOST
    ]  # fmt: skip
    found = []
    for name, (texts, ids, _), size in zip(names, sets, sizes, strict=True):
        progress(f"measuring {name}", 0, None)
        chosen = diversity.within(diversity.words_of(texts), ids, min(sizes))
        parts = {"all": range(len(texts)), "equal": chosen}
        found.append({
            "name": name, "n_samples": len(texts), "n_words": size,
            **{
                part: _measured([texts[i] for i in rows], ids[list(rows)], encode, tagger)
                for part, rows in parts.items()
            },
        })  # fmt: skip
    return {"n_words": min(sizes), "sets": found, "notes": notes}


def _texts(data: DataBlock, source: str, progress: Progress) -> tuple[list[str], Ids, int]:
    """At most `MOST` texts of a set with their ids, and how many it has."""
    corpus = read_data(data.model_copy(update={"seed": (source,)}), "seed", progress)
    ids = np.array([int(sample.sample_id, 16) for sample in corpus], np.uint64)
    (order,) = orders(ids, 1, rng_seed=0)
    kept = np.sort(order[:MOST])
    inside = set(kept.tolist())
    return [sample.text for n, sample in enumerate(corpus) if n in inside], ids[kept], len(ids)


def _encoder(place: str) -> tuple[Callable[[Sequence[str]], Any] | None, list[str]]:
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
    return found | (diversity.of_vectors(texts, encode) if encode else {})
