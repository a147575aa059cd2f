"""The content mask over the kinds of templates there are: what it marks decodes to the messages, nothing else does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

import tiny
from facsynth.records import Message, Sample
from facsynth.text.template import Template, Tokens

# Shortened to the parts that decide what is rendered; the control flow is that of the originals.
QWEN25 = (
    "{%- if tools %}{{- '<|im_start|>system\\n' }}{{- tools | tojson }}{{- '<|im_end|>\\n' }}{%- else %}"
    "{%- if messages[0]['role'] == 'system' %}"
    "{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{%- endif %}{%- endif %}"
    "{%- for message in messages %}"
    "{%- if (message.role == 'user') or (message.role == 'system' and not loop.first) or "
    "(message.role == 'assistant' and not message.tool_calls) %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- elif message.role == 'tool' %}"
    "{%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != 'tool') %}{{- '<|im_start|>user' }}{%- endif %}"
    "{{- '\\n<tool_response>\\n' }}{{- message.content }}{{- '\\n</tool_response>' }}"
    "{%- if loop.last or (messages[loop.index0 + 1].role != 'tool') %}{{- '<|im_end|>\\n' }}{%- endif %}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
QWEN3 = (
    "{%- if messages[0].role == 'system' %}"
    "{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- endif %}"
    "{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}"
    "{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}"
    "{%- if ns.multi_step_tool and message.role == 'user' and message.content is string and "
    "not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}"
    "{%- set ns.multi_step_tool = false %}{%- set ns.last_query_index = index %}{%- endif %}{%- endfor %}"
    "{%- for message in messages %}"
    "{%- if message.content is string %}{%- set content = message.content %}"
    "{%- else %}{%- set content = '' %}{%- endif %}"
    "{%- if (message.role == 'user') or (message.role == 'system' and not loop.first) %}"
    "{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}"
    "{%- elif message.role == 'assistant' %}{%- set reasoning_content = '' %}"
    "{%- if message.reasoning_content is string %}{%- set reasoning_content = message.reasoning_content %}"
    "{%- else %}{%- if '</think>' in content %}"
    "{%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}{%- endif %}"
    "{%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}"
    "{{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' "
    "+ content.lstrip('\\n') }}"
    "{%- else %}{{- '<|im_start|>' + message.role + '\\n' + content }}{%- endif %}{{- '<|im_end|>\\n' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
LLAMA31 = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set system_message = '' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}{{- 'Cutting Knowledge Date: December 2023\\n' }}"
    "{{- 'Today Date: ' + date_string + '\\n\\n' }}{{- system_message }}{{- '<|eot_id|>' }}"
    "{%- for message in messages %}"
    "{%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim "
    "+ '<|eot_id|>' }}"
    "{%- elif message.role == 'tool' or message.role == 'ipython' %}"
    "{{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}{{- message.content | tojson }}{{- '<|eot_id|>' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
MISTRAL02 = (
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}"
    "{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}"
    "{{- bos_token }}{%- for message in loop_messages %}"
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{- raise_exception('After the optional system message, conversation roles must alternate') }}{%- endif %}"
    "{%- if message['role'] == 'user' %}{%- if loop.first and system_message is defined %}"
    "{{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}"
    "{%- else %}{{- ' [INST] ' + message['content'] + ' [/INST]' }}{%- endif %}"
    "{%- elif message['role'] == 'assistant' %}{{- ' ' + message['content'] + eos_token}}"
    "{%- else %}{{- raise_exception('Only user and assistant roles are supported') }}{%- endif %}{%- endfor %}"
)
GEMMA2 = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ZEPHYR = (  # also the older Phi form: headers that are ordinary text
    "{% for message in messages %}\n"
    "{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}"
    "\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n"
    "{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
PHI3 = (
    "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}"
    "{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}"
    "{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
TEMPLATES = {
    "chatml": tiny.CHATML, "qwen2.5": QWEN25, "qwen3": QWEN3, "llama3.1": LLAMA31, "mistral0.2": MISTRAL02,
    "gemma2": GEMMA2, "smollm2": SMOLLM2, "zephyr": ZEPHYR, "phi3": PHI3,
}  # fmt: skip
ALTERNATING = ("mistral0.2", "gemma2")
CHAT = frozenset({"user", "assistant"})
ALL = frozenset({"system", "user", "assistant"})

_templates: dict[tuple[str, str], Template] = {}


def template_of(name: str, kind: str = "llama3") -> Template:
    if (name, kind) not in _templates:
        _templates[name, kind] = Template(tiny.tokenizer(kind, TEMPLATES[name]))
    return _templates[name, kind]


def chat(*turns: tuple[str, str]) -> Sample:
    return Sample(tuple(Message(role, content) for role, content in turns))


def decoded(template: Template, tokens: Tokens, role: int | None = None) -> list[str]:
    """The text of each unbroken run of content tokens (of one role)."""
    marked = tokens.content if role is None else tokens.role == role
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(int)))
    runs = [tokens.ids[a:b] for a, b in edges.reshape(-1, 2)]
    return [str(template.tokenizer.decode(run)) for run in runs]


def stripped(texts: Any) -> list[str]:
    return [text.strip() for text in texts]


def squeezed(texts: Any) -> str:
    """Without white space and boundaries: where turns were joined, the blank line between them belongs to neither."""
    return "".join("".join(texts).split())


def everywhere(test: Any) -> Any:
    both = pytest.mark.parametrize("kind", tiny.KINDS)(test)
    return pytest.mark.parametrize("name", TEMPLATES)(both)


@everywhere
@pytest.mark.parametrize(
    "turns",
    [
        [("user", "How long do eggs keep?")],
        [("user", "How long do eggs keep?"), ("assistant", "About three weeks in the fridge.")],
        [("system", "Be brief."), ("user", "Why?"), ("assistant", "Because."), ("user", "Now?"), ("assistant", "No.")],
        [("user", "Grüße aus 東京 🎉👩‍👩‍👧, naïve café e\u0301 \u200f\u202e"), ("assistant", "Добрый день")],
        [("user", "one\r\ntwo\r\n\r\n\tthree"), ("assistant", "a  b\n\n\n  c")],
        [("user", "  \n leading and trailing \n\n "), ("assistant", "\n\n indented\n  "), ("user", " x")],
        [("user", "\n\nsystem\nuser:\nassistant\n### [INST] [/INST] <|user|>\n{{ messages }} {% if %} \ue0000\ue001")],
        [("user", "#"), ("assistant", ".")],
        [("user", "\n\n a "), ("assistant", "\n\n b\n \n")],
    ],
)  # fmt: skip
def test_masked_tokens_decode_to_the_contents(name: str, kind: str, turns: list[tuple[str, str]]) -> None:
    template = template_of(name, kind)
    if name in ALTERNATING and turns[0][0] == "system":  # there is no system turn: it opens the user's
        counted = decoded(template, template.tokenize(chat(*turns), ALL, 4096))
        assert squeezed(counted) == squeezed(text for _, text in turns)
        return
    tokens = template.tokenize(chat(*turns), ALL, 4096)
    assert stripped(decoded(template, tokens)) == stripped(text for _, text in turns)
    assert not tokens.cut and tokens.merged == 0
    users = decoded(template, template.tokenize(chat(*turns), {"user"}, 4096))
    assert stripped(users) == stripped(text for role, text in turns if role == "user")
    assert not tokens.content[0]
    assert not np.isin(tokens.ids[tokens.content], template.special_ids).any()


contents = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(lambda text: text.strip())


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=100)
@given(data=st.data())
def test_masked_tokens_decode_to_any_contents(name: str, data: st.DataObject) -> None:
    template = template_of(name, data.draw(st.sampled_from(["gpt2", "llama3"])))
    texts = data.draw(st.lists(contents, min_size=1, max_size=4))
    turns = [(("user", "assistant")[index % 2], text) for index, text in enumerate(texts)]
    tokens = template.tokenize(chat(*turns), CHAT, 4096)
    assert stripped(decoded(template, tokens)) == stripped(texts)
    assert stripped(decoded(template, tokens, role=1)) == stripped(texts[1::2])
    assert stripped(decoded(template, tokens, role=2)) == stripped(texts[::2])


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("name", ALTERNATING)
def test_consecutive_user_turns_are_merged_and_counted_where_turns_must_alternate(name: str, kind: str) -> None:
    template = template_of(name, kind)
    turns = chat(("user", "First."), ("user", " Second?\n"), ("assistant", "Yes."), ("user", "a"), ("user", "b"))
    tokens = template.tokenize(turns, {"user"}, 4096)
    assert tokens.merged == 2
    assert squeezed(decoded(template, tokens)) == "First.Second?ab"
    assert not tokens.cut


@pytest.mark.parametrize("name", sorted(TEMPLATES.keys() - set(ALTERNATING)))
def test_consecutive_user_turns_stay_apart_where_the_template_takes_them(name: str) -> None:
    template = template_of(name)
    tokens = template.tokenize(chat(("user", "First."), ("user", "Second?")), {"user"}, 4096)
    assert tokens.merged == 0
    assert stripped(decoded(template, tokens)) == ["First.", "Second?"]


def test_a_system_text_in_the_users_turn_counts_only_where_asked_for() -> None:
    template = template_of("gemma2")
    sample = chat(("system", "Be brief."), ("user", "Why?"), ("assistant", "Because."))
    assert stripped(decoded(template, template.tokenize(sample, {"user"}, 4096))) == ["Why?"]
    assert stripped(decoded(template, template.tokenize(sample, {"system"}, 4096))) == ["Be brief."]
    assert template.tokenize(sample, {"user"}, 4096).merged == 1


@everywhere
def test_special_tokens_in_a_content_never_count(name: str, kind: str) -> None:
    template = template_of(name, kind)
    sample = chat(("user", "a<|im_end|>\n<|im_start|>user\nb</s><eos>c<end_of_turn>"), ("assistant", "<|eot_id|>d<s>"))
    tokens = template.tokenize(sample, CHAT, 4096)
    assert not np.isin(tokens.ids[tokens.content], template.special_ids).any()
    assert squeezed(decoded(template, tokens)) == "auserbcd"


def test_white_space_tokens_count_where_a_tokenizer_trims_offsets() -> None:
    tokenizer = tiny.tokenizer("gpt2")
    tokenizer._tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    template = Template(tokenizer)
    tokens = template.tokenize(chat(("user", "a   b\n\n  c")), {"user"}, 100)
    assert decoded(template, tokens) == ["a   b\n\n  c"]
