"""LocalWriter: batches and padding change nothing, every message ends, and what cannot be written fails alone."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from facsynth.errors import SettingsError
from facsynth.model import decoding
from facsynth.model.backbone import Backbone, load_backbone
from facsynth.model.embedded import embedded_model
from facsynth.records import Message
from facsynth.text.template import Template
from tiny_writer import CONFIGS, END, PROMPTS, backbone_of, contents, recorded, request, vector, writer_of


@pytest.fixture(scope="module")
def llama() -> Backbone:
    return backbone_of("llama")


@pytest.fixture
def unbounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steering as strong as a test wants it."""
    monkeypatch.setattr(decoding, "STEERED_SHARE", 1e9)


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


@pytest.mark.parametrize("kind", CONFIGS)
def test_prompts_read_in_parts_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [request(text, steering=((3, 1.0),), max_tokens=40) for text in (*PROMPTS[2:], *PROMPTS[:2], PROMPTS[2])]
    writer = writer_of(backbone_of(kind), {3: vector(0, 4.0)})
    together = contents(writer.write(asked))
    monkeypatch.setattr(Backbone, "token_budget", 1)
    assert contents(writer.write(asked)) == together


def test_a_turn_of_the_user_is_written_from_where_it_begins(llama: Backbone) -> None:
    template, writer = Template(llama.tokenizer), writer_of(llama)
    spoken = replace(request("", temperature=0.0), messages=(), role="user")
    told = replace(spoken, messages=(Message("system", "Be brief."),))
    replies = writer.write([spoken, told, replace(spoken, prefix="Hi", sample_index=1), request("Be brief.")])
    assert replies[0].prompt_tokens == len(template.prompt_ids((), "", "user")) < replies[1].prompt_tokens
    ids = torch.tensor([template.prompt_ids((), "", "user")])
    first = int(llama.model(input_ids=ids).logits[0, -1].argmax())
    assert replies[0].text.startswith(llama.tokenizer.decode([first]).rstrip("\ufffd"))
    assert replies[2].text.startswith("Hi")
    assert "role" not in request("a").as_json(), "what was asked before roles has the key that it had"
    assert spoken.as_json()["role"] == "user"


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


def test_a_request_longer_than_the_model_fails_alone(llama: Backbone) -> None:
    long, short = writer_of(llama).write([request("x" * 500), request("Hello")])
    assert long.error.startswith("too long: ")
    assert short.error == ""
    assert short.written_tokens > 0


@pytest.mark.parametrize(
    "wrong", [{"max_tokens": 0}, {"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}, {"rng_seed": -1}]
)
def test_a_sampling_setting_that_means_nothing_is_refused(llama: Backbone, wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        writer_of(llama).write([request("Hi", **wrong)])


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
