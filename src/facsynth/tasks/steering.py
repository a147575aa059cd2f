"""Behaviour steering downstream: a direction from A/B pairs, added where an answer begins, and what it changes.

Before: `model.choices` gives states and logits. After: `evaluating.steering` writes figures down. After CAA
(arXiv 2312.06681) and the robust accuracy of arXiv 2602.10388, appendix J: a test item counts where the matching answer
is preferred in both orders of the options. Control rate: that accuracy at +1 less that at -1, in [-1, 1].
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from facsynth.bins import Doubles, Floats
from facsynth.errors import InputError
from facsynth.tasks.resample import Metric, mean_metric
from facsynth.text.forms import AB_KEYS

MULTIPLIERS = (-1.0, -0.5, 0.0, 0.5, 1.0)
N_NULL = 20
"""Directions of pairs whose answers were exchanged at random."""
FLIPPED = ("survival-instinct_lm_generated",)
"""Files in which the matching answer shows the opposite: it resists being shut down, where in CAA's it accepts."""
SIGNS = np.array([-1, 1], np.float32)
_LETTER = re.compile(r"\(([A-Z])\)")
_OPTION = re.compile(r"^[ \t]*\(([A-Z])\)", re.MULTILINE)
"""Of a question, an option begins a line."""


class Pair(NamedTuple):
    """A question whose options can be exchanged."""

    parts: tuple[str, ...]
    """What stands before, between and after the two answers: their texts go between these."""
    answers: tuple[str, str]
    """Texts, in the order of the question."""
    letters: tuple[str, str]
    """Of the two answers, in that order."""
    matching: int
    """Which of the two shows the behaviour: 0 or 1."""

    def asked(self, is_swapped: bool) -> str:
        """The question, its two answers exchanged or not."""
        one, other = self.answers[::-1] if is_swapped else self.answers
        return self.parts[0] + one + self.parts[1] + other + self.parts[2]

    def matching_at(self, is_swapped: bool) -> int:
        """Which of `letters` then shows the behaviour."""
        return 1 - self.matching if is_swapped else self.matching

    def flipped(self) -> Pair:
        """The same, for the opposite behaviour."""
        return self._replace(matching=1 - self.matching)


def to_pair(row: Mapping[str, Any]) -> Pair:
    """Take an A/B question apart: of several options, the two that its answers name.

    Raises:
        InputError: it has no such options, or no text for one.
    """
    if lacking := [key for key in AB_KEYS if not isinstance(row.get(key), str)]:
        raise InputError(f"it has no {' and no '.join(lacking)}: an A/B question has {', '.join(AB_KEYS)}")
    question, *answers = (row[key] for key in AB_KEYS)
    found = [_letter(answer) for answer in answers]
    marks = _marks(question)
    if None in found or found[0] == found[1] or any(letter not in marks for letter in found):
        raise InputError(
            f"the answers {answers[0]!r} and {answers[1]!r} name no two options of the question; an option begins a "
            "line, as in (A)"
        )
    letters = sorted((str(letter) for letter in found), key=lambda letter: marks[letter][0])
    (_, a_from, a_to), (_, b_from, b_to) = (marks[letter] for letter in letters)
    pieces = question[:a_from], question[a_from:a_to], question[a_to:b_from], question[b_from:b_to], question[b_to:]
    if not pieces[1] or not pieces[3]:
        raise InputError("an option of the question has no text")
    return Pair(pieces[::2], (pieces[1], pieces[3]), (letters[0], letters[1]), letters.index(str(found[0])))


def _letter(answer: object) -> str | None:
    match = _LETTER.fullmatch(answer.strip()) if isinstance(answer, str) else None
    return match[1] if match else None


def _marks(question: str) -> dict[str, tuple[int, int, int]]:
    """Of each option its place, and where its text begins and ends; letters count from A up, the last (A) begins."""
    marks = list(_OPTION.finditer(question))
    first = max((n for n, mark in enumerate(marks) if mark[1] == "A"), default=len(marks))
    found: dict[str, tuple[int, int, int]] = {}
    for n, (mark, letter) in enumerate(zip(marks[first:], "ABCDEFGHIJKLMNOPQRSTUVWXYZ", strict=False)):
        if mark[1] != letter:
            break
        end = marks[first + n + 1].start() if first + n + 1 < len(marks) else len(question)
        text = question[mark.end() : end]
        start = mark.end() + len(text) - len(text.lstrip())
        found[letter] = (mark.start(), start, start + len(text.strip()))
    return found


def differences(states: Floats, matching: Sequence[int]) -> Floats:
    """[n, d_model]: the state at the matching answer's letter less that at the other's.

    Args:
        states: [n, 2, d_model], as `letter_states` gives them.
        matching: which of the two is.
    """
    rows, which = np.arange(len(states)), np.array(matching)
    return np.asarray(states[rows, which] - states[rows, 1 - which], np.float32)


def direction(found: Floats, length: float) -> Floats:
    """[d_model]: the mean of differences [n, d_model], made so long; directions of any sets are so alike in length.

    Raises:
        InputError: it is nothing.
    """
    mean = found.astype(np.float64).mean(axis=0)
    norm = float(np.linalg.norm(mean))
    if not norm > 0:
        raise InputError("the matching answers and the others have the same mean state: there is no direction")
    return np.asarray(mean * (length / norm), np.float32)


def null_directions(found: Floats, length: float, n: int, rng: np.random.Generator) -> Floats:
    """[n, d_model]: directions of differences [n_pairs, n_orders, d_model] whose answers were exchanged at random.

    Equal pairs of which just half are exchanged have no direction: they are drawn again.

    Raises:
        InputError: the differences have none themselves.
    """
    direction(found.reshape(-1, found.shape[-1]), length)
    signs, drawn = rng.choice(SIGNS, size=(n, len(found), 1, 1)), []
    for first in signs:
        sign = first
        while not (found * sign).astype(np.float64).mean(axis=(0, 1)).any():
            sign = rng.choice(SIGNS, size=first.shape)
        drawn.append(direction((found * sign).reshape(-1, found.shape[-1]), length))
    return np.stack(drawn)


def is_right(logits: Floats, matching: Sequence[int]) -> Doubles:
    """[n, n_vectors]: 1 where the matching answer's letter is the likelier, 0 else; of logits [n, n_vectors, 2]."""
    rows, which = np.arange(len(logits)), np.array(matching)
    return (logits[rows, :, which] > logits[rows, :, 1 - which]).astype(np.float64)


def metric(items: Sequence[Mapping[str, Any]]) -> Metric:
    """The control rate: of each item its score is whether it is right at +1 less whether it is at -1."""
    del items
    return mean_metric
