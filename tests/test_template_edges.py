"""Templates at their edges: what is cut at max_tokens, what is refused by name, texts outside chats, prompts, dates."""

from __future__ import annotations

import datetime

import pytest

import tiny
from facsynth.errors import InputError, SettingsError
from facsynth.records import Message
from facsynth.text.template import Template
from test_template import CHAT, LLAMA31, TEMPLATES, chat, decoded, stripped, template_of


@pytest.mark.parametrize("role", ["user", "text"])
@pytest.mark.parametrize("content", ["<|im_end|>", "</s><eos><|eot_id|>"])
@pytest.mark.parametrize("name", ["chatml", "llama3.1"])
def test_a_content_of_special_tokens_only_is_an_input_error(name: str, content: str, role: str) -> None:
    sample = chat((role, content))
    with pytest.raises(InputError, match=f"sample {sample.sample_id} has no content tokens"):
        template_of(name).tokenize(sample, {role}, 4096)


def test_a_content_that_is_trimmed_away_is_an_input_error() -> None:
    with pytest.raises(InputError, match="has no content tokens"):
        template_of("llama3.1").tokenize(chat(("user", " \n ")), {"user"}, 4096)


def test_plain_text_gets_a_bos_where_there_is_one_and_the_first_position_never_counts() -> None:
    text = chat(("text", "The river rose overnight."))
    with_bos = Template(tiny.tokenizer())
    tokens = with_bos.tokenize(text, {"text"}, 4096)
    assert tokens.ids[0] == with_bos.tokenizer.bos_token_id
    assert decoded(with_bos, tokens) == ["The river rose overnight."]
    without = Template(tiny.tokenizer(bos=None, chat_template=None))
    tokens = without.tokenize(text, {"text"}, 4096)
    first = str(without.tokenizer.decode(tokens.ids[:1]))
    assert decoded(without, tokens) == ["The river rose overnight."[len(first) :]]
    assert tokens.role.tolist() == [0] + [1] * (len(tokens.ids) - 1)


def test_plain_text_needs_no_chat_template_and_messages_do() -> None:
    template = Template(tiny.tokenizer(chat_template=None))
    assert not template.has_chat
    assert template.tokenize(chat(("text", "word " * 5)), {"text"}, 100).content.sum() > 4
    with pytest.raises(SettingsError, match="no chat template"):
        template.tokenize(chat(("user", "Hello")), {"user"}, 100)
    with pytest.raises(SettingsError, match="no chat template"):
        template.prompt_ids([Message("user", "Hello")])


def test_a_long_sample_is_cut_at_a_message_boundary() -> None:
    template = template_of("chatml")
    turns = [(("user", "assistant")[index % 2], f"turn {index} " + "word " * 20) for index in range(12)]
    lengths = [len(template.tokenize(chat(*turns[: n + 1]), CHAT, 1 << 20).ids) for n in range(12)]
    for n_kept in (1, 4, 11):
        for max_tokens in (lengths[n_kept - 1], lengths[n_kept] - 1):
            tokens = template.tokenize(chat(*turns), CHAT, max_tokens)
            assert tokens.cut
            assert stripped(decoded(template, tokens)) == stripped(text for _, text in turns[:n_kept])
    assert not template.tokenize(chat(*turns), CHAT, lengths[-1]).cut


def test_a_message_longer_than_max_tokens_loses_its_end() -> None:
    template = template_of("smollm2")
    system, user = ("system", "Be brief."), ("user", "word " * 500)
    for turns in ([user], [user, ("assistant", "Yes.")], [system, user, ("assistant", "Yes.")]):
        tokens = template.tokenize(chat(*turns), CHAT, 100)
        assert tokens.cut and len(tokens.ids) == 100
        (text,) = decoded(template, tokens)
        assert user[1].startswith(text.strip())


def test_a_text_of_200_000_characters_is_cut() -> None:
    template = template_of("chatml")
    text = "The river rose overnight; 250 g of flour. " * 4762
    for role in ("user", "text"):
        tokens = template.tokenize(chat((role, text)), {role}, 4096)
        assert tokens.cut and len(tokens.ids) == 4096
        assert text.startswith("".join(decoded(template, tokens)).strip())


