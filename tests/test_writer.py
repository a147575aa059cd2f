"""LocalWriter: steering touches the message only, batches and padding change nothing, everything ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
)

import tiny
from facsynth.errors import InputError, MismatchError, SettingsError
from facsynth.model import decoding
from facsynth.model.backbone import Backbone, load_backbone
from facsynth.model.embedded import embedded_model
from facsynth.model.sae import Sae
from facsynth.model.writer import LocalWriter, steering_vectors
from facsynth.records import Message, Reply, Request
from facsynth.text.template import Template

D_MODEL = 32
END = "<|end|>"
CHAT = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
SHAPE = {"vocab_size": 259, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "initializer_range": 0.3}
WIDE = {
    "hidden_size": D_MODEL,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
CONFIGS = {
    "llama": lambda: LlamaConfig(**SHAPE, **WIDE),
    "mistral": lambda: MistralConfig(**SHAPE, **WIDE, sliding_window=24),
    "gemma2": lambda: Gemma2Config(**SHAPE, **WIDE, sliding_window=24, attn_implementation="eager"),
    "gpt2": lambda: GPT2Config(**SHAPE, n_embd=D_MODEL, n_layer=3, n_head=4, n_positions=512),
    "neox": lambda: GPTNeoXConfig(**SHAPE, **{k: v for k, v in WIDE.items() if k not in ("head_dim",)}),
}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token: ids 3 to 258, after start, pad and end."""
    names = ["<|start|>", "<|pad|>", END, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={name: index for index, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=names[0], pad_token=names[1], eos_token=END)
    fast.chat_template = CHAT
    return fast


def backbone_of(kind: str, hook_point: str = "layers.1", tokenizer: Any = None) -> Backbone:
    torch.manual_seed(0)
    tokenizer = tokenizer or byte_tokenizer()
    config = CONFIGS[kind]()
    config.vocab_size = len(tokenizer)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).requires_grad_(False)
    return Backbone(model, tokenizer, hook_point=hook_point, name=kind, fingerprint=f"{kind} 0")


@pytest.fixture(scope="module")
def llama() -> Backbone:
    return backbone_of("llama")


def writer_of(backbone: Backbone, vectors: dict[int, torch.Tensor] | None = None, batch_size: int = 64) -> LocalWriter:
    return LocalWriter(backbone, Template(backbone.tokenizer).prompt_ids, vectors or {}, batch_size=batch_size)


def request(text: str, **changes: Any) -> Request:
    plain = Request((Message("user", text),), max_tokens=30, temperature=1.0, top_p=0.95, rng_seed=7)
    return replace(plain, **changes)


def contents(replies: list[Reply]) -> list[tuple[Any, ...]]:
    """All of a reply but the time it took."""
    return [(r.text, r.finish_reason, r.prompt_tokens, r.written_tokens, r.error) for r in replies]


