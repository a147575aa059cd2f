"""Measures of words and vectors against second implementations, and against what they are to say of known texts."""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from scipy.stats import entropy as scipy_entropy

from facsynth import diversity
from facsynth.errors import ModelError
from facsynth.settings import parse_settings
from facsynth.variety import varieties
from tiny_cli import facsynth

TEXTS = ["The cat sat on the mat. It slept!", "The cat sat on the hat.", "A dog ran\nover there", ""]
IDS = np.arange(4, dtype=np.uint64)


def vectors(n: int, d: int = 24, seed: int = 0) -> diversity.Floats:
    raw = np.random.default_rng(seed).normal(size=(n, d)) + 0.5
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)


def test_words_pairs_and_sentences_worked_by_hand() -> None:
    words = diversity.words_of(TEXTS)
    assert words[0] == ["the", "cat", "sat", "on", "the", "mat", "it", "slept"]
    assert diversity.distinct(words, 1) == 13 / 19
    assert diversity.distinct(words, 2) == (7 + 1 + 4) / (7 + 5 + 4)
    assert diversity.sentence_length(TEXTS) == pytest.approx((6 + 2 + 6 + 3 + 2) / 5)
    assert diversity.distinct([[]], 1) is None
    assert diversity.entropy([["one"]], 2) is None
    assert diversity.sentence_length(["", "…"]) is None


@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=9), min_size=1, max_size=9))
def test_entropy_and_distinct_are_those_of_counts(words: list[list[str]]) -> None:
    pairs = [pair for text in words for pair in zip(text, text[1:], strict=False)]
    counts = Counter(pairs)
    expected = scipy_entropy(list(counts.values()), base=2) if pairs else None
    assert diversity.entropy(words, 2) == (pytest.approx(expected, abs=1e-9) if pairs else None)
    assert diversity.distinct(words, 2) == (len(counts) / len(pairs) if pairs else None)


def test_compression_is_that_of_gzip() -> None:
    texts = ["all work and no play"] * 50
    raw = "\n".join(texts).encode()
    header = 12  # of gzip, over zlib
    assert diversity.compression_ratio(texts) == pytest.approx(
        len(raw) / (len(gzip.compress(raw, 9)) - header), rel=0.01
    )
    assert diversity.compression_ratio([]) is None


def test_measures_of_vectors_are_those_over_all_pairs() -> None:
    x = vectors(40)
    assert diversity.pairwise_distance(x) == pytest.approx(pdist(x, "cosine").mean(), abs=1e-6)
    assert diversity.spread(x) == pytest.approx(np.trace(np.cov(x.T, bias=True)), abs=1e-6)
    values = np.linalg.eigvalsh(x @ x.T / 40)
    values = values[values > 1e-9]
    assert diversity.vendi(x) == pytest.approx(math.exp(-(values * np.log(values)).sum()), rel=1e-4)
    assert diversity.pairwise_distance(x[:1]) is None


def test_vendi_counts_what_is_different() -> None:
    x = np.repeat(np.eye(5, 16, dtype=np.float32), 7, axis=0)
    assert diversity.vendi(x) == pytest.approx(5, rel=1e-6)


