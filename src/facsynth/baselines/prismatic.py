"""Prismatic Synthesis: candidates are kept where the gradients of a small model have few neighbours so far.

Source: arXiv 2505.20161. A text's vector is the projected gradient of a proxy model's loss, of length 1; the pool is
clustered (spherical k-means, a tenth as many clusters as texts), five texts of it are shown, two new ones asked for,
and those stay whose nearest centre is one of the smaller half of the clusters. Differs: a round is one wave, so that
clusters follow the pool closely and a budget is a part of a larger one; eight clusters at least; no vote on answers,
as messages have none; vectors are handed in.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from facsynth import prompts
from facsynth.baselines.geometry import clusters, nearest
from facsynth.baselines.given import WAVE, Draft, Given, Scribe, cleaned, needed, part_of
from facsynth.baselines.self_instruct import items_of, numbered
from facsynth.bins import Doubles

N_SHOWN, N_NEW = 5, 2
SHARE_OF_CLUSTERS, FEWEST_CLUSTERS = 0.1, 8
CROWDED = "its cluster is among the larger half"


def waves(given: Given, scribe: Scribe) -> Generator[list[Draft], list[str], None]:
    """Messages of sparse places, shown those of a pool that grows."""
    vectors, rng = needed(given.gradients, "gradients of a proxy model"), given.rng
    pool, x = [*given.shown], vectors(given.shown)
    while True:
        n_shown = min(N_SHOWN, len(pool))
        values = {"first": str(n_shown + 1), "last": str(n_shown + N_NEW), **given.what}
        shown = [rng.permutation(len(pool))[:n_shown] for _ in range(WAVE // N_NEW)]
        asked = [prompts.fill("prismatic", items=numbered([pool[i] for i in chosen]), **values) for chosen in shown]
        begin = f"{n_shown + 1}." if given.goes_on else ""
        replies = scribe.ask(asked, max_tokens=N_NEW * given.settings.max_tokens, prefix=begin)
        drafts = [
            Draft(part, prompt)
            for reply, prompt in zip(replies, asked, strict=True)
            for part in cleaned([part_of(reply, text) for text in items_of(reply, given.goes_on)[:N_NEW]] or [reply])
        ]
        sound = [i for i, draft in enumerate(drafts) if draft.message.text]
        if not sound:
            yield drafts
            continue
        new = vectors([drafts[i].message.text for i in sound])
        for i, full in zip(sound, is_crowded(x, new, rng), strict=True):
            drafts[i] = drafts[i]._replace(reason=CROWDED if full else "")
        accepted = yield drafts
        kept = [n for n, i in enumerate(sound) if accepted[i]]
        pool += [accepted[sound[n]] for n in kept]
        x = np.concatenate([x, new[kept]])


def is_crowded(pool: Doubles, new: Doubles, rng: np.random.Generator) -> list[bool]:
    """Of each new unit vector [n, d], whether it falls into none of the smaller half of the clusters of a pool."""
    k = max(round(SHARE_OF_CLUSTERS * len(pool)), FEWEST_CLUSTERS)
    found = clusters(pool, k, rng)
    held, sizes = np.unique(found.of, return_counts=True)
    small = np.argsort(sizes, kind="stable")[: (len(sizes) + 1) // 2]
    return [place not in small for place in nearest(new, found.centres[held])]
