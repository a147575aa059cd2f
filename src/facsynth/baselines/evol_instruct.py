"""Evol-Instruct: a message is made harder in one way, or changed for a rarer one; what gains nothing is dropped.

Source: arXiv 2304.12244 and WizardLM's repository: five ways, one drawn at random for each message, four rounds, and
four reasons to drop. Differs: rounds run side by side, so that the first samples are of all of them and a budget is a
part of a larger one: every wave draws from all messages that were changed fewer than four times. What answers a
labelled message says nothing of its worth (a good writer answers a toxic one with "sorry"), so those are not answered.
A rewrite that keeps ten words in a row is a copy here, as for every method. Temperature is everybody's, 1.0 there.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence

from facsynth import prompts
from facsynth.baselines.given import WAVE, Draft, Given, Scribe, cleaned
from facsynth.diversity import words_of
from facsynth.records import Reply

ROUNDS = 4
DEEPER = (
    "Add one more condition or requirement that has to be met.",
    "Ask about the same matter in more depth and breadth.",
    "Put something more specific in the place of something general.",
    "Where it can be settled in a few steps of thought, let it need several.",
)
"""Ways in depth; one more is in breadth."""
SHORT_APOLOGY = 80
"""Words, below which an answer with "sorry" is none."""
SAME, NO_ANSWER, FROM_PROMPT = "says no more than what it was made of", "no answer was found", "words of the prompt"
_STOP = (
    "a an and are as at be but by for from has have i in is it its no not of on or so that the this to was were will "
    "with yes you"
)
_LEFT_OVER = re.compile(r"(?i)\b(?:given|rewritten|created|new|original) (?:prompt|text)\b|#(?:given|rewritten)")


def waves(given: Given, scribe: Scribe) -> Generator[list[Draft], list[str], None]:
    """Messages of a pool that grows, each changed in one way."""
    rng, wanted = given.rng, given.settings.wanted
    is_answered = wanted.label is None and wanted.form != "ab"
    pool = [(text, 0) for text in given.shown]
    while True:
        young = [(text, n) for text, n in pool if n < ROUNDS]
        chosen = [young[i] for i in rng.integers(len(young), size=WAVE)]
        ways = rng.integers(len(DEEPER) + 1, size=WAVE).tolist()
        asked = [_prompt(given, text, way) for (text, _), way in zip(chosen, ways, strict=True)]
        replies = cleaned(scribe.ask(asked))
        reasons = [FROM_PROMPT if _LEFT_OVER.search(reply.text) else "" for reply in replies]
        _drop_equal(scribe, [text for text, _ in chosen], replies, reasons)
        answers = _answers(given, scribe, replies, reasons) if is_answered else {}
        accepted = yield [
            Draft(reply, prompt, answers.get(i), reason=reasons[i])
            for i, (reply, prompt) in enumerate(zip(replies, asked, strict=True))
        ]
        pool += [(text, n + 1) for text, (_, n) in zip(accepted, chosen, strict=True) if text]


def _prompt(given: Given, text: str, way: int) -> str:
    values = {"text": prompts.quoted(text), **given.what}
    if way == len(DEEPER):
        return prompts.fill("evol_breadth", **values)
    return prompts.fill("evol_depth", how=DEEPER[way], **values)


def _left(replies: Sequence[Reply], reasons: Sequence[str]) -> list[int]:
    return [i for i, (reply, why) in enumerate(zip(replies, reasons, strict=True)) if reply.text and not why]


def _drop_equal(scribe: Scribe, before: Sequence[str], replies: Sequence[Reply], reasons: list[str]) -> None:
    """Ask of each whether it says what it was made of and no more; a verdict that cannot be read drops nothing."""
    left = _left(replies, reasons)
    asked = [
        prompts.fill("evol_equal", one=prompts.quoted(before[i]), other=prompts.quoted(replies[i].text)) for i in left
    ]
    for i, verdict in zip(left, scribe.verdicts(asked, "They are"), strict=True):
        if re.match(r"(?i)\W*equal\b", verdict):
            reasons[i] = SAME


def _answers(given: Given, scribe: Scribe, replies: Sequence[Reply], reasons: list[str]) -> dict[int, Reply]:
    """Answers by index; where there is none, the reason is written down."""
    left, n_tokens = _left(replies, reasons), given.settings.wanted.reply_tokens
    found = dict(zip(left, scribe.ask([replies[i].text for i in left], max_tokens=n_tokens), strict=True))
    for i, answer in found.items():
        (words,) = words_of([answer.text])
        if ("sorry" in words and len(words) < SHORT_APOLOGY) or not {*words} - {*_STOP.split()}:
            reasons[i] = NO_ANSWER
    return found
