"""Short pieces of broad text, as messages: what an anchor is contrasted with.

Before: `text.corpus`. After: `features.encoded` gives their profile, which ships with the SAE (counts and
histograms, no text). The pieces have all lengths from a few words on, because contrast compares samples of equal
length, and they begin and end with sentences, because messages do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from facsynth.records import Message, Sample
from facsynth.text.corpus import Corpus

SHORTEST_WORDS, LONGEST_WORDS = 4, 240
_SENTENCE_END = re.compile(r"(?<=[.!?:;])\s+|\n+")


def background_pieces(corpora: Sequence[Corpus], n_pieces: int, rng: np.random.Generator) -> list[Sample]:
    """Pieces of the corpora's texts, each corpus with a weight of the square root of its number of texts.

    Args:
        corpora: broad texts; all roles are taken.
        n_pieces: how many in all; fewer where a corpus is small, equal ones once.
        rng: chooses texts, places and lengths (log-uniform in words).
    """
    weights = np.sqrt([len(corpus) for corpus in corpora])
    shares = np.ceil(n_pieces * weights / weights.sum()).astype(int)
    pieces: dict[str, Sample] = {}
    for corpus, share in zip(corpora, shares, strict=True):
        texts = [message.content for sample in corpus for message in sample.messages]
        for _ in range(int(share)):
            piece = _piece(texts[int(rng.integers(len(texts)))], rng)
            if len(piece.split()) >= SHORTEST_WORDS:
                sample = Sample((Message("user", piece),))
                pieces[sample.sample_id] = sample
    return [pieces[sample_id] for sample_id in sorted(pieces)]


def _piece(text: str, rng: np.random.Generator) -> str:
    """Whole sentences from a random one on, until a length is reached that is log-uniform."""
    sentences = [sentence.strip() for sentence in _SENTENCE_END.split(text) if sentence.strip()]
    if not sentences:
        return ""
    wanted = np.exp(rng.uniform(np.log(SHORTEST_WORDS), np.log(LONGEST_WORDS)))
    start = int(rng.integers(len(sentences)))
    return " ".join(_until(sentences[start:], wanted))


def _until(sentences: Iterable[str], n_words: float) -> list[str]:
    taken: list[str] = []
    for sentence in sentences:
        taken.append(sentence)
        if sum(len(s.split()) for s in taken) >= n_words:
            break
    return taken
