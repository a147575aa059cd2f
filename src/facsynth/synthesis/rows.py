"""Parts of a written sample put together as a row of its form, and what makes them none.

Before: `synthesis.parts` has every part. After: the row is read as any other, and encoded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from facsynth.records import Message
from facsynth.synthesis.candidates import CHOICES
from facsynth.text.labels import Label
from facsynth.text.overlap import WordRuns

LENGTHS = 0.5, 2.0
"""Words of the rejected reply, as a share of those of the chosen one, at least and at most."""
SAME_REPLY, UNLIKE_LENGTHS = "both replies are the same", "replies of unlike lengths"


def row_of(
    form: str, turns: Sequence[Message], parts: Mapping[str, str], label: Label | None = None
) -> tuple[dict[str, Any], str]:
    """A row, empty of a message alone; and why its parts do not belong together, empty where they do.

    Args:
        form: of the sample.
        turns: the message, and whatever is said after it.
        parts: what is no turn: a `worse` reply; a `matching` and an `other` answer.
        label: of a message.
    """
    said = [{"role": turn.role, "content": turn.content} for turn in turns]
    if form == "ab":
        matching, other = parts["matching"], parts["other"]
        return _question(turns[0].content, matching, other), _same(matching, other)
    if form == "preference":
        worse = [{"role": "assistant", "content": parts["worse"]}]
        return {"prompt": said[:-1], "chosen": said[-1:], "rejected": worse}, _unlike(turns[-1].content, parts["worse"])
    if len(turns) > 1 or label is not None:
        return {"messages": said} | ({} if label is None else {"label": label}), ""
    return {}, ""


def bare(question: str) -> str:
    """A question without choices that the writer gave of its own accord."""
    return re.split(r"\s*(?:Choices:|\(A\))", question, maxsplit=1)[0].strip() or question


def _unlike(chosen: str, rejected: str) -> str:
    share = len(rejected.split()) / max(len(chosen.split()), 1)
    if not LENGTHS[0] <= share <= LENGTHS[1]:
        return UNLIKE_LENGTHS
    return _same(chosen, rejected)


def _same(one: str, other: str) -> str:
    words = [re.findall(r"\w+", text.lower()) for text in (one, other)]
    return SAME_REPLY if words[0] == words[1] or WordRuns([one], 5).share(other) > 0.9 else ""


def _question(message: str, matching: str, other: str) -> dict[str, Any]:
    """A question with both answers; which one is (A) is a hash's choice."""
    asked = bare(message)
    digest = hashlib.sha256("\n".join((asked, matching, other)).encode("utf-8", "surrogatepass")).digest()
    a, b = (other, matching) if digest[0] % 2 else (matching, other)
    right, wrong = ("(B)", "(A)") if digest[0] % 2 else ("(A)", "(B)")
    question = f"{asked}{CHOICES}\n (A) {a}\n (B) {b}"
    return {"question": question, "answer_matching_behavior": right, "answer_not_matching_behavior": wrong}