def test_semantic_entropy_tells_one_bundle_from_many() -> None:
    rng = np.random.default_rng(0)

    def bundles(n: int) -> diversity.Floats:
        raw = np.repeat(vectors(n, 24, 3), 200 // n, axis=0) + 0.02 * rng.normal(size=(200, 24))
        return raw.astype(np.float32)

    many = diversity.semantic_entropy(bundles(20))
    assert many == pytest.approx(math.log2(20), abs=0.4)
    assert diversity.semantic_entropy(vectors(19)) is None
    assert diversity.semantic_entropy(np.ones((40, 8), np.float32)) == 0.0, "one text, forty times"


@pytest.mark.slow
def test_self_bleu_is_that_of_a_count_over_all_others() -> None:
    """Against ten lines: clipped runs over the highest count in any other text, smoothed as nltk's method 1."""
    rng = np.random.default_rng(1)
    words = [[f"w{n}" for n in rng.integers(0, 9, rng.integers(6, 14))] for _ in range(12)]
    scores = []
    for i, text in enumerate(words):
        others, logs = words[:i] + words[i + 1 :], []
        for n in (1, 2, 3, 4):
            own = Counter(zip(*(text[k:] for k in range(n)), strict=False))
            most: Counter[tuple[str, ...]] = Counter()
            for other in others:
                most |= Counter(zip(*(other[k:] for k in range(n)), strict=False))
            hits = sum(min(count, most[run]) for run, count in own.items())
            logs.append(math.log((hits or 0.1) / own.total()))
        nearest = min((len(other) for other in others), key=lambda size: (abs(size - len(text)), size))
        scores.append(min(1.0, math.exp(1 - nearest / len(text))) * math.exp(sum(logs) / 4))
    assert diversity.self_bleu(words, np.arange(12, dtype=np.uint64)) == pytest.approx(np.mean(scores), abs=1e-9)


def test_as_many_words_are_drawn_whatever_the_order() -> None:
    rng = np.random.default_rng(2)
    texts = [" ".join(["w"] * n) + "." for n in rng.integers(1, 30, 300)]
    ids = rng.integers(0, 2**63, 300).astype(np.uint64)
    chosen, drawn = diversity.within(texts, ids, 1000)
    assert sum(map(len, diversity.words_of(drawn))) == 1000
    assert drawn[:-1] == [texts[i] for i in chosen[:-1]]
    order = rng.permutation(300)
    again, same = diversity.within([texts[i] for i in order], ids[order], 1000)
    assert {int(ids[order][i]) for i in again} == {int(ids[i]) for i in chosen}
    assert same == drawn


def test_a_long_text_is_cut_and_rows_that_are_none_are_said(tmp_path: Path) -> None:
    long = write(tmp_path / "long.jsonl", [" ".join(f"word{n}" for n in range(500))])
    short = write(tmp_path / "short.jsonl", ["one two three", "four five \u0000 six"])
    with short.open("a") as handle:
        handle.write("7\n")
    files = {"seed": [str(long), str(short)], "anchor": "none", "form": "text"}
    data = parse_settings({"data": files}, "the test").data
    found = varieties(data, "off")
    assert found["n_words"] == 6
    assert found["sets"][0]["equal"]["distinct_2"] == 1.0
    assert found["sets"][0]["equal"]["entropy_2"] == pytest.approx(math.log2(5))
    notes = [note for note in found["notes"] if "short.jsonl" in note]
    assert "rows that could not be used: 1" in notes[0] and "line 3" in notes[0]
    assert "broken characters taken out: 1" in notes[1]


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.mark.slow
def test_a_set_of_longer_texts_of_the_same_words_is_no_more_varied_at_equal_words(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    made = [" ".join(f"w{n}" for n in rng.zipf(1.5, 12) if n < 5000) or "w1" for _ in range(360)]
    short, long = made[:120], [f"{a} {b}" for a, b in zip(made[120:240], made[240:], strict=True)]
    files = [str(write(tmp_path / name, texts)) for name, texts in (("short.jsonl", short), ("long.jsonl", long))]
    settings = parse_settings({"data": {"seed": files, "anchor": files[0], "form": "text"}}, "the test")
    a, b = varieties(settings.data, "off")["sets"]
    assert b["all"]["distinct_1"] < 0.9 * a["all"]["distinct_1"], "what the measure says of all of it"
    assert b["equal"]["distinct_1"] == pytest.approx(a["equal"]["distinct_1"], rel=0.1)


def test_the_command_prints_both_and_says_what_it_lacks(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", ["a b c d", "a b e f"] * 3 + ["g h"])
    two = write(tmp_path / "two.jsonl", ["a a a a a a a"] * 2)
    done = facsynth("diversity", one, two, "--form", "text", "--encoder", "off")
    assert done.code == 0, done.stderr
    assert "at 14 words each" in done.stdout
    assert "distinct-1" in done.stdout
    refused = facsynth("diversity", write(tmp_path / "none.jsonl", ["…"]), "--form", "text", "--encoder", "off")
    assert refused.code == 1
    assert "none.jsonl holds no words" in refused.stderr
    assert facsynth("diversity", one, "--form", "text", "--encoder", "no/such").code == 1


def test_a_tagger_that_is_not_there_is_refused_with_the_way_out() -> None:
    with pytest.raises(ModelError, match="spaCy"):
        diversity.pos_distinct(["a b"], "no_such_pipeline")


@pytest.mark.slow
def test_pairs_of_parts_of_speech_are_those_of_a_table_of_words(tmp_path: Path) -> None:
    """A pipeline that looks words up in a table, against ten lines that do."""
    spacy = pytest.importorskip("spacy")
    table = {"DET": ["the", "a"], "NOUN": ["cat", "mat", "hat", "dog"], "VERB": ["sat", "ran", "slept"], "ADP": ["on"]}
    pipeline = spacy.blank("en")
    rules = [{"patterns": [[{"LOWER": {"IN": words}}]], "attrs": {"POS": tag}} for tag, words in table.items()]
    pipeline.add_pipe("attribute_ruler").add_patterns(rules)
    pipeline.to_disk(tmp_path / "table")
    texts = ["the cat sat on the mat", "a dog ran on a hat", "the cat slept", "the"]
    tag_of = {word: tag for tag, words in table.items() for word in words}
    tags = [[tag_of[word] for word in text.split()] for text in texts]
    pairs = [pair for row in tags for pair in zip(row, row[1:], strict=False)]
    found = diversity.pos_distinct(texts, str(tmp_path / "table"))
    assert found == pytest.approx(len({*pairs}) / len(pairs))
    assert found < 1
