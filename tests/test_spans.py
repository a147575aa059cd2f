"""Spans: real stretches of content that end with the token that fires."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tiny
from facsynth.features.encode import EncodeSettings, FeatureSpace
from facsynth.features.encoded import Encoded, encode
from facsynth.features.spans import SPAN_TOKENS, best_spans, cut_span
from facsynth.records import Message, Sample, Span
from facsynth.text.corpus import Corpus
from facsynth.text.ids import decoder
from tiny import chats


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> FeatureSpace:
    backbone = tiny.backbone(tiny.save_model(tmp_path_factory.mktemp("models") / "llama"))
    return FeatureSpace(backbone, tiny.random_sae(), EncodeSettings(form="chat"))


SAMPLES = chats(30, longest=80)


@pytest.fixture(scope="module")
def encoded(space: FeatureSpace, tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    return encode(Corpus.of(SAMPLES, form="chat"), space, tmp_path_factory.mktemp("encoded"))


@pytest.fixture(scope="module")
def spans(space: FeatureSpace, encoded: Encoded) -> dict[int, list[Span]]:
    return best_spans(encoded, space.backbone.tokenizer, range(64), n_spans=5)


def test_a_span_is_a_stretch_of_one_message_that_ends_with_the_firing_token(
    space: FeatureSpace, spans: dict[int, list[Span]]
) -> None:
    by_id = {sample.sample_id: sample for sample in SAMPLES}
    found = [span for rows in spans.values() for span in rows]
    assert len(found) > 100
    for span in found:
        sample = by_id[span.sample_id]
        assert span.text.endswith(span.token) and span.token
        assert any(span.text.strip() in message.content for message in sample.messages)
        ids = space.template.tokenize(sample, space.roles, 4096).ids
        assert span.token == space.backbone.tokenizer.decode(ids[span.position])
        assert len(space.backbone.tokenizer(span.text, add_special_tokens=False)["input_ids"]) <= SPAN_TOKENS + 1
    assert max(len(span.text) for span in found) > 40


def test_the_activation_of_a_span_is_that_of_the_sample(space: FeatureSpace, spans: dict[int, list[Span]]) -> None:
    pooled = space.pool(SAMPLES)
    index = {sample_id: number for number, sample_id in enumerate(pooled.sample_ids)}
    for feature, rows in spans.items():
        for span in rows:
            activation, position = pooled.maxima(index[span.sample_id])[feature]
            assert (span.feature_id, span.position) == (feature, position)
            assert span.activation == pytest.approx(activation, rel=1e-4)


def test_the_best_come_first_and_a_feature_that_never_fires_has_none(
    encoded: Encoded, spans: dict[int, list[Span]]
) -> None:
    for feature, rows in spans.items():
        assert len(rows) <= 5
        assert [span.activation for span in rows] == sorted((span.activation for span in rows), reverse=True)
        tops = encoded.profile.top_samples(feature)
        assert bool(rows) == bool(tops)
        if rows:
            assert rows[0].sample_id == tops[0].sample_id
    assert list(spans) == list(range(64))


def test_equal_texts_are_given_once(space: FeatureSpace, tmp_path: Path) -> None:
    """Three samples that share their first turn, at whose end the same features fire."""
    first = Message("user", "The river rose overnight and the fields were under water")
    samples = [Sample((first, Message("assistant", text))) for text in ("Yes.", "No.", "Ok.")]
    found = encode(Corpus.of(samples, form="chat"), space, tmp_path)
    spans = best_spans(found, space.backbone.tokenizer, range(64))
    assert sum(len(found.profile.top_samples(feature)) for feature in range(64)) > sum(map(len, spans.values()))
    for rows in spans.values():
        texts = [span.text.strip() for span in rows]
        assert len(texts) == len(set(texts))


def test_a_span_stays_inside_the_tokens_of_its_message() -> None:
    tokenizer = tiny.tokenizer()
    ids = tokenizer("abcdefghij" * 8, add_special_tokens=False)["input_ids"]
    roles = [0, 1, 1, 1, 0, 1, 2, 2] + [2] * (len(ids) - 8)
    assert cut_span(ids, roles, 3, tokenizer) == (
        tokenizer.decode(ids[1:4]), tokenizer.decode(ids[3]), tokenizer.decode(ids[1:4])
    )  # fmt: skip
    assert cut_span(ids, roles, 6, tokenizer)[0] == tokenizer.decode(ids[6])
    last = len(ids) - 1
    assert cut_span(ids, roles, last, tokenizer)[0] == tokenizer.decode(ids[last + 1 - SPAN_TOKENS :])


def test_the_context_of_a_span_goes_on_to_the_end_of_the_sentence() -> None:
    tokenizer = tiny.tokenizer()
    ids = tokenizer("The river rose overnight. Where does it go?", add_special_tokens=False)["input_ids"]
    text, _, context = cut_span(ids, [1] * len(ids), 2, tokenizer)
    assert context.startswith(text)
    assert context.strip() == "The river rose overnight."


def test_the_text_of_a_span_is_not_tidied_up() -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.clean_up_tokenization_spaces = True
    text = "well , it is n't so . 'm"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert cut_span(ids, [1] * len(ids), len(ids) - 1, tokenizer)[0] == text


def test_text_of_ids_is_what_the_tokenizer_itself_makes_of_them() -> None:
    tokenizer = tiny.tokenizer()
    decode, rng = decoder(tokenizer), np.random.default_rng(0)
    odd = tokenizer("näve \u200d 🜚 -- don't  stop , \t\n", add_special_tokens=True)["input_ids"]
    for ids in ([], odd, *(rng.integers(0, len(tokenizer), 9).tolist() for _ in range(50))):
        assert decode(ids) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)
