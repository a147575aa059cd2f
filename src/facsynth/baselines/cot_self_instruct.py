"""CoT-Self-Instruct: two examples are analysed and a plan is made before one new message is written; then a filter.

Source: arXiv 2507.23751 (RIP: arXiv 2501.18578). The two examples are of one cluster out of eight where an encoder is
given and the cluster holds two, else any. Of a task with a label the filter is answer consistency: a message stays
where most of eight votes say that it is what was asked for, which is its label. Of any other it is RIP, where a reward
model is given: eight replies to each message are marked, and the half of a wave whose lowest mark is lowest is dropped;
without one there is no filter, which is noted. Differs: temperature is everybody's, 0.7 there.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import replace

import numpy as np

from facsynth import prompts
from facsynth.baselines.geometry import clusters
from facsynth.baselines.given import WAVE, Draft, Given, Scribe, cleaned, needed
from facsynth.records import Reply

N_SHOWN, N_GROUPS = 2, 8
THOUGHT = 384
"""Tokens for analysis and plan, beside those of the message."""
N_VOTES, N_REPLIES, KEPT = 8, 8, 0.5
NO_MESSAGE, OUTVOTED, LOW_REWARD = "no message after the plan", "most votes are against it", "its worst reply is poor"
_FINAL = re.compile(r"(?i)\W*\bFINAL\b\W*?:\**")
_YES = re.compile(r"(?i)\W*yes\b")


def waves(given: Given, scribe: Scribe) -> Generator[list[Draft], list[str], None]:
    """Messages at the end of an analysis and a plan."""
    rng, groups = given.rng, _groups(given)
    while True:
        asked = []
        for _ in range(WAVE):
            first = int(rng.integers(len(given.shown)))
            others = [i for i in rng.permutation(len(groups)).tolist() if i != first]
            others.sort(key=lambda i: groups[i] != groups[first])
            chosen = [first, *others[: N_SHOWN - 1]]
            examples = "\n".join(prompts.quoted(given.shown[i]) for i in chosen)
            asked.append(prompts.fill("cot_self_instruct", examples=examples, **given.what))
        replies = cleaned(final(r) for r in scribe.ask(asked, max_tokens=THOUGHT + given.settings.max_tokens))
        sound = [i for i, reply in enumerate(replies) if reply.text]
        reasons = dict(zip(sound, _filter(given, scribe, [replies[i].text for i in sound]), strict=True))
        yield [
            Draft(reply, prompt, reason=reasons.get(i, NO_MESSAGE))
            for i, (reply, prompt) in enumerate(zip(replies, asked, strict=True))
        ]


def _groups(given: Given) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The cluster of each example; one for all without an encoder."""
    if given.embed is None:
        return np.zeros(len(given.shown), np.int64)
    return clusters(needed(given.embed, "an encoder")(given.shown), N_GROUPS, given.rng).of


def final(reply: Reply) -> Reply:
    """What stands behind the last mark; nothing where there is none."""
    marks = list(_FINAL.finditer(reply.text))
    return replace(reply, text=reply.text[marks[-1].end() :].strip() if marks else "")


def _filter(given: Given, scribe: Scribe, messages: Sequence[str]) -> list[str]:
    """Why each message is dropped; empty where it is not."""
    if given.settings.wanted.label is not None:
        return _votes(given, scribe, messages)
    if given.reward is None:
        scribe.note("no filter: answer consistency needs a labelled task, and RIP a reward model")
        return [""] * len(messages)
    replies = scribe.ask([m for m in messages for _ in range(N_REPLIES)], max_tokens=given.settings.wanted.reply_tokens)
    marks = [given.reward(messages[i // N_REPLIES], reply.text) for i, reply in enumerate(replies)]
    lowest = np.array(marks).reshape(-1, N_REPLIES).min(axis=1)
    kept = np.argsort(-lowest, kind="stable")[: round(KEPT * len(messages))]
    return ["" if i in kept else LOW_REWARD for i in range(len(messages))]


def _votes(given: Given, scribe: Scribe, messages: Sequence[str]) -> list[str]:
    """Ask of each message whether it is what was wanted; a vote that cannot be read is none for it."""
    asked = [prompts.fill("cot_vote", text=prompts.quoted(message), **given.what) for message in messages]
    many = [prompt for prompt in asked for _ in range(N_VOTES)]
    votes = scribe.verdicts(many, "Answer:", given.settings.temperature)
    n_yes = np.array([bool(_YES.match(vote)) for vote in votes]).reshape(-1, N_VOTES).sum(axis=1)
    return ["" if n > N_VOTES / 2 else OUTVOTED for n in n_yes]
