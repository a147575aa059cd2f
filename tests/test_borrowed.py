"""A base model measures chats through the template of its chat sibling, and through no other's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

import tiny
from facsynth.assemble import open_space
from facsynth.errors import MismatchError, SettingsError
from facsynth.records import Message, Sample
from facsynth.settings import parse_settings
from facsynth.text.borrowed import check_same_tokens
from test_template import GEMMA2, LLAMA31, MISTRAL02
from tiny_cli import Parts, facsynth

CHAT = Sample((Message("user", "Where does the river go?"), Message("assistant", "To the sea, over the fields.")))


@pytest.fixture(scope="module")
def tiny_parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """With a base model, which has no chat template, and two chat siblings of it."""
    parts = Parts(tmp_path_factory.mktemp("parts"))
    tiny.save_model(parts.folder / "base", n_blocks=2, tokens=tiny.tokenizer(chat_template=None))
    for name, template in (("chat", tiny.CHATML), ("mistral", MISTRAL02)):
        tiny.tokenizer(chat_template=template).save_pretrained(parts.folder / name)
    return parts


def space_of(parts: Parts, chat: str | None, form: str = "chat") -> Any:
    raw = {
        **parts.settings,
        "model": {"path": str(parts.folder / "base"), "dtype": "float32"}
        | ({"chat_template_from": str(parts.folder / chat)} if chat else {}),
        "data": {**parts.settings["data"], "form": form},
    }
    return open_space(parse_settings(raw, "test"), parts.folder / "cache")


def test_roles_are_as_in_the_chat_model_and_ids_are_those_of_the_base_model(tiny_parts: Parts) -> None:
    space, plain = space_of(tiny_parts, "chat"), space_of(tiny_parts, None)
    tokens = space.template.tokenize(CHAT, space.roles, 200)
    assert plain.backbone.tokenizer.decode(tokens.ids) == space.template.render(CHAT.messages)
    for number, message in enumerate(reversed(CHAT.messages), start=1):  # assistant, user
        assert plain.backbone.tokenizer.decode(tokens.ids[tokens.role == number]) == message.content
    (pooled,) = (space.pool([CHAT]),)
    assert len(pooled.entries.sample)
    assert not pooled.failures
    with pytest.raises(SettingsError, match=r"no chat template.*\n.*model.chat_template_from \(--chat-template-from\)"):
        plain.pool([CHAT])


def test_the_space_is_another_one_with_another_template(tiny_parts: Parts) -> None:
    spaces = [space_of(tiny_parts, name, "text") for name in (None, "chat", "mistral")]
    assert len({space.identity["template"] for space in spaces}) == 3
    assert len({space.identity["model"] for space in spaces}) == 1
    assert len({space.fingerprint for space in spaces}) == 3
    with_other_end = tiny.tokenizer(chat_template=MISTRAL02)
    with_other_end.eos_token = "<|im_end|>"
    with_other_end.save_pretrained(tiny_parts.folder / "ends")
    assert space_of(tiny_parts, "ends").identity["template"] != spaces[2].identity["template"]


def check(chat: Any, own: Any) -> None:
    check_same_tokens(chat, own, "org/model-chat", "org/model")


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_equal_tokenizers_agree_whatever_the_template(kind: str) -> None:
    for template in (tiny.CHATML, LLAMA31, MISTRAL02, GEMMA2):
        check(tiny.tokenizer(kind, chat_template=template), tiny.tokenizer(kind, chat_template=None))


def test_a_token_that_the_base_model_lacks_is_named() -> None:
    chat = tiny.tokenizer()
    chat.add_tokens([AddedToken("<|think|>", special=True)])
    with pytest.raises(MismatchError) as told:
        check(chat, tiny.tokenizer(chat_template=None))
    first, *rest = str(told.value).splitlines()
    assert first == (
        f"org/model cannot read chats of org/model-chat: token {len(chat) - 1} is '<|think|>' there and no token here"
    )
    assert rest == [
        "Take the chat model that was made from this base model, or measure texts: data.form: text (--form text)."
    ]


def test_another_vocabulary_is_refused_by_its_first_difference() -> None:
    with pytest.raises(
        MismatchError, match=r"cannot read chats of org/model-chat: token \d+ is '.*' there and '.*' here"
    ):
        check(tiny.tokenizer("sentencepiece"), tiny.tokenizer("gpt2", chat_template=None))


def renamed(tokens: Any, old: str, new: str) -> Any:
    """The tokenizer with a special token of another name, as reserved ones are in siblings."""
    state = json.loads(tokens.backend_tokenizer.to_str())
    for added in state["added_tokens"]:
        added["content"] = new if added["content"] == old else added["content"]
    made = type(tokens)(tokenizer_object=type(tokens.backend_tokenizer).from_str(json.dumps(state)))
    made.chat_template = tokens.chat_template
    return made


def test_special_tokens_that_no_chat_uses_may_have_other_names_and_those_it_uses_may_not() -> None:
    chat, base = tiny.tokenizer(), tiny.tokenizer(chat_template=None)
    check(chat, renamed(base, "<|eot_id|>", "<|reserved_7|>"))
    with pytest.raises(MismatchError, match=r"token \d+ \('<\|im_start\|>'\) there is token \d+ \('<'\) here"):
        check(chat, renamed(base, "<|im_start|>", "<|reserved_7|>"))


def test_other_splits_of_equal_vocabularies_are_found_by_a_text() -> None:
    chat, base = tiny.tokenizer(), tiny.tokenizer(chat_template=None)
    state = json.loads(base.backend_tokenizer.to_str())
    state["model"]["merges"] = state["model"]["merges"][:40]
    other = type(base)(tokenizer_object=type(base.backend_tokenizer).from_str(json.dumps(state)))
    with pytest.raises(MismatchError, match=r"token \d+ \('.*'\) there is token \d+ \('.*'\) here"):
        check(chat, other)


def test_a_chat_model_without_a_template_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="no chat template"):
        check(tiny.tokenizer(chat_template=None), tiny.tokenizer(chat_template=None))


def test_the_command_line_takes_it(tiny_parts: Parts, tmp_path: Path) -> None:
    base = [
        "--anchor",
        tiny_parts.anchor,
        *tiny_parts.space,
        "--model",
        tiny_parts.folder / "base",
        "--relevance",
        "all",
    ]
    bare = facsynth("coverage", tiny_parts.seed, *base)
    assert (bare.code, "--chat-template-from" in bare.stderr) == (2, True), bare
    words = [*base, "--chat-template-from", tiny_parts.folder / "chat"]
    done = facsynth("coverage", tiny_parts.seed, *words, "-o", tmp_path / "run")
    assert done.code == 0, done.stderr
    assert str(tiny_parts.folder / "chat") in (tmp_path / "run" / "facsynth.yaml").read_text("utf-8")
    assert facsynth("encode", tiny_parts.seed, *words[2:-4], *words[-2:], "-o", tmp_path / "encoded").code == 0
    gone = facsynth("coverage", tiny_parts.seed, *base, "--chat-template-from", "owner/none")
    assert (gone.code, "no model owner/none" in gone.stderr) == (1, True)
    other = tmp_path / "other"
    tiny.tokenizer("sentencepiece").save_pretrained(other)
    done = facsynth("coverage", tiny_parts.seed, *base, "--chat-template-from", other)
    assert (done.code, f"cannot read chats of {other}" in done.stderr) == (1, True)


def test_a_run_writes_with_the_borrowed_template(tiny_parts: Parts, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    text = tiny_parts.changed("model", "chat_template_from", str(tiny_parts.folder / "chat"))
    config.write_text(text.replace(str(tiny_parts.model), str(tiny_parts.folder / "base")), encoding="utf-8")
    done = facsynth("run", config, "-o", tmp_path / "run", "--features", "1")
    assert done.code == 0, done.stderr
    assert facsynth("verify", tmp_path / "run").code == 0
