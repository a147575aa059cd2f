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
from facsynth.baselines.given import WAVE, Draft, Given, Scribe, part_of
from facsynth.diversity import words_of
from facsynth.records import Reply

N_SHOWN, N_ITEMS = 3, 20
"""Examples and the last item of a list."""
LISTS = (4, 16)
"""Fewest and most lists a wave. Between them as many as gave a wave's worth of samples so far."""
MIN_WORDS, MAX_WORDS, ALIKE = 4, 150, 0.7
BEYOND_TEXT: frozenset[str] = frozenset(
    *words_of(["image images graph graphs picture file files map maps draw plot video audio music flowchart diagram"])
)
"""Words of what a language model cannot be given, or give."""
_ITEM = re.compile(r"(?m)^\s*\d{1,2}[.)]\s*")


def waves(given: Given, scribe: Scribe) -> Generator[list[Draft], list[str], None]:
    """Lists of messages, some at a time."""
    rng, known = given.rng, words_of(given.shown)
    n_shown = min(N_SHOWN, len(given.shown))
    values = {"first": str(n_shown + 1), "last": str(N_ITEMS), **given.what}
    room = max(given.settings.max_tokens * (N_ITEMS - n_shown) // 2, 1)
    n_lists, n_accepted = 0, 0
    while True:
        n = min(max(LISTS[0], WAVE * n_lists // max(n_accepted, 1)), LISTS[1])
        shown = [rng.permutation(len(given.shown))[:n_shown] for _ in range(n)]
        asked = [
            prompts.fill("self_instruct", items=numbered([given.shown[i] for i in chosen]), **values)
            for chosen in shown
        ]
        replies = scribe.ask(asked, max_tokens=room, prefix=f"{n_shown + 1}." if given.goes_on else "")
        drafts: list[Draft] = []
        new: list[list[str]] = []
        for prompt, reply in zip(asked, replies, strict=True):
            for text in items_of(reply, given.goes_on):
                (words,) = words_of([text])
                drafts.append(Draft(part_of(reply, text), prompt, reason=why_not(text, words, [*known, *new])))
                if not drafts[-1].reason:
                    new.append(words)
        accepted = yield drafts or [Draft(reply) for reply in replies]
        known += words_of(text for text in accepted if text)
        n_lists, n_accepted = n_lists + n, n_accepted + sum(map(bool, accepted))


def numbered(texts: Sequence[str]) -> str:
    """A list of untrusted texts, a line each."""
    return "\n".join(f"{n}. {prompts.apart(' '.join(text.split()))}" for n, text in enumerate(texts, start=1))


def items_of(reply: Reply, goes_on: bool) -> list[str]:
    """The items of a list, a line each, without the last where the list is cut; none of what failed.

    Where the reply does not go on with a number that it was given, what stands before the first one is no item.
    """
    pieces = _ITEM.split(reply.text)
    pieces = pieces if goes_on or len(pieces) == 1 else pieces[1:]
    found = [text.strip().splitlines()[0] for text in pieces if text.strip()]
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
