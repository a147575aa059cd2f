"""Magpie: an aligned model is given its chat template up to where the user speaks, and writes what users say.

Source: arXiv 2406.08464 and its repository: a line at a time, and the same model rates how good each is; those that
are at least average stay. Differs: where a task asks for something of its own, a system turn names it, which is noted;
the writer rates texts of the anchor first, and where it finds most of those poor its ratings say nothing and are left
out, which is noted; temperature is everybody's, 1.0 there; near copies are told as for every method, not by a
neighbour's distance; no reward model and no other tags. Nothing of the anchor is shown to write by. Only a writer in
this process can begin with the user's turn.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import replace

from facsynth import prompts
from facsynth.baselines.given import WAVE, Draft, Given, Scribe, cleaned
from facsynth.records import Message
from facsynth.synthesis.parts import Wanted

POOR, NO_RATING = "poor in the eyes of its writer", "no rating that can be read"
_QUALITY = re.compile(r"(?i)\b(very poor|poor|average|good|excellent)\b")


def waves(given: Given, scribe: Scribe) -> Generator[list[Draft], list[str], None]:
    """What the user's turn begins with, to the end of its line."""
    opening: tuple[Message, ...] = ()
    if given.settings.wanted.many != Wanted.many:
        opening = (Message("system", prompts.fill("magpie_system", **given.what)),)
        scribe.note("a system turn names what the task asks for")
    faults = _rated(given, scribe, given.shown[:WAVE])
    is_rated = sum(map(bool, faults)) <= len(faults) / 2
    if not is_rated:
        scribe.note(f"no ratings: the writer finds {sum(map(bool, faults))} of {len(faults)} texts of the anchor poor")
    while True:
        requests = [replace(scribe.request(), messages=opening, role="user", stop="\n") for _ in range(WAVE)]
        replies = cleaned(scribe.answers(requests))
        sound = [i for i, reply in enumerate(replies) if reply.text] if is_rated else []
        reasons = dict(zip(sound, _rated(given, scribe, [replies[i].text for i in sound]), strict=True))
        yield [Draft(reply, reason=reasons.get(i, "")) for i, reply in enumerate(replies)]


def _rated(given: Given, scribe: Scribe, texts: Sequence[str]) -> list[str]:
    """Why each text is not good enough; empty where it is."""
    asked = [prompts.fill("magpie_quality", text=prompts.quoted(text), **given.what) for text in texts]
    found = [_QUALITY.search(rating) for rating in scribe.verdicts(asked, "Rating:")]
    return [NO_RATING if r is None else POOR if r.group().lower().endswith("poor") else "" for r in found]
