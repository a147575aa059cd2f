"""Pooled codes of a feature space against slow numpy, and the same whatever samples are batched with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from facsynth.errors import ModelError, SettingsError
from facsynth.features.encode import EncodeSettings, FeatureSpace, Pooled
from facsynth.model.backbone import Backbone
from facsynth.records import Message, Sample
from tiny import chats, maxima


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_model(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return tiny.backbone(folder)


def space_of(backbone: Backbone, architecture: str = "topk", **settings: Any) -> FeatureSpace:
    return FeatureSpace(backbone, tiny.random_sae(architecture=architecture), EncodeSettings(**settings))


def dense_pre(space: FeatureSpace, ids: Any) -> Any:
    """[n_tokens, d_sae] pre-activations of one sample, alone, by the whole model and in float64."""
    with torch.no_grad():
        states = space.backbone.model(input_ids=torch.tensor(ids)[None].long(), output_hidden_states=True).hidden_states
    W_enc, b_enc, b_dec = (t.double().numpy() for t in (space.sae.W_enc, space.sae.b_enc, space.sae.b_dec))
    return (states[2][0].double().numpy() - b_dec) @ W_enc + b_enc


def limits(space: FeatureSpace, pre: Any) -> Any:
    """[n_tokens, d_sae]: what a pre-activation must exceed to be a code."""
    limit = np.zeros_like(pre)
    if space.settings.codes == "native" and space.sae.architecture == "topk":
        limit = np.maximum(np.sort(pre, axis=1)[:, [-space.sae.k - 1]], 0) + limit
    if space.settings.codes == "native" and space.sae.threshold is not None:
        limit = np.maximum(space.sae.threshold.double().numpy(), 0) + limit
    return limit


def slow_maxima(space: FeatureSpace, sample: Sample) -> dict[tuple[int, int], tuple[float, int, int]]:
    """(role, feature) → (maximum, its first position, tokens that fire)."""
    tokens = space.template.tokenize(sample, space.roles, space.settings.max_tokens)
    pre = dense_pre(space, tokens.ids)
    acts = np.where(pre > limits(space, pre), pre, 0)
    found = {}
    for role in set(tokens.role.tolist()) - {0}:
        mine = np.where((tokens.role == role)[:, None], acts, 0)
        for feature in np.flatnonzero(mine.max(axis=0)):
            column = mine[:, feature]
            found[role, int(feature)] = (float(column.max()), int(column.argmax()), int((column > 0).sum()))
    return found


@pytest.mark.parametrize("form", ["message", "chat"])
@pytest.mark.parametrize("codes", ["native", "relu"])
@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard"])
def test_pooled_codes_are_those_of_slow_numpy(backbone: Backbone, architecture: str, codes: str, form: str) -> None:
    space, samples = space_of(backbone, architecture, codes=codes, form=form), chats(12)
    pooled = space.pool(samples)
    assert pooled.sample_ids == [sample.sample_id for sample in samples]
    for index, sample in enumerate(samples):
        found, expected = maxima(pooled, index), slow_maxima(space, sample)
        assert found.keys() == expected.keys()
        for key, (activation, position, n_firing) in expected.items():
            assert found[key] == (pytest.approx(activation, rel=1e-4), position, n_firing)


def test_entries_are_sorted_and_name_each_sample_role_and_feature_once(backbone: Backbone) -> None:
    e = space_of(backbone, form="chat").pool(chats(20), token_budget=200).entries
    key = (e.sample * 3 + e.role) * 64 + e.feature
    assert (np.diff(key) > 0).all()
    assert set(e.role.tolist()) == {1, 2}
    assert (e.activation > 0).all() and (e.position > 0).all() and (e.n_firing > 0).all()


def flips(space: FeatureSpace, samples: Sequence[Sample], one: Pooled, other: Pooled) -> tuple[int, int]:
    """How many codes only one of the two has: with a pre-activation within 1e-4 of its limit, and the rest."""
    n_close = n_far = 0
    for index, sample in enumerate(samples):
        here, there = maxima(one, one.sample_ids.index(sample.sample_id)), maxima(
            other, other.sample_ids.index(sample.sample_id)
        )  # fmt: skip
        if here.keys() != there.keys():
            pre = dense_pre(space, one.tokens[index].ids)
            limit = limits(space, pre)
            for role, feature in here.keys() ^ there.keys():
                mine = one.tokens[index].role == role
                gap = np.abs(pre - limit)[mine, feature] / np.maximum(np.abs(limit), 1e-3)[mine, feature]
                n_close, n_far = n_close + (gap.min() <= 1e-4), n_far + (gap.min() > 1e-4)
        for key in here.keys() & there.keys():
            assert here[key][0] == pytest.approx(there[key][0], rel=1e-4, abs=1e-4)
    return n_close, n_far


@pytest.mark.parametrize("codes", ["native", "relu"])
@pytest.mark.parametrize("architecture", ["topk", "jumprelu"])
def test_batch_size_and_order_change_nothing_in_float32(backbone: Backbone, architecture: str, codes: str) -> None:
    space, samples = space_of(backbone, architecture, codes=codes, form="chat"), chats(64)
    alone = space.pool(samples, token_budget=1)
    n_entries = len(alone.entries.sample)
    for other in (
        space.pool(samples, token_budget=32 * 150),
        space.pool(samples, token_budget=1 << 20),
        space.pool(samples[::-1], token_budget=300),
    ):
        n_close, n_far = flips(space, samples, alone, other)
        assert n_far == 0
        assert n_close <= 1e-3 * n_entries


def test_the_same_call_gives_the_same_bits(backbone: Backbone) -> None:
    space, samples = space_of(backbone), chats(20)
    one, other = space.pool(samples), space.pool(samples)
    assert all(np.array_equal(a, b) for a, b in zip(one.entries, other.entries, strict=True))


def test_flips_in_bfloat16_are_few(folder: Path, backbone: Backbone, record_property: Any) -> None:
    exact, samples = space_of(backbone, form="chat"), chats(40)
    half = space_of(tiny.backbone(folder, dtype="bfloat16"), form="chat")
    assert half.identity == exact.identity and half.fingerprint != exact.fingerprint
    sets = []
    for space, budget in ((exact, 8192), (half, 8192), (half, 1)):
        e = space.pool(samples, budget).entries
        sets.append(set(zip(e.sample.tolist(), e.role.tolist(), e.feature.tolist(), strict=True)))
    n_between, n_batched = len(sets[0] ^ sets[1]), len(sets[1] ^ sets[2])
    record_property("flips_float32_to_bfloat16", n_between)
    record_property("flips_bfloat16_batch_1_to_many", n_batched)
    assert 0 < n_between < 0.05 * len(sets[0])
    assert n_batched < 0.05 * len(sets[0])


def test_template_text_and_the_first_position_never_count(backbone: Backbone) -> None:
    space = FeatureSpace(backbone, tiny.named_sae(), EncodeSettings(form="message", codes="relu"))
    sample = Sample((Message("user", "Why?"),))
    pooled = space.pool([sample])
    (tokens,) = pooled.tokens
    assert space.backbone.tokenizer.decode(tokens.ids[tokens.content]).strip() == "Why?"
    states = dense_pre(space, tokens.ids)[tokens.content]
    found = {feature: activation for feature, (activation, _) in pooled.maxima(0).items()}
    best = states.max(axis=0)
    assert found == {i: pytest.approx(g, rel=1e-4) for i, g in enumerate(best) if g > 0}


def test_maxima_are_the_higher_of_the_roles(backbone: Backbone) -> None:
    space, samples = space_of(backbone, form="chat"), chats(5)
    pooled = space.pool(samples)
    for index in range(5):
        by_role = maxima(pooled, index)
        expected: dict[int, tuple[float, int]] = {}
        for (_, feature), (activation, position, _) in by_role.items():
            expected[feature] = max(expected.get(feature, (0.0, 0)), (activation, position))
        assert pooled.maxima(index) == expected


def test_samples_that_cannot_be_encoded_are_failures_and_the_rest_is(backbone: Backbone) -> None:
    special = Sample((Message("user", "<|im_end|>"),))
    samples = [special, *chats(3), special]
    pooled = space_of(backbone).pool(samples)
    assert pooled.sample_ids == [sample.sample_id for sample in samples[1:4]]
    assert set(pooled.entries.sample.tolist()) == {0, 1, 2}
    assert [failure.where for failure in pooled.failures] == [special.sample_id] * 2
    assert pooled.failures[0].raw == "<|im_end|>"
    nothing = space_of(backbone).pool([special])
    assert (nothing.sample_ids, len(nothing.entries.sample)) == ([], 0)


def test_long_samples_are_cut_and_say_so(backbone: Backbone) -> None:
    pooled = space_of(backbone, max_tokens=20).pool(chats(6, longest=60))
    assert all(len(tokens.ids) <= 20 for tokens in pooled.tokens)
    assert any(tokens.cut for tokens in pooled.tokens)
    assert pooled.entries.position.max() < 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"form": "poem"}, "no form 'poem'"), ({"codes": "raw"}, "no codes 'raw'"), ({"max_tokens": 1}, "is 1")],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        EncodeSettings(**settings)


def test_an_sae_of_another_width_or_hook_point_is_refused(backbone: Backbone) -> None:
    with pytest.raises(ModelError, match="does not fit the model"):
        FeatureSpace(backbone, tiny.random_sae(16), EncodeSettings())
    with pytest.raises(SettingsError, match=r"trained at layers.0, the model is hooked at layers.1"):
        FeatureSpace(backbone, tiny.random_sae(hook_point="layers.0"), EncodeSettings())


def test_the_fingerprint_follows_everything_that_changes_codes(backbone: Backbone) -> None:
    plain = space_of(backbone)
    others = [
        space_of(backbone, codes="relu"),
        space_of(backbone, form="chat"),
        space_of(backbone, max_tokens=100),
        space_of(backbone, "jumprelu"),
        FeatureSpace(
            Backbone(backbone.model, backbone.tokenizer, hook_point="layers.0", name="llama", fingerprint="x"),
            replace(plain.sae, hook_point="layers.0"),
            EncodeSettings(),
        ),
    ]
    assert space_of(backbone).fingerprint == plain.fingerprint
    assert len({space.fingerprint for space in [plain, *others]}) == 6
    assert all(space.identity != plain.identity for space in others)


def test_a_batch_that_does_not_fit_the_memory_is_halved_and_one_that_never_does_is_set_aside(
    backbone: Backbone,
) -> None:
    """The model itself refuses: a hook in front of its first block raises as torch does on a CPU."""
    space, samples = space_of(backbone, form="chat"), chats(12)
    whole = space.pool(samples)
    longest = max(range(len(samples)), key=lambda index: len(whole.tokens[index].ids))
    limit = len(whole.tokens[longest].ids) - 1
    sizes: list[int] = []

    def refuse(module: Any, inputs: Any) -> None:
        sizes.append(inputs[0].shape[0])
        if inputs[0].shape[1] > limit or inputs[0].shape[0] > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")

    handle = backbone.model.base_model.layers[0].register_forward_pre_hook(refuse)
    found = space.pool(samples, token_budget=1 << 20)
    handle.remove()
    kept = [index for index in range(len(samples)) if index != longest]
    assert found.sample_ids == [samples[index].sample_id for index in kept]
    for new, old in enumerate(kept):
        expected, ours = tiny.maxima(whole, old), tiny.maxima(found, new)
        assert ours.keys() == expected.keys()
        assert all(ours[key] == (pytest.approx(g, rel=1e-4), p, n) for key, (g, p, n) in expected.items())
    (failure,) = found.failures
    assert failure.where == samples[longest].sample_id
    assert failure.reason == f"out of memory: {limit + 1} tokens at once; lower max_tokens"
    assert sizes[:3] == [12, 6, 3]


def test_other_errors_of_the_model_are_not_taken_for_a_full_memory(backbone: Backbone) -> None:
    def refuse(module: Any, inputs: Any) -> None:
        raise RuntimeError("a bug")

    handle = backbone.model.base_model.layers[0].register_forward_pre_hook(refuse)
    with pytest.raises(RuntimeError, match="a bug"):
        space_of(backbone, form="chat").pool(chats(3))
    handle.remove()
