"""Magpie: an aligned model is given its chat template up to where the user speaks, and writes what users say.

Source: arXiv 2406.08464 and its repository: a line at a time, and the same model says how good each is. Differs: where
a task asks for something of its own, a system turn names it, which is noted; temperature is everybody's, 1.0 there;
near copies are told as for every method, not by a neighbour's distance; no reward model and no other tags. It is shown
nothing of the anchor. Only a writer in this process can begin with the user's turn.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import replace

from facsynth import prompts
from facsynth.baselines.given import WAVE, Draft, Given, Scribe, cleaned
from facsynth.records import Message
from facsynth.synthesis.parts import Wanted

QUALITY = re.compile(r"(?i)\b(very poor|poor|average|good|excellent)\b")
POOR, NO_RATING = "poor in the eyes of its writer", "no rating that can be read"


def magpie(given: Given, scribe: Scribe) -> Generator[list[Draft], list[str], None]:
    """What the user's turn begins with, to the end of its line."""
    opening: tuple[Message, ...] = ()
    if given.settings.wanted.many != Wanted.many:
        opening = (Message("system", prompts.fill("magpie_system", **given.what)),)
        scribe.note("a system turn names what the task asks for")
    while True:
        requests = [replace(scribe.request(), messages=opening, role="user", stop="\n") for _ in range(WAVE)]
        replies = cleaned(scribe.answers(requests))
        sound = [i for i, reply in enumerate(replies) if reply.text]
        asked = [prompts.fill("magpie_quality", text=prompts.quoted(replies[i].text), **given.what) for i in sound]
        rated = dict(zip(sound, scribe.verdicts(asked, "Rating:"), strict=True))
        yield [Draft(reply, reason=_why_not(rated[i]) if i in rated else "") for i, reply in enumerate(replies)]


def _why_not(rating: str) -> str:
    found = QUALITY.search(rating)
    return NO_RATING if found is None else POOR if found.group().lower().endswith("poor") else ""
