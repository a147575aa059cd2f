"""How varied texts are by their words and by a sentence encoder: the measures that coverage is compared with.

Before: texts of a corpus. After: `facsynth diversity`. Nearly all of them change with length alone, so sets are
compared at an equal number of words (arXiv 2403.00553). What features a model has for the texts is no concern here.
"""

from __future__ import annotations

import importlib.util
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from facsynth.bins import Ids
from facsynth.errors import ModelError, missing_extra
from facsynth.incidence import orders

Words = Sequence[Sequence[str]]
"""Of each text, in lower case."""
Floats = npt.NDArray[np.float32]
N_BLEU = 200
"""Texts that self-BLEU compares with each other."""
N_CLUSTERS = 50
_WORD = re.compile(r"\w+(?:['’]\w+)*")
_SENTENCE = re.compile(r"[.!?]+(?=\s|$)|\n+")


def words_of(texts: Iterable[str]) -> list[list[str]]:
    """The words of each text, in lower case; marks are no words."""
    return [_WORD.findall(text.lower()) for text in texts]


def within(texts: Sequence[str], ids: Ids, n_words: int, rng_seed: int = 0) -> tuple[list[int], list[str]]:
    """Texts in a random order that hold `n_words` together, and which they are; the last one is cut to fit."""
    (order,) = orders(ids, 1, rng_seed)
    indices, chosen, left = [], [], n_words
    for index in order.tolist():
        ends = [word.end() for word in _WORD.finditer(texts[index])]
        if left <= 0:
            break
        indices.append(index)
        chosen.append(texts[index] if len(ends) <= left else texts[index][: ends[left - 1]])
        left -= len(ends)
    return indices, chosen


def distinct(words: Words, n: int) -> float | None:
    """Distinct-n: different runs of n words, of all such runs (Li et al. 2016); None where there are none."""
    runs = _runs(words, n)
    return len(runs) / total if (total := runs.total()) else None


def entropy(words: Words, n: int = 2) -> float | None:
    """Entropy of the runs of n words, in bits; None where there are none."""
    runs = _runs(words, n)
    return _bits(np.array(list(runs.values()), np.float64)) if runs else None


def sentence_length(texts: Iterable[str]) -> float | None:
    """Mean words of a sentence; a line is one too. None without words."""
    lengths = [len(_WORD.findall(part)) for text in texts for part in _SENTENCE.split(text)]
    lengths = [n for n in lengths if n]
    return sum(lengths) / len(lengths) if lengths else None


def compression_ratio(texts: Sequence[str]) -> float | None:
    """Bytes of the texts over their bytes when compressed (gzip's method); the higher the more repeats."""
    raw = "\n".join(texts).encode("utf-8", "surrogatepass")
    return len(raw) / len(zlib.compress(raw, 9)) if raw else None


def self_bleu(words: Words, ids: Ids, rng_seed: int = 0) -> float | None:
    """Mean BLEU-4 of each text against all the others (Zhu et al. 2018), of 200 texts at most; None under two.

    Raises:
        ModelError: nltk is not installed.
    """
    if importlib.util.find_spec("nltk") is None:
        raise missing_extra("nltk", "text")
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu  # noqa: PLC0415  (an optional package)

    (order,) = orders(ids, 1, rng_seed)
    chosen = [list(words[index]) for index in order if words[index]][:N_BLEU]
    if len(chosen) < 2:
        return None
    smooth = SmoothingFunction().method1
    scores = [
        sentence_bleu(chosen[:i] + chosen[i + 1 :], text, smoothing_function=smooth) for i, text in enumerate(chosen)
    ]
    return float(np.mean(scores))


def pos_distinct(texts: Sequence[str], tagger: str) -> float | None:
    """Distinct-2 of parts of speech, by a spaCy pipeline.

    Raises:
        ModelError: spaCy or the pipeline is not installed.
    """
    if importlib.util.find_spec("spacy") is None:
        raise ModelError("parts of speech need spaCy, which is not installed\nInstall it: pip install spacy")
    import spacy  # noqa: PLC0415  (an optional package)

    try:
        pipeline = spacy.load(tagger)
    except OSError as err:
        raise ModelError(
            f"{tagger} is no spaCy pipeline that is installed\nInstall it: python -m spacy download {tagger}; or name "
            "the folder of one."
        ) from err
    return distinct([[token.pos_ for token in document] for document in pipeline.pipe(texts)], 2)


def spread(vectors: Floats) -> float:
    """Trace of the covariance of vectors [n, d]: their mean square distance from the middle."""
    return float(vectors.var(axis=0, dtype=np.float64).sum())


def pairwise_distance(vectors: Floats) -> float | None:
    """Mean cosine distance of all pairs of unit vectors [n, d], without a pair at hand; None under two."""
    n = len(vectors)
    if n < 2:
        return None
    summed = vectors.sum(axis=0, dtype=np.float64)
    return float(1 - (summed @ summed - n) / (n * (n - 1)))


def vendi(vectors: Floats) -> float:
    """Vendi score of unit vectors [n, d] under the cosine: exp of the entropy of the eigenvalues of X Xᵀ / n.

    Source: Friedman and Dieng 2023. Those of Xᵀ X / n, [d, d], are the same but for zeros.
    """
    values = np.linalg.eigvalsh((vectors.T.astype(np.float64) @ vectors) / len(vectors))
    return math.exp(_bits(np.clip(values, 0, None)) * math.log(2))


def semantic_entropy(vectors: Floats, rng_seed: int = 0) -> float | None:
    """Entropy in bits of the sizes of k-means clusters, 50 or a tenth of the texts; None under twenty texts."""
    from scipy.cluster.vq import kmeans2  # noqa: PLC0415  (takes a while to load)

    k = min(N_CLUSTERS, len(vectors) // 10)
    if k < 2:
        return None
    if (k := min(k, len(np.unique(vectors, axis=0)))) < 2:
        return 0.0
    _, labels = kmeans2(vectors.astype(np.float64), k, minit="++", rng=np.random.default_rng(rng_seed))
    return _bits(np.bincount(labels, minlength=k).astype(np.float64))


def of_words(texts: Sequence[str], ids: Ids) -> dict[str, float | None]:
    """All measures that need no encoder; self-BLEU is None without nltk."""
    words = words_of(texts)
    has_bleu = importlib.util.find_spec("nltk") is not None
    return {
        "distinct_1": distinct(words, 1), "distinct_2": distinct(words, 2), "entropy_2": entropy(words),
        "self_bleu": self_bleu(words, ids) if has_bleu else None,
        "sentence_length": sentence_length(texts), "compression_ratio": compression_ratio(texts),
    }  # fmt: skip


def of_vectors(vectors: Floats) -> dict[str, float | None]:
    """All measures of a sentence encoder's unit vectors [n, d]."""
    return {
        "trace_of_covariance": spread(vectors), "pairwise_distance": pairwise_distance(vectors),
        "semantic_entropy": semantic_entropy(vectors), "vendi": vendi(vectors),
    }  # fmt: skip


def _runs(words: Words, n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(text[i : i + n]) for text in words for i in range(len(text) - n + 1))


def _bits(weights: npt.NDArray[np.float64]) -> float:
    """Entropy of a distribution that is given by its weights."""
    shares = weights[weights > 0] / weights.sum()
    return float(-(shares * np.log2(shares)).sum())
