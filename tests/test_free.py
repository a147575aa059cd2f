"""What is said of a feature without asking anybody: its tokens, and why it is of no use to write for."""

from __future__ import annotations

import pytest

from facsynth.meaning.free import firing_tokens, screened
from facsynth.records import Span


def span(before: str, token: str, after: str = " and so on", activation: float = 1.0) -> Span:
    return Span(1, before + token, token, activation, "0" * 16, 3, before + token + after)


def test_tokens_are_summed_by_their_activations() -> None:
    spans = [span("a", " oven", activation=2.0), span("b", "Oven", activation=2.0), span("c", " stove", activation=3.0),
             span("d", "\n", activation=0.5)]  # fmt: skip
    assert firing_tokens(spans) == '"oven", "stove", "⏎"'
    assert firing_tokens(spans, 1) == '"oven"'


WORDS = [" oven", " river", " bank", " dog", " seven", " train"]


@pytest.mark.parametrize(
    ("spans", "reason"),
    [
        ([span(f"text {i}", mark) for i, mark in enumerate([".", ",", "\n\n", " (", "?!", "…"])], "punctuation"),
        ([span("", word) for word in WORDS], "the first token, whatever it is"),
        ([span(f"text {i}", word, "") for i, word in enumerate(WORDS)], "the last token, whatever it is"),
        ([span("", "Generate", f" text {i}") for i in range(6)], ""),
        ([span(f"text {i}", " oven", "") for i in range(6)], ""),
        ([span(f"text {i}", word) for i, word in enumerate(WORDS)], ""),
        ([span(f"text {i}", mark) for i, mark in enumerate([".", ",", " a", " (", "?!", " b"])], ""),
        ([span("a", "."), span("b", ",")], ""),
    ],
)
def test_what_fires_anywhere_is_screened_and_a_word_that_stands_there_often_is_not(
    spans: list[Span], reason: str
) -> None:
    assert screened(spans, 1.0) == (f"fires on {reason}" if reason else "")


def test_the_same_text_again_and_again_is_boilerplate() -> None:
    spans = [span(f"text {i}", word) for i, word in enumerate(WORDS)]
    assert screened(spans[:2], 0.1) == "fires on the same few texts again and again"
    assert screened(spans, 0.2) == ""


def test_signs_that_mean_something_are_no_punctuation() -> None:
    assert screened([span(f"text {i}", sign) for i, sign in enumerate(["$", "€", "😀", "+", "字", "="])], 1.0) == ""
