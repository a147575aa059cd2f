"""Drawn spans cover the range of a feature's activations; silent ones do not fire it; no order enters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tiny
from facsynth.features import encoded as encoded_module
from facsynth.features.draw import N_POOL, Drawn, draw
from facsynth.features.encode import EncodeSettings, FeatureSpace
from facsynth.features.encoded import Encoded, encode
from facsynth.text.corpus import Corpus
from tiny import chats

SAMPLES = chats(300, longest=40)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> FeatureSpace:
    backbone = tiny.backbone(tiny.save_model(tmp_path_factory.mktemp("models") / "llama"))
    return FeatureSpace(backbone, tiny.random_sae(), EncodeSettings(form="chat"))


@pytest.fixture(scope="module")
def encoded(space: FeatureSpace, tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    return encode(Corpus.of(SAMPLES, form="chat"), space, tmp_path_factory.mktemp("encoded"))


def thresholds_of(encoded: Encoded) -> np.ndarray:
    return encoded.profile.quantile_edges(0.3)


def drawn(encoded: Encoded, space: FeatureSpace, n: int = 8) -> dict[int, Drawn]:
    return draw(encoded, space.backbone.tokenizer, range(64), thresholds_of(encoded), n_firing=n, n_silent=n)


def test_firing_spans_are_above_their_threshold_and_silent_ones_far_below_it(
    encoded: Encoded, space: FeatureSpace
) -> None:
    pooled = space.pool(SAMPLES)
    index = {sample_id: number for number, sample_id in enumerate(pooled.sample_ids)}
    limits, n_silent = thresholds_of(encoded), 0
    for feature, found in drawn(encoded, space).items():
        assert len(found.firing) <= 8 and len(found.hard) <= 4 and len(found.hard) + len(found.easy) <= 8
        for span in found.firing:
            assert span.activation > limits[feature]
            assert pooled.maxima(index[span.sample_id])[feature][1] == span.position
            assert span.context.startswith(span.text) and span.text.endswith(span.token)
        for span in (*found.hard, *found.easy):
            n_silent += 1
            assert span.activation == 0.0
            assert pooled.maxima(index[span.sample_id]).get(feature, (0.0, 0))[0] <= limits[feature] / 4
        ids = [span.sample_id for span in (*found.firing, *found.hard, *found.easy)]
        assert len(ids) == len(set(ids))
    assert n_silent > 64


def test_hard_spans_end_with_a_token_that_fires_elsewhere(encoded: Encoded, space: FeatureSpace) -> None:
    limits, firing = thresholds_of(encoded), dict[int, set[str]]()
    for index, tokens in enumerate((pooled := space.pool(SAMPLES)).tokens):
        for feature, (activation, position) in pooled.maxima(index).items():
            if activation > limits[feature]:
                firing.setdefault(feature, set()).add(space.backbone.tokenizer.decode(tokens.ids[position]))
    hard = [(feature, span) for feature, row in drawn(encoded, space, 200).items() for span in row.hard]
    assert len(hard) > 20
    for feature, span in hard:
        assert span.token in firing[feature]


def test_a_few_spans_in_a_row_cover_the_range_of_activations(encoded: Encoded, space: FeatureSpace) -> None:
    shares = []
    for found in drawn(encoded, space).values():
        values = np.array([span.activation for span in found.firing])
        if len(values) < 8 or np.ptp(values) == 0:
            continue
        ranks = np.argsort(np.argsort(values))
        for part in (ranks[:4], ranks[4:]):
            shares.append(np.ptp(part) / 7)
    assert len(shares) > 20
    assert np.mean(shares) > 0.82, "four of eight at random: 0.77"


def test_order_and_shards_change_nothing_and_the_seed_does(
    encoded: Encoded, space: FeatureSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoded_module, "SHARD_SAMPLES", 70)
    other = encode(Corpus.of(SAMPLES[::-1], form="chat"), space, tmp_path)
    first, second = drawn(encoded, space), drawn(other, space)
    for feature, found in first.items():
        assert [s.sample_id for s in found.firing] == [s.sample_id for s in second[feature].firing]
        assert [s.context for s in found.easy] == [s.context for s in second[feature].easy]
    limits = thresholds_of(encoded)
    again = draw(encoded, space.backbone.tokenizer, [3], limits, n_firing=8, n_silent=8, rng_seed=1)
    assert [s.sample_id for s in again[3].easy] != [s.sample_id for s in first[3].easy]
    assert len(SAMPLES) <= N_POOL


def test_what_never_fires_has_no_firing_spans(encoded: Encoded, space: FeatureSpace) -> None:
    limits = np.full(64, 2.0**17, np.float32)
    found = draw(encoded, space.backbone.tokenizer, [5], limits, n_firing=8, n_silent=8)[5]
    assert found.firing == found.hard == () and len(found.easy) == 8