@pytest.fixture
def unbounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steering as strong as a test wants it."""
    monkeypatch.setattr(decoding, "STEERED_SHARE", 1e9)


def vector(rng_seed: int, norm: float) -> torch.Tensor:
    direction = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(rng_seed))
    return norm * direction / direction.norm()


PROMPTS = ("Hi", "Name three rivers, please.", "è 🐘", "A much longer question than the others, to be padded against.")


@pytest.mark.parametrize("kind", CONFIGS)
def test_greedy_writing_equals_generate(kind: str) -> None:
    backbone = backbone_of(kind)
    tokenizer = backbone.tokenizer
    writer = writer_of(backbone)
    replies = writer.write([request(text, temperature=0.0, max_tokens=90) for text in PROMPTS])
    for text, reply in zip(PROMPTS, replies, strict=True):
        ids = torch.tensor([Template(tokenizer).prompt_ids((Message("user", text),), "")])
        backbone.model.generation_config.pad_token_id = 1
        out = backbone.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=90, eos_token_id=[0, 1, 2]
        )
        new = out[0, ids.shape[1] :]
        stopped = int(new[-1]) in (0, 1, 2)
        theirs = tokenizer.decode(new, skip_special_tokens=True)
        assert reply.text == (theirs if stopped else theirs.rstrip("\ufffd"))
        assert reply.written_tokens == len(new)
        assert reply.finish_reason == ("stop" if stopped else "length")


def test_batch_order_and_padding_change_nothing(llama: Backbone) -> None:
    vectors = {3: vector(0, 4.0), 5: vector(1, 4.0)}
    steering = [(), ((3, 1.0),), ((5, 0.5), (3, -1.0))]
    requests = [
        request(text, sample_index=index, steering=steering[index % 3], max_tokens=[3, 20, 40, 17][index % 4])
        for index, text in enumerate(PROMPTS * 3)
    ]
    together = contents(writer_of(llama, vectors).write(requests))
    assert contents(writer_of(llama, vectors, batch_size=1).write(requests)) == together
    assert contents(writer_of(llama, vectors, batch_size=5).write(requests[::-1])) == together[::-1]
    assert len(set(together)) == len(requests)


def test_the_same_request_gives_the_same_text_and_another_index_or_rng_seed_another(llama: Backbone) -> None:
    same = request("Hello", sample_index=4)
    others = [replace(same, sample_index=5), replace(same, rng_seed=8)]
    first, second, *rest = writer_of(llama).write([same, same, *others])
    assert first.text == second.text
    assert len({first.text, *(reply.text for reply in rest)}) == 3


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


@contextmanager
def recorded(module: Any) -> Iterator[list[torch.Tensor]]:
    outputs: list[torch.Tensor] = []
    handle = module.register_forward_hook(lambda _, __, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


def test_a_prompt_that_comes_several_times_is_read_once(llama: Backbone) -> None:
    writer = writer_of(llama, {3: vector(0, 9.0)})
    requests = [request(text, sample_index=index) for text in PROMPTS[:2] for index in range(3)]
    with recorded(llama.model.model.layers[0]) as outputs:
        writer.write([*requests, request(PROMPTS[0], steering=((3, 1.0),))])
    assert [len(output) for output in outputs][:2] == [3, 7]


@pytest.mark.usefixtures("unbounded")
def test_a_message_stops_at_its_end_token_and_finished_rows_leave_the_batch() -> None:
    backbone = backbone_of("llama", hook_point="layers.2")
    end = backbone.model.lm_head.weight[backbone.tokenizer.convert_tokens_to_ids(END)].clone()
    writer = writer_of(backbone, {0: 1e4 * end})
    ended = request("Hi", steering=((0, 1.0),), prefix="Done.", temperature=0.0)
    with recorded(backbone.model.model.layers[0]) as outputs:
        first, *others = writer.write([ended, *(request("Hi", sample_index=i, max_tokens=6) for i in range(3))])
    assert (first.text, first.finish_reason, first.written_tokens) == ("Done.", "stop", 1)
    assert [reply.finish_reason for reply in others] == ["length"] * 3
    assert [len(output) for output in outputs] == [2, 3, 3, 3, 3, 3]


def test_what_stops_a_request_ends_its_text_and_is_no_part_of_it(llama: Backbone) -> None:
    (whole,) = writer_of(llama).write([request("Tell me more", max_tokens=40)])
    stop = whole.text[len(whole.text) // 2]
    (cut,) = writer_of(llama).write([request("Tell me more", max_tokens=40, stop=stop)])
    assert cut.text == whole.text.partition(stop)[0]
    assert cut.finish_reason == "stop" and cut.written_tokens < whole.written_tokens


def test_the_prefix_opens_the_text_and_is_not_counted_as_written(llama: Backbone) -> None:
    (reply,) = writer_of(llama).write([request("Hi", prefix="Dear Sir,\n", max_tokens=5)])
    assert reply.text.startswith("Dear Sir,\n")
    assert reply.written_tokens <= 5
    assert reply.prompt_tokens == len("Xuser\nHiX\nXassistant\n") + len("Dear Sir,\n")


@pytest.mark.usefixtures("unbounded")
def test_a_space_between_prefix_and_message_is_kept_where_decoding_eats_the_first() -> None:
    tokenizer = tiny.tokenizer("sentencepiece")
    backbone = backbone_of("llama", hook_point="layers.2", tokenizer=tokenizer)
    token_id = next(i for token, i in sorted(tokenizer.get_vocab().items()) if token.startswith("▁t"))
    word = tokenizer.decode([token_id])
    writer = writer_of(backbone, {0: 1e4 * backbone.model.lm_head.weight[token_id].clone()})
    plain = request("Hi", steering=((0, 1.0),), temperature=0.0, max_tokens=2)
    replies = writer.write([plain, replace(plain, prefix="Dear")])
    assert [reply.text for reply in replies] == [f"{word} {word}", f"Dear {word} {word}"]


def test_a_prefix_that_merges_with_the_prompt_is_steered_from_where_they_part(llama: Backbone) -> None:
    joint = {"": [5, 6, 7], "a": [5, 6, 70, 8]}  # the last token of the prompt is another one before the prefix
    writer = LocalWriter(llama, lambda messages, prefix: joint[prefix], {3: vector(0, 9.0)})
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


def test_a_request_longer_than_the_model_fails_alone(llama: Backbone) -> None:
    long, short = writer_of(llama).write([request("x" * 500), request("Hello")])
    assert long.error.startswith("too long: ")
    assert short.error == ""
    assert short.written_tokens > 0


def test_a_feature_without_a_vector_is_named(llama: Backbone) -> None:
    with pytest.raises(InputError, match="feature 17, only for 1"):
        writer_of(llama, {3: vector(0, 1.0)}).write([request("Hi", steering=((17, 1.0),))])


@pytest.mark.parametrize(
    "wrong", [{"max_tokens": 0}, {"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}, {"rng_seed": -1}]
)
def test_a_sampling_setting_that_means_nothing_is_refused(llama: Backbone, wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        writer_of(llama).write([request("Hi", **wrong)])


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


def test_the_identity_names_what_changes_replies(llama: Backbone) -> None:
    vectors = {3: vector(0, 1.0), 5: vector(1, 1.0)}
    identity = writer_of(llama, vectors).identity
    assert writer_of(backbone_of("llama"), dict(reversed(vectors.items())), batch_size=3).identity == identity
    other = {
        writer_of(llama).identity,
        writer_of(llama, {3: vectors[5], 5: vectors[3]}).identity,
        writer_of(backbone_of("llama", hook_point="layers.0"), vectors).identity,
        writer_of(backbone_of("neox"), vectors).identity,
    }
    assert len(other | {identity}) == 5


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


@pytest.mark.slow
def test_the_embedded_model_writes_a_sentence() -> None:
    cache = Path(os.environ.get("FACSYNTH_CACHE", Path.home() / ".cache" / "facsynth"))
    backbone = load_backbone(embedded_model(cache), hook_point="layers.14", cache=cache)
    asked = [
        request("What is the capital of France?", temperature=0.0),
        request("Write one sentence about the sea.", temperature=0.7, max_tokens=60),
    ]
    capital, sea = writer_of(backbone).write(asked)
    assert "Paris" in capital.text
    assert capital.finish_reason == "stop"
    assert len(sea.text.split()) > 4
