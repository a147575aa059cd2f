"""SynAlign: examples that the ones before explain least, what marks their language, and samples that match the whole.

Source: arXiv 2502.08661. A Gaussian process over unit vectors of a sentence encoder says which example is the least
certain given those before; it and its two nearest are described by the writer (tone, style, structure, subject), and
messages are written from the description and the examples. Samples then get weights by which they match the examples
(least maximum mean discrepancy, Gaussian kernel). Differs: the paper weighs one set at its end and draws from it again;
here each wave is weighed together with what was accepted before and its heavier half stays, so that a budget is a part
of a larger one and no text comes twice. The length scale of the kernel is the median distance of the examples.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from facsynth import prompts
from facsynth.baselines.geometry import matching_weights, most_uncertain, rbf, width_of
from facsynth.baselines.given import WAVE, Draft, Given, Scribe, cleaned, needed
from facsynth.baselines.self_instruct import numbered

N_SHOWN, DESCRIPTION, N_EACH = 3, 64, 4
"""Examples of a prompt, the tokens of what is said of them, and messages of a wave after one description."""
KEPT = 0.5
NO_WEIGHT = "does little to match the examples"


def waves(given: Given, scribe: Scribe) -> Generator[list[Draft], list[str], None]:
    """Messages after descriptions, the heavier half of each wave."""
    vectors = needed(given.embed, "a sentence encoder")
    real = vectors(given.shown)
    width = width_of(real)
    order = most_uncertain(rbf(real, real, width), len(real))
    groups = [np.argsort(-(real @ real[i]), kind="stable")[:N_SHOWN].tolist() for i in order]
    begin = {"prefix": f"{len(groups[0]) + 1}.", "stop": "\n"} if given.goes_on else {}
    described: dict[int, str] = {}
    accepted, turn = real[:0], 0
    while True:
        turns = [n % len(groups) for n in range(turn, turn + WAVE // N_EACH)]
        turn += len(turns)
        examples = {n: numbered([given.shown[i] for i in groups[n]]) for n in turns}
        open_ = [n for n in examples if n not in described]
        asked = [prompts.fill("synalign_describe", examples=examples[n], **given.what) for n in open_]
        described |= {n: r.text for n, r in zip(open_, scribe.ask(asked, max_tokens=DESCRIPTION), strict=True)}
        asked = [
            prompts.fill("synalign_write", about=prompts.quoted(described[n]), examples=examples[n], **given.what)
            for n in turns for _ in range(N_EACH)
        ]  # fmt: skip
        replies = cleaned(scribe.ask(asked, **begin))
        drafts = [Draft(reply, prompt) for reply, prompt in zip(replies, asked, strict=True)]
        sound = [i for i, reply in enumerate(replies) if reply.text]
        if not sound:
            yield drafts
            continue
        new = vectors([replies[i].text for i in sound])
        synthetic = np.concatenate([accepted, new])
        weights = matching_weights(rbf(synthetic, synthetic, width), rbf(synthetic, real, width))[len(accepted) :]
        for n in np.argsort(-weights, kind="stable")[round(KEPT * len(sound)) :]:
            drafts[sound[n]] = drafts[sound[n]]._replace(reason=NO_WEIGHT)
        messages = yield drafts
        accepted = np.concatenate([accepted, new[[n for n, i in enumerate(sound) if messages[i]]]])
