"""Plainly foreign answers are told; English ones, also those that quote foreign words, are not."""

from __future__ import annotations

import pytest

from facsynth.text.language import other_language


@pytest.mark.parametrize(
    "text",
    ["Recipe quantities, oven temperatures, phone numbers", "", "1, 2, 3", "a word of French such as 'le' or 'les des'",
     "the letter é in names", "Requests for a poem", "Code: `def f(x):`", "numbers of people in a group",
     "the German articles der, die and das at the start of a sentence", "variables w, x, y, z",
     "French articles le, la, les", "Spanish place names: El Paso, Los Angeles",
     "Names like Van der Berg, von Neumann und Co"],
)  # fmt: skip
def test_english_is_english(text: str) -> None:
    assert other_language(text) == ""


@pytest.mark.parametrize(
    ("text", "language"),
    [("Wörter, die mit dem Kochen und der Küche zu tun haben", "German"),
     ("Les mots qui expriment la colère dans une phrase", "French"),
     ("Palabras que expresan la rabia en el texto", "Spanish"),
     ("слова о погоде и о времени", "Cyrillic script"), ("关于烹饪的文字", "Cjk script")],
)  # fmt: skip
def test_another_language_is_named(text: str, language: str) -> None:
    assert other_language(text) == language
