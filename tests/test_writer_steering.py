"""LocalWriter steers the message only, by the sum of its features' vectors and never by more than half a norm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from facsynth.errors import InputError, MismatchError
from facsynth.model import decoding
from facsynth.model.backbone import Backbone
from facsynth.model.sae import Sae
from facsynth.model.writer import LocalWriter, steering_vectors
from facsynth.text.template import Template
from tiny_writer import D_MODEL, PROMPTS, backbone_of, contents, recorded, request, vector, writer_of


@pytest.fixture(scope="module")
def llama() -> Backbone:
    return backbone_of("llama")


@pytest.fixture
def unbounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steering as strong as a test wants it."""
    monkeypatch.setattr(decoding, "STEERED_SHARE", 1e9)


def test_strength_zero_and_no_steering_are_the_same(llama: Backbone) -> None:
    writer = writer_of(llama, {3: vector(0, 50.0)})
    plain, zero, steered = writer.write([request("Hello", steering=s) for s in ((), ((3, 0.0),), ((3, 1.0),))])
    assert plain.text == zero.text != steered.text


@pytest.mark.usefixtures("unbounded")
@pytest.mark.parametrize("token", ["x", "Q"])
def test_a_huge_vector_along_an_unembedding_forces_its_token(token: str) -> None:
    backbone = backbone_of("llama", hook_point="layers.2")
    token_id = backbone.tokenizer.convert_tokens_to_ids(token)
    unembedding = backbone.model.lm_head.weight[token_id].clone()
    writer = writer_of(backbone, {0: 1e4 * unembedding})
    greedy = request("Hi", temperature=0.0, max_tokens=12)
    steered, free = writer.write([replace(greedy, steering=((0, 1.0),)), greedy])
    assert steered.text == token * 12
    assert free.text != steered.text


def test_features_are_summed_and_no_position_is_moved_by_more_than_half_its_norm() -> None:
    layer = torch.nn.Identity()
    residual = torch.randn(2, 5, D_MODEL, generator=torch.Generator().manual_seed(3))
    short, long = vector(4, 0.1), vector(5, 1e4)
    with decoding.steered(layer, torch.stack([short, long])[:, None]):
        moved = layer(residual) - residual
    assert torch.allclose(moved[0], short.expand(5, -1), atol=1e-5)
    assert torch.allclose(moved[1].norm(dim=-1), residual[1].norm(dim=-1) / 2, rtol=1e-4)
    assert torch.allclose(torch.nn.functional.cosine_similarity(moved[1], long[None]), torch.ones(5), atol=1e-4)


def test_a_sample_steered_by_two_features_is_steered_by_their_sum(llama: Backbone) -> None:
    one, two = vector(0, 2.0), vector(1, 2.0)
    asked = request("Hi", temperature=0.0)
    both = writer_of(llama, {1: one, 2: two}).write([replace(asked, steering=((1, 0.5), (2, 1.0)))])
    summed = writer_of(llama, {3: 0.5 * one + two}).write([replace(asked, steering=((3, 1.0),))])
    assert contents(both) == contents(summed)


@pytest.mark.parametrize("prefix", ["", "Well, "])
def test_steering_leaves_the_prompt_untouched_and_starts_where_the_message_is_next(
    llama: Backbone, prefix: str
) -> None:
    writer = writer_of(llama, {3: vector(0, 9.0)})
    requests = [request(text, prefix=prefix, max_tokens=2) for text in PROMPTS]
    with recorded(llama.model.model.layers[2]) as plain:
        writer.write(requests)
    with recorded(llama.model.model.layers[2]) as steered:
        writer.write([replace(r, steering=((3, 1.0),)) for r in requests])
    moved = (plain[0] - steered[0]).norm(dim=-1) > 0.1
    for row, r in zip(moved, requests, strict=True):
        n_all = len(Template(llama.tokenizer).prompt_ids(r.messages, prefix))
        expected = [False] * (n_all - len(prefix) - 1) + [True] * (len(prefix) + 1)
        assert row[-n_all:].tolist() == expected
    assert torch.equal(plain[0][~moved], steered[0][~moved])


def test_a_prefix_that_merges_with_the_prompt_is_steered_from_where_they_part(llama: Backbone) -> None:
    joint = {"": [5, 6, 7], "a": [5, 6, 70, 8]}  # the last token of the prompt is another one before the prefix
    writer = LocalWriter(llama, lambda messages, prefix, role: joint[prefix], {3: vector(0, 9.0)})
    r = request("", prefix="a", max_tokens=1)
    with recorded(llama.model.model.layers[2]) as outputs:
        writer.write([r])
        writer.write([replace(r, steering=((3, 1.0),))])
    moved = (outputs[0] - outputs[1]).norm(dim=-1) > 0.1
    assert moved[:, -4:].tolist() == [[False, True, True, True]]


@pytest.mark.parametrize("size", [float("inf"), 1e38])
def test_logits_that_are_not_finite_fail_their_row_only(llama: Backbone, size: float) -> None:
    writer = writer_of(llama, {3: torch.full((D_MODEL,), size)})
    sound = request("Hello")
    broken, reply = writer.write([request("Hello", steering=((3, 30.0),)), sound])
    assert (broken.text, broken.finish_reason) == ("", "error")
    assert broken.error.startswith("non-finite: ")
    assert contents([reply]) == contents(writer.write([sound]))


def test_a_feature_without_a_vector_is_named(llama: Backbone) -> None:
    with pytest.raises(InputError, match="feature 17, only for 1"):
        writer_of(llama, {3: vector(0, 1.0)}).write([request("Hi", steering=((17, 1.0),))])


def test_the_hook_is_removed_whatever_happens(llama: Backbone) -> None:
    writer = writer_of(llama, {3: vector(0, 1.0)})

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    steered = request("Hi", steering=((3, 1.0),))
    handle = llama.model.model.layers[2].register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        writer.write([steered])
    handle.remove()
    assert not llama.model.model.layers[1]._forward_hooks
    writer.write([steered])
    assert not llama.model.model.layers[1]._forward_hooks


def test_steering_vectors_are_decoder_rows_times_strengths() -> None:
    decoder = torch.arange(12.0).reshape(4, 3)
    sae = Sae(torch.zeros(3, 4), torch.zeros(4), decoder, torch.zeros(3), "standard", "layers.1", "tiny")
    vectors = steering_vectors(sae, {2: 0.5, 0: 0.0})
    assert {feature_id: v.tolist() for feature_id, v in vectors.items()} == {2: [3.0, 3.5, 4.0], 0: [0.0, 0.0, 0.0]}
    with pytest.raises(MismatchError, match="feature 4"):
        steering_vectors(sae, {4: 1.0})


def test_vectors_of_another_width_are_refused(llama: Backbone) -> None:
    with pytest.raises(MismatchError, match="feature 3"):
        writer_of(llama, {3: torch.zeros(D_MODEL + 1)})
