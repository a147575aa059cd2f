"""What is kept and why not."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from facsynth.records import Reply
from facsynth.synthesis.accept import CleanSettings, acceptance_limit, clean_text, fault, text_sha256, unclean


def reply(text: str, finish_reason: str = "stop", error: str = "") -> Reply:
    return Reply(text, finish_reason, 10, 10, 0.1, error)


def test_acceptance_leaves_a_margin_above_the_threshold_and_above_zero() -> None:
    assert acceptance_limit(2.0) == pytest.approx(2.1)
    assert acceptance_limit(0.0) == 0.05


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ('"How long do eggs keep?"', "How long do eggs keep?"),
        ("Here is a new message:\n\nHow long do eggs keep?", "How long do eggs keep?"),
        ("Message: How long do eggs keep?", "How long do eggs keep?"),
        ("1. How long do eggs keep?", "How long do eggs keep?"),
        ("- “How long do eggs keep?”", "How long do eggs keep?"),
        ("1. 2. hello there friend", "hello there friend"),
        ('"1. Message: How long do eggs keep?"', "How long do eggs keep?"),
        ("How long do eggs keep?", "How long do eggs keep?"),
        ("Here is what I tried:\nnothing helps", "Here is what I tried:\nnothing helps"),
        ('She said "no" to "that"', 'She said "no" to "that"'),
        ('"Yes" or "no"', '"Yes" or "no"'),
        ('"Where does this begin', '"Where does this begin'),
    ],
)
def test_what_small_writers_put_around_a_message_is_taken_off(raw: str, clean: str) -> None:
    assert clean_text(raw) == clean


def test_whole_sentences_of_an_unfinished_reply_are_kept() -> None:
    assert clean_text("How long do eggs keep? I have six (brown) ones. They are", unfinished=True).endswith("ones.")
    assert clean_text("no end of it in", unfinished=True) == ""


BEFORE = (
    "1. ", "12) ", "- ", "• ", "Message: ", "**New question:** ", "text:", "Here is a new message:\n", "Sure thing:\n",
    '"', "“", "'", "‘", "`", "**", " ", "\n", "\x00", "\x85", "\ud800",
)  # fmt: skip
BODIES = ("hello there friend", "How long do eggs keep?", "Yes.", "It is so! 1. And", "", "1", ")")
AFTER = ('"', "”", "'", "’", "`", "**", ".", " ", "\n", "\t", "\x1f")
WRAPPED = st.tuples(
    st.lists(st.sampled_from(BEFORE), max_size=5).map("".join),
    st.sampled_from(BODIES),
    st.lists(st.sampled_from(AFTER), max_size=5).map("".join),
).map("".join)


@given(WRAPPED | st.text(max_size=200), st.booleans())
@example("1. 2. hello there friend", False)
def test_cleaning_twice_is_cleaning_once(text: str, unfinished: bool) -> None:
    once = clean_text(text, unfinished=unfinished)
    assert clean_text(once, unfinished=unfinished) == once == once.strip()
    assert clean_text(once) == once
    assert len(once) <= len(text)


@pytest.mark.parametrize(
    ("given_reply", "shown", "reason"),
    [
        (reply("", "error", "non-finite:\n logits"), "", "writer error: non-finite: logits"),
        (reply("too short"), "", "too short"),
        (reply("", "length"), "", "unfinished"),
        (reply("the cat sat down " * 8), "", "repeats itself"),
        (
            reply("well then one two three four five six seven eight nine ten indeed"),
            "One two  three four five six seven eight nine ten.".replace(".", ""),
            "copies what it was shown",
        ),
        (reply("How long do eggs keep in the fridge?"), "How long do eggs keep in a cellar?", ""),
        (reply("How long do eggs keep?"), "1. So: how LONG do eggs, keep… in a cellar", "copies what it was shown"),
        (reply("How long do eggs keep?"), "Show long do eggs keepers", ""),
        (reply("??? !!! ..."), "anything", ""),
        (reply("I'm sorry, but I can't help with that request."), "", "refusal"),
        (reply("I can't help my dog to sleep at night, what can I do?"), "", ""),
        (reply("How long do eggs keep?<|im_end|>"), "", "remains of a template"),
        (reply("Dear [your name], how long do eggs keep?"), "", "remains of a template"),
        (reply("Write a list [in order] of eggs that keep."), "", ""),
        (
            reply("Wie lange kann man die Eier in dem Keller lassen und ist das nicht zu warm?"),
            "",
            "wrong language: German",
        ),
    ],
)
def test_a_reply_that_is_no_candidate_says_why(given_reply: Reply, shown: str, reason: str) -> None:
    assert fault(given_reply, given_reply.text, shown) == reason


def test_text_hash_sees_every_character_and_takes_any() -> None:
    assert text_sha256("a") != text_sha256("a ")
    assert len(text_sha256("\ud800")) == 64


def test_personal_data_is_rejected_where_it_was_asked_for() -> None:
    texts = {
        "write to anna.b@example.org about the eggs": "e-mail address",
        "my card is 4111 1111 1111 1111, is that safe?": "card number",
        "call me at +44 20 7946 0958 tonight": "phone number",
        "pay to DE89 3704 0044 0532 0130 00 until noon": "IBAN",
        "her number is 078-05-1120, I was told": "social security number",
        "the host 192.168.10.7 does not answer": "IP address",
        "bake for 20 to 25 minutes at 180 degrees, 4 eggs": "",
        "in 1999, 2000 and 2001 it rained 120 days": "",
        "add 12 + 30 + 45 and divide by 1,000,000": "",
    }
    rules = CleanSettings(personal_data=True)
    for text, kind in texts.items():
        assert unclean(text, {""}, rules) == (f"personal data: {kind}" if kind else ""), text
        assert not unclean(text, {""})


def test_length_and_language_go_by_what_was_asked_for() -> None:
    assert unclean("one two three four", {""}, CleanSettings(max_words=3)) == "too long"
    german = "Wie lange kann man die Eier in dem Keller lassen und ist das nicht zu warm?"
    assert unclean(german, {"", "German"}) == ""
