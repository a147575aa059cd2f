"""Runs of words: against sets of tuples, and what order, marks and case must not change."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from facsynth.text.overlap import WordRuns

TEXTS = st.lists(st.sampled_from(["a", "b", "c", "river", "oven"]), max_size=9).map(" ".join)


def by_hand(text: str, n: int) -> list[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    length = min(n, len(words))
    return [tuple(words[i : i + length]) for i in range(len(words) - length + 1)] if words else []


@given(st.lists(TEXTS, max_size=6), TEXTS, st.integers(1, 5))
def test_the_share_is_that_of_tuples_of_words(texts, text, n):
    known = {run for other in texts for run in by_hand(other, n)}
    found = by_hand(text, n)
    wanted = sum(run in known for run in found) / len(found) if found else 0.0
    runs = WordRuns(texts, n)
    assert runs.share(text) == wanted
    assert len(runs) == len(known)


@given(st.lists(TEXTS, min_size=1, max_size=6), st.randoms())
def test_neither_order_nor_taking_them_in_one_by_one_changes_anything(texts, random):
    whole, mixed, grown = WordRuns(texts, 3), WordRuns(random.sample(texts, len(texts)), 3), WordRuns([], 3)
    for text in texts:
        grown.add(text)
    assert all(whole.share(t) == mixed.share(t) == grown.share(t) == (1.0 if t else 0.0) for t in texts)


def test_marks_and_case_do_not_count():
    runs = WordRuns(["The river, it rose: overnight!"], 5)
    assert runs.share("the RIVER it rose - overnight") == 1.0
    assert runs.share("overnight rose it river the") == 0.0
