"""SAO: the writer plays a persona that asks for something, answers twice, and says which answer is better.

Source: arXiv 2510.06652. Differs: personas are sixty lines of this project, in a random order that begins anew when all
were played, in the place of PersonaHub's; the two answers are judged in both orders, and a tie is dropped. Only
preference pairs have two answers and a judge; of a chat one answer is asked for as for every method, of other forms the
message is all. What is trained on pairs afterwards is the evaluation's matter. It is shown nothing of the anchor.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence

from facsynth import prompts
from facsynth.baselines.given import WAVE, Draft, Given, Scribe, cleaned
from facsynth.records import Reply

TIE = "no reply is better in both orders"
_FIRST, _SECOND = re.compile(r"(?i)\W*first\b"), re.compile(r"(?i)\W*second\b")


def waves(given: Given, scribe: Scribe) -> Generator[list[Draft], list[str], None]:
    """What personas ask, and for pairs both answers."""
    rng, personas = given.rng, prompts.fill("sao_personas").splitlines()
    queue: list[str] = []
    while True:
        while len(queue) < WAVE:
            queue += [personas[i] for i in rng.permutation(len(personas))]
        asked = [prompts.fill("sao_ask", persona=persona, **given.what) for persona in queue[:WAVE]]
        del queue[:WAVE]
        replies = cleaned(scribe.ask(asked))
        drafts = [Draft(reply, prompt) for reply, prompt in zip(replies, asked, strict=True)]
        yield _with_pairs(given, scribe, drafts) if given.settings.wanted.form == "preference" else drafts


def _with_pairs(given: Given, scribe: Scribe, drafts: Sequence[Draft]) -> list[Draft]:
    """The same with a better and a worse reply, where the judge finds one in both orders."""
    found, sound = list(drafts), [i for i, draft in enumerate(drafts) if draft.message.text]
    messages = [drafts[i].message.text for i in sound]
    n_tokens = given.settings.wanted.reply_tokens
    ones, others = (scribe.ask(messages, max_tokens=n_tokens) for _ in range(2))
    as_they_are = _better(scribe, messages, ones, others)
    swapped = _better(scribe, messages, others, ones)
    for i, one, other, first, second in zip(sound, ones, others, as_they_are, swapped, strict=True):
        if {first, second} == {1, 2}:
            better, worse = (one, other) if first == 1 else (other, one)
            found[i] = drafts[i]._replace(reply=better, worse=worse)
        else:
            found[i] = drafts[i]._replace(reason=TIE)
    return found


def _better(scribe: Scribe, messages: Sequence[str], ones: Sequence[Reply], others: Sequence[Reply]) -> list[int]:
    """1 or 2 for the better reply to each message; 0 where the judge does not say."""
    asked = [
        prompts.fill(
            "sao_judge", text=prompts.quoted(m), one=prompts.quoted(a.text), other=prompts.quoted(b.text)
        )
        for m, a, b in zip(messages, ones, others, strict=True)
    ]  # fmt: skip
    verdicts = scribe.verdicts(asked, "The better reply is the")
    return [1 if _FIRST.match(text) else 2 if _SECOND.match(text) else 0 for text in verdicts]