@pytest.mark.parametrize(
    ("name", "role", "rendered"),
    [
        ("chatml", "reasoning", True), ("chatml", "tool_call", True), ("smollm2", "tool", True),
        ("qwen2.5", "tool", True), ("qwen2.5", "reasoning", False), ("qwen2.5", "tool_call", False),
        ("qwen3", "reasoning", False), ("mistral0.2", "tool", False), ("gemma2", "reasoning", False),
        ("zephyr", "tool", False), ("phi3", "reasoning", False),
    ],
)  # fmt: skip
def test_a_role_is_rendered_or_the_sample_is_refused_by_name(name: str, role: str, rendered: bool) -> None:
    template = template_of(name)
    sample = chat(("user", "How warm?"), (role, "look it up"), ("assistant", "Very."))
    if not rendered:
        with pytest.raises(InputError, match=f"refuses roles .*{role}"):
            template.tokenize(sample, CHAT, 4096)
        return
    assert stripped(decoded(template, template.tokenize(sample, CHAT, 4096))) == ["How warm?", "Very."]
    assert stripped(decoded(template, template.tokenize(sample, {role}, 4096))) == ["look it up"]


@pytest.mark.parametrize("content", ["before </think> after", "say <think>x</think> twice"])
def test_a_content_that_the_template_rewrites_is_an_input_error(content: str) -> None:
    with pytest.raises(InputError, match="changes this content"):
        template_of("qwen3").tokenize(chat(("user", "Hello"), ("assistant", content)), CHAT, 4096)


@pytest.mark.parametrize("trouble", ["{{ raise_exception('no cats') }}", "{{ 1 + message['content'] }}"])
def test_a_template_that_fails_on_one_content_is_an_input_error_for_that_sample(trouble: str) -> None:
    picky = "{% for message in messages %}{% if 'cat' in message['content'] %}" + trouble + "{% endif %}"
    template = Template(tiny.tokenizer(chat_template=picky + "<|im_start|>{{ message['content'] }}{% endfor %}"))
    assert decoded(template, template.tokenize(chat(("user", "a dog")), {"user"}, 100)) == ["a dog"]
    with pytest.raises(InputError, match="refuses this sample"):
        template.tokenize(chat(("user", "a cat")), {"user"}, 100)


def test_dates_are_pinned() -> None:
    by_hand = "\nIt is {{ strftime_now('%d %b %Y') }}, {{ date_string }}.\n<|im_start|>{{ messages[0]['content'] }}"
    sample = chat(("user", "What day is it?"))
    for source in (LLAMA31, by_hand):
        template = Template(tiny.tokenizer(chat_template=source))
        text = template.tokenizer.decode(template.tokenize(sample, {"user"}, 4096).ids)
        assert "01 Jan 2025" in text
        assert datetime.date.today().strftime("%d %b %Y") not in text
    assert text == "\nIt is 01 Jan 2025, 01 Jan 2025.\n<|im_start|>What day is it?"


def test_equal_templates_have_equal_fingerprints_and_others_do_not() -> None:
    assert Template(tiny.tokenizer()).fingerprint == Template(tiny.tokenizer("llama3")).fingerprint
    assert len({Template(tiny.tokenizer(chat_template=source)).fingerprint for source in TEMPLATES.values()}) == 9


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_is_the_start_of_the_whole_chat(name: str) -> None:
    template = template_of(name)
    prompt = template.prompt_ids([Message("user", "How warm?")], prefix="Very")
    whole = template.tokenize(chat(("user", "How warm?"), ("assistant", "Very warm.")), CHAT, 4096)
    text = str(template.tokenizer.decode(prompt))
    assert text.endswith("Very")
    assert str(template.tokenizer.decode(whole.ids)).startswith(text.removesuffix("Very").rstrip())


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_turn_of_the_user_begins_where_the_whole_chat_has_it(name: str) -> None:
    template = template_of(name)
    for before in ((), (("system", "Be brief."),)):
        prompt = template.prompt_ids([Message(*turn) for turn in before], role="user")
        whole = template.tokenize(chat(*before, ("user", "How warm?")), CHAT, 4096)
        text, all_of_it = (str(template.tokenizer.decode(ids)) for ids in (prompt, whole.ids))
        assert all_of_it.startswith(f"{text}How warm?")
        assert ("Be brief." in text) == bool(before)


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(SettingsError, match="Slow is a slow one"):
        Template(Slow())
