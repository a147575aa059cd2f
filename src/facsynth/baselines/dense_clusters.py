"""The control without an SAE: clusters of a sentence encoder stand in for features.

Source: arXiv 2602.10388, section G and its table of dense coverage. Anchor texts are clustered (spherical k-means);
clusters that no message of the seed set falls into are missing, or where there are none the ones with the fewest.
Texts of one are shown, and what falls into another is dropped. Differs: the paper names neither the number of clusters
nor how they are written for.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

import numpy as np

from facsynth import prompts
from facsynth.baselines.geometry import clusters, nearest
from facsynth.baselines.given import WAVE, Draft, Given, Scribe, cleaned, needed, part_of
from facsynth.baselines.self_instruct import items_of, numbered
from facsynth.bins import Ints
from facsynth.records import Message, Reply, Request

TEXTS_A_CLUSTER, N_SHOWN, N_NEW = 5, 5, 2
ELSEWHERE = "falls into another cluster"


def waves(given: Given, scribe: Scribe) -> Generator[list[Draft], list[str], None]:
    """Messages for missing clusters, those with the fewest accepted ones first."""
    vectors, rng = needed(given.embed, "a sentence encoder"), given.rng
    real = vectors(given.shown)
    found = clusters(real, max(2, len(real) // TEXTS_A_CLUSTER), rng)
    centres = found.centres[np.unique(found.of)]
    of = nearest(real, centres)
    missing = poorest(nearest(vectors(given.have), centres) if given.have else of[:0], len(centres))
    n_accepted = np.zeros(len(missing), np.int64)
    while True:
        order = np.resize(np.argsort(n_accepted, kind="stable"), WAVE // N_NEW)
        drafts, aims = list[Draft](), list[int]()
        texts = [[given.shown[i] for i in rng.permutation(np.flatnonzero(of == missing[n]))[:N_SHOWN]] for n in order]
        for n, request, reply in zip(order.tolist(), *_asked(texts, given, scribe), strict=True):
            parts = [part_of(reply, text) for text in items_of(reply, given.goes_on)[:N_NEW]] or [reply]
            drafts += [Draft(part, request.messages[-1].content) for part in cleaned(parts)]
            aims += [n] * len(parts)
        sound = [i for i, draft in enumerate(drafts) if draft.message.text]
        places = nearest(vectors([drafts[i].message.text for i in sound]), centres) if sound else of[:0]
        for i, place in zip(sound, places.tolist(), strict=True):
            if place != missing[aims[i]]:
                drafts[i] = drafts[i]._replace(reason=ELSEWHERE)
        messages = yield drafts
        for n, text in zip(aims, messages, strict=True):
            n_accepted[n] += bool(text)


def poorest(of: Ints, n_clusters: int) -> Ints:
    """The clusters that nothing is in, or else those with the fewest; `of` [n] is the cluster of each text there is."""
    counts = np.bincount(of, minlength=n_clusters)
    return np.flatnonzero(counts == counts.min())


def _asked(texts: Sequence[Sequence[str]], given: Given, scribe: Scribe) -> tuple[list[Request], list[Reply]]:
    """Two more of each list."""
    requests = []
    for shown in texts:
        n = len(shown)
        values = {"items": numbered(shown), "first": str(n + 1), "last": str(n + N_NEW), **given.what}
        messages = (Message("user", prompts.fill("prismatic", **values)),)
        most, begin = N_NEW * given.settings.max_tokens, f"{n + 1}." if given.goes_on else ""
        requests.append(replace(scribe.request(), messages=messages, max_tokens=most, prefix=begin))
    return requests, scribe.answers(requests)
