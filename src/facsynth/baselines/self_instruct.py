"""Self-Instruct as Alpaca has it: three examples, and a list that goes on; what is like anything before is dropped.

Source: arXiv 2212.10560, and `generate_instruction.py` of Stanford Alpaca: three examples of the given ones alone, up
to twenty items a list, the last one dropped where the list is cut, and its rules of length, words and ROUGE-L.
Differs: a message is asked for, as for every method, and what answers it afterwards; temperature is everybody's, 1.0
there; examples are on one line; a list has half of a message's `max_tokens` for each item.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence

from facsynth import prompts
from facsynth.baselines.given import Draft, Given, Scribe, part_of
from facsynth.diversity import words_of
from facsynth.records import Reply

N_SHOWN, N_ITEMS, N_LISTS = 3, 20, 8
"""Examples and the last item of a list, and lists a wave."""
MIN_WORDS, MAX_WORDS, ALIKE = 4, 150, 0.7
BEYOND_TEXT: frozenset[str] = frozenset(
    *words_of(["image images graph graphs picture file files map maps draw plot video audio music flowchart diagram"])
)
"""Words of what a language model cannot be given, or give."""
_ITEM = re.compile(r"(?m)^\s*\d{1,2}[.)]\s*")


def self_instruct(given: Given, scribe: Scribe) -> Generator[list[Draft], list[str], None]:
    """Lists of messages, eight at a time."""
    rng, known = given.rng, words_of(given.shown)
    goes_on = given.settings.asks == "continue"
    while True:
        asked = []
        for _ in range(N_LISTS):
            examples = rng.permutation(len(given.shown))[:N_SHOWN]
            told = [prompts.apart(" ".join(given.shown[i].split())) for i in examples]
            items = "\n".join(f"{number}. {text}" for number, text in enumerate(told, start=1))
            first = len(told) + 1
            asked.append(prompts.fill("self_instruct", items=items, first=str(first), last=str(N_ITEMS), **given.what))
        first = min(N_SHOWN, len(given.shown)) + 1
        room = max(given.settings.max_tokens * (N_ITEMS - first + 1) // 2, 1)
        replies = scribe.ask(asked, max_tokens=room, prefix=f"{first}." if goes_on else "")
        drafts: list[Draft] = []
        new: list[list[str]] = []
        for prompt, reply in zip(asked, replies, strict=True):
            for text in items_of(reply):
                (words,) = words_of([text])
                drafts.append(Draft(part_of(reply, text), prompt, reason=why_not(text, words, [*known, *new])))
                if not drafts[-1].reason:
                    new.append(words)
        accepted = yield drafts or [Draft(reply) for reply in replies]
        known += words_of(text for text in accepted if text)


def items_of(reply: Reply) -> list[str]:
    """The items of a list, a line each, without the last where the list is cut; none of what failed."""
    found = [text.strip().splitlines()[0] for text in _ITEM.split(reply.text) if text.strip()]
    return found[:-1] if reply.finish_reason == "length" else found


def why_not(text: str, words: Sequence[str], known: Sequence[Sequence[str]]) -> str:
    """Alpaca's rules for one item; empty where it keeps them."""
    if not MIN_WORDS <= len(words) <= MAX_WORDS:
        return f"not {MIN_WORDS} to {MAX_WORDS} words"
    if found := BEYOND_TEXT & {*words}:
        return f"asks for what is no text: {min(found)}"
    if text.startswith("Write a program") or not re.match(r"[A-Za-z0-9]", text):
        return "begins as no item may"
    return "much like another one" if any(rouge_l(words, other) > ALIKE for other in known) else ""


def rouge_l(one: Sequence[str], other: Sequence[str]) -> float:
    """ROUGE-L F of two lists of words: by their longest common subsequence, found with the bits of whole numbers.

    Source: Lin 2004; Hyyrö 2004 for the bits.
    """
    if not one or not other:
        return 0.0
    at: dict[str, int] = {}
    for place, word in enumerate(one):
        at[word] = at.get(word, 0) | 1 << place
    every = free = (1 << len(one)) - 1
    for word in other:
        found = free & at.get(word, 0)
        free = (free + found | free - found) & every
    return 2 * (len(one) - free.bit_count()) / (len(one) + len(other))
