"""Token by token: the highest is what the profile holds, and the tokens put together are the text."""

from __future__ import annotations

from pathlib import Path

import pytest

from facsynth.features.encode import EncodeSettings, FeatureSpace
from facsynth.features.encoded import encode
from facsynth.features.shading import AFTER, BEFORE, shade
from facsynth.records import Message, Sample
from facsynth.text.corpus import Corpus
from tiny import backbone, random_sae, save_model

TEXTS = ["the river and the bank", "flour, salt and water", "a café — ünïcode", "word " * 400]


@pytest.mark.parametrize("codes", ["native", "relu"])
def test_the_highest_token_is_the_pooled_one_and_the_text_is_whole(codes: str, tmp_path: Path) -> None:
    space = FeatureSpace(
        backbone(save_model(tmp_path / "model", n_blocks=2)), random_sae(32, 64, k=6), EncodeSettings(codes=codes)
    )
    samples = [Sample((Message("user", text),)) for text in TEXTS]
    encoded = encode(Corpus.of(samples), space, tmp_path / "encoded")
    pooled = space.pool(samples)
    wanted = [(f, pooled.sample_ids[n]) for n in range(4) for f in sorted(pooled.maxima(n))[:5]]
    texts = dict(encoded.texts(space.backbone.tokenizer))
    found = shade(encoded, space, [*wanted, (3, "0" * 16)])
    assert [(one.feature, one.sample_id) for one in found] == wanted
    for one in found:
        n = pooled.sample_ids.index(one.sample_id)
        highest, _ = pooled.maxima(n)[one.feature]
        assert max(activation for _, activation in one.tokens) == pytest.approx(highest, rel=1e-3)
        shown = "".join(text for text, _ in one.tokens)
        assert shown in texts[one.sample_id]
        assert len(one.tokens) <= BEFORE + AFTER
        if n < 3:
            assert shown == texts[one.sample_id]


def test_messages_are_a_blank_line_apart(tmp_path: Path) -> None:
    space = FeatureSpace(
        backbone(save_model(tmp_path / "model", n_blocks=2)), random_sae(32, 64, k=6), EncodeSettings(form="chat")
    )
    sample = Sample((Message("user", "Why is bread salted?"), Message("assistant", "For its taste — and the dough.")))
    encoded = encode(Corpus.of([sample], form="chat"), space, tmp_path / "encoded")
    pooled = space.pool([sample])
    (found,) = shade(encoded, space, [(min(pooled.maxima(0)), pooled.sample_ids[0])])
    assert "".join(text for text, _ in found.tokens) == sample.text
