"""Rows to samples and back (text/forms.py, text/layouts.py)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facsynth.errors import SettingsError
from facsynth.records import Message, Sample
from facsynth.text.forms import FORMS, form_roles, to_row, to_sample
from facsynth.text.layouts import Fields, RowError

USER, ASSISTANT = "user", "assistant"


def turns(row, form="chat", **fields):
    return [(m.role, m.content) for m in to_sample(row, form, Fields(**fields)).sample.messages]


QA = [(USER, "Why?"), (ASSISTANT, "Because.")]
MESSAGES = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]

SAME_CONVERSATION = {
    "messages": {"messages": MESSAGES},
    "messages in a table cell": {"messages": json.dumps(MESSAGES)},
    "sharegpt": {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]},
    "prompt, completion": {"prompt": "Why?", "completion": "Because."},
    "prompt, completion as turns": {"prompt": MESSAGES[:1], "completion": MESSAGES[1:]},
    "prompt, chosen": {"prompt": "Why?", "chosen": "Because.", "rejected": "No."},
    "prompt, chosen as turns": {"prompt": MESSAGES[:1], "chosen": MESSAGES[1:], "rejected": []},
    "prompt, chosen whole": {"prompt": "Why?", "chosen": MESSAGES, "rejected": []},
    "hh": {"chosen": "\n\nHuman: Why?\n\nAssistant: Because.", "rejected": "\n\nHuman: Why?\n\nAssistant: No."},
    "hh prompt": {"prompt": "\n\nHuman: Why?\n\nAssistant:", "chosen": "Because."},
    "chosen whole": {"chosen": MESSAGES, "rejected": MESSAGES},
    "messages and chosen": {"conversations": MESSAGES[:1], "chosen": {"from": "gpt", "value": "Because."}},
    "messages that hold chosen": {"prompt": "Why?", "messages": MESSAGES, "chosen": MESSAGES},
    "alpaca": {"instruction": "Why?", "input": "", "output": "Because."},
    "alpaca without input": {"instruction": "Why?", "input": None, "output": "Because."},
    "self-instruct": {"instruction": "Why?", "instances": [{"input": "", "output": "Because."}]},
    "gsm8k": {"question": "Why?", "answer": "Because."},
    "a/b": {"question": "Why?", "answer_matching_behavior": " Because.", "answer": "no", "text": "no"},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Why"}, "?"]}, MESSAGES[1]]},
}


@pytest.mark.parametrize("row", SAME_CONVERSATION.values(), ids=SAME_CONVERSATION)
def test_every_layout_of_one_conversation_is_the_same_sample(row):
    assert turns(row) == QA
    assert turns(row, "message") == QA[:1]
    assert turns(row, "ab") == QA
    assert turns(row, "text") == ([("text", "no")] if "text" in row else [("text", "Why?\n\nBecause.")])
    if "chosen" in row:
        assert turns(row, "preference") == QA


def test_each_form_knows_its_content_roles():
    assert {form: set(form_roles(form)) for form in FORMS} == {
        "message": {"user"},
        "chat": {"user", "assistant"},
        "preference": {"user", "assistant"},
        "ab": {"user", "assistant"},
        "text": {"text"},
    }
    with pytest.raises(SettingsError, match="message, chat, preference, ab, text"):
        form_roles("massage")


def test_the_input_of_an_instruction_follows_it_after_a_blank_line():
    assert turns({"instruction": "Sum", "input": "1 2"}, "message") == [(USER, "Sum\n\n1 2")]
    nested = {"instruction": "Sum", "instances": [{"input": "1 2", "output": "3"}, {"input": "4", "output": "4"}]}
    assert turns(nested) == [(USER, "Sum\n\n1 2"), (ASSISTANT, "3")]


def test_a_lone_text_is_a_user_turn_and_in_form_text_a_text():
    assert turns({"text": "Hello"}, "message") == [(USER, "Hello")]
    assert turns({"text": "Hello"}, "text") == [("text", "Hello")]
    assert turns({"prompt": "Hello", "completion": None}, "message") == [(USER, "Hello")]


def test_system_tools_and_reasoning_keep_their_own_roles_and_form_message_drops_them():
    row = {
        "system": "Be brief.",
        "conversations": [
            {"from": "human", "value": "Weather?"},
            {"role": "assistant", "content": None, "tool_calls": [{"name": "look", "id": None}]},
            {"role": "tool", "content": {"sky": "blue"}},
            {"role": "assistant", "reasoning_content": "Blue is fine.", "content": "<think>\nhm\n</think>\n\nFine."},
            {"role": "user", "content": "Thanks"},
        ],
    }
    assert turns(row) == [
        ("system", "Be brief."),
        (USER, "Weather?"),
        ("tool_call", '[{"name": "look"}]'),
        ("tool", '{"sky": "blue"}'),
        ("reasoning", "Blue is fine."),
        ("reasoning", "hm"),
        (ASSISTANT, "Fine."),
        (USER, "Thanks"),
    ]
    assert turns(row, "message") == [(USER, "Weather?"), (USER, "Thanks")]


def test_history_pairs_of_an_instruction_come_first():
    row = {"instruction": "And 3?", "output": "No.", "history": [["Is 2 even?", "Yes."]]}
    assert turns(row) == [(USER, "Is 2 even?"), (ASSISTANT, "Yes."), (USER, "And 3?"), (ASSISTANT, "No.")]


def test_an_empty_system_turn_is_left_out_but_an_empty_tool_result_stays():
    row = {"messages": [{"role": "system", "content": ""}, *MESSAGES, {"role": "tool", "content": ""}]}
    assert turns(row) == [*QA, ("tool", "")]


@pytest.mark.parametrize(
    ("row", "fields", "found"),
    [
        ({"body": "Why?"}, {"text": "body"}, [(USER, "Why?")]),
        ({"a": {"b": ["x", {"c": "Why?"}]}}, {"text": "a.b.1.c"}, [(USER, "Why?")]),
        ({"a": ["x", "Why?"]}, {"prompt": "a.-1"}, [(USER, "Why?")]),
        ({"a.b": "Why?", "text": "not this"}, {"text": "a.b"}, [(USER, "Why?")]),
        ({"talk": MESSAGES, "text": "not this"}, {"messages": "talk"}, [(USER, "Why?")]),
    ],
)
def test_named_fields_replace_the_known_layouts(row, fields, found):
    assert turns(row, "message", **fields) == found


def test_named_prompt_and_reply_make_a_conversation():
    row = {"q": "Why?", "messages": [{"content": {"answer": "Because."}}], "worse": "No."}
    assert turns(row, prompt="q", completion="messages.0.content.answer") == QA
    assert turns(row, "preference", prompt="q", chosen="messages.0.content.answer", rejected="worse") == QA


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": "a", "prompt": "b"}, "text and prompt are both named"),
        ({"prompt": "a", "completion": "b", "chosen": "c"}, "completion and chosen"),
        ({"completion": "a"}, "without prompt"),
        ({"prompt": "a", "rejected": "b"}, "without chosen"),
        ({"text": ""}, "the name of the text field is empty\nName a field: .*--text-field"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields, message):
    with pytest.raises(SettingsError, match=message):
        Fields(**fields)


@pytest.mark.parametrize(
    ("row", "form", "reason"),
    [
        ("Hello", "message", "the row is a string, not an object"),
        (["Hello"], "message", "a list, not an object"),
        ({"body": "Why?", "n": 1}, "message", "no known layout; the fields are body, n"),
        ({"text": None}, "message", "no known layout"),
        ({"text": 3}, "message", "is a number, not a string"),
        ({"text": " \n"}, "message", r"user turn \(turn 1\) is empty"),
        ({"text": ""}, "text", "the text is empty"),
        ({"text": "\ud800\udfff\0"}, "text", "the text is empty"),
        ({"prompt": "Why?"}, "chat", "form chat needs a turn of the assistant, the row has user"),
        ({"prompt": "Why?"}, "ab", "form ab needs"),
        ({"prompt": "Why?", "completion": "So."}, "preference", "needs a chosen reply"),
        ({"prompt": "Why?", "completion": ""}, "chat", r"assistant turn \(turn 2\) is empty"),
        ({"chosen": "\n\nHuman: Why?\n\nAssistant:"}, "preference", "assistant turn .* is empty"),
        ({"chosen": "Because."}, "preference", "needs a turn of the user"),
        ({"messages": []}, "message", "needs a user turn, the row has none"),
        ({"messages": "Why?"}, "message", "a string that is not JSON"),
        ({"messages": {"role": "user"}}, "message", "an object, not a list"),
        ({"messages": ["Why?"]}, "message", "turn 1 is a string"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "message", "has the role 'narrator'"),
        ({"messages": [{"content": "x"}]}, "message", "has the role None"),
        ({"messages": [{"role": "user"}]}, "message", "is null, not a string"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "message", "not text: image"),
        ({"instruction": "Sum", "input": [1, 2]}, "message", "input is a list"),
        ({"instruction": "Sum", "history": ["x"]}, "message", "history is not a list of"),
    ],
)
def test_a_row_without_the_part_says_why(row, form, reason):
    with pytest.raises(RowError, match=reason):
        to_sample(row, form)


def test_a_named_field_that_is_not_there_names_those_that_are():
    with pytest.raises(RowError, match="no field 'boddy'; the fields are body, id") as caught:
        to_sample({"body": "x", "id": 1}, "message", Fields(text="boddy"))
    assert "--text-field" in caught.value.hint


def test_a_turn_of_no_interest_is_not_looked_at():
    row = {"messages": [MESSAGES[0], {"role": "assistant", "content": {"answer": 1}}]}
    assert turns(row, "message") == QA[:1]
    with pytest.raises(RowError, match="is an object, not a string"):
        turns(row, "chat")


def test_nul_and_lone_surrogates_are_repaired_and_said():
    mapped = to_sample({"text": "a\0b\ud800c\U0001f600"}, "message")
    assert mapped.repaired
    assert mapped.sample.text == "ab\ufffdc\U0001f600"
    assert not to_sample({"text": "a\ufffd\U0001f600"}, "message").repaired


_content = st.text(min_size=1).filter(lambda text: text.replace("\ufffd", "").replace("\0", "").strip())


@st.composite
def _read_samples(draw):
    form = draw(st.sampled_from(FORMS))
    if form == "text":
        return form, {"text": draw(_content)}
    before = draw(st.lists(st.tuples(st.sampled_from(["system", "tool", USER, ASSISTANT]), _content), max_size=3))
    conversation = [*before, (USER, draw(_content)), (ASSISTANT, "<think>hm</think>" * draw(st.booleans()) + "So.")]
    listed = [{"role": role, "content": content} for role, content in conversation]
    if form == "preference":
        return form, {"prompt": listed[:-1], "chosen": listed[-1:]}
    if form == "ab" and draw(st.booleans()):
        return form, {"question": draw(_content), "answer_matching_behavior": draw(_content)}
    return form, {"messages": listed}


@given(_read_samples())
def test_a_sample_written_as_a_row_reads_back_as_itself(form_and_row):
    form, row = form_and_row
    sample = to_sample(row, form).sample
    line = json.dumps(to_row(sample, form), ensure_ascii=False).encode("utf-8")
    mapped = to_sample(json.loads(line.decode("utf-8")), form)
    assert mapped.sample == sample
    assert mapped.sample.sample_id == sample.sample_id
    assert not mapped.repaired


def test_rows_are_written_in_the_layout_of_their_form():
    sample = Sample((Message(USER, "Why?"), Message(ASSISTANT, "Because.")))
    assert to_row(Sample(sample.messages[:1]), "message") == {"messages": MESSAGES[:1]}
    assert to_row(sample, "chat") == {"messages": MESSAGES}
    assert to_row(sample, "preference") == {"prompt": MESSAGES[:1], "chosen": MESSAGES[1:]}
    assert to_row(sample, "ab") == {"question": "Why?", "answer_matching_behavior": "Because."}
    assert to_row(Sample((Message("text", "Hello"),)), "text") == {"text": "Hello"}
    hh_like = Sample((Message(USER, "\n\nHuman: x"), Message(ASSISTANT, "(A)")))
    assert to_row(hh_like, "ab") == {"messages": [{"role": m.role, "content": m.content} for m in hh_like.messages]}


def test_an_unknown_form_is_refused_when_reading_and_writing():
    with pytest.raises(SettingsError):
        to_sample({"text": "x"}, "chats")
    with pytest.raises(SettingsError):
        to_row(Sample((Message(USER, "x"),)), "chats")
