"""What can be said of a feature without asking anybody. After `features.draw`; before the sheet and the plan."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence

from facsynth.records import Span

N_TOKENS = 5
NEARLY_ALL = 0.9
"""Share of a feature's spans, from which on they are all of a kind."""
FEW = 0.1
"""Share of different texts, up to which they are boilerplate."""
FEWEST = 5
"""Spans, under which no kind is told."""


def firing_tokens(spans: Sequence[Span], n_tokens: int = N_TOKENS) -> str:
    """The tokens that fire it most, by the sum of their activations, in quotes."""
    sums: dict[str, float] = {}
    for span in spans:
        token = span.token.strip().lower() or "⏎"
        sums[token] = sums.get(token, 0.0) + span.activation
    ordered = sorted(sums.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(json.dumps(token, ensure_ascii=False) for token, _ in ordered[:n_tokens])


def screened(spans: Sequence[Span], distinct_share: float) -> str:
    """Why a feature is of no use as something to write for; empty where nothing speaks against it.

    Args:
        spans: over the range of its activations.
        distinct_share: how many of the texts that were drawn around its firing tokens are different ones.
    """
    if distinct_share <= FEW:
        return "fires on the same few texts again and again"
    if len(spans) < FEWEST:
        return ""
    kinds = {"fires on punctuation": [all(unicodedata.category(c)[0] in "PZC" for c in span.token) for span in spans]}
    if len({span.token for span in spans}) > len(spans) / 2:  # else it is the word, which often stands there
        kinds |= {
            "fires on the first token, whatever it is": [span.text == span.token for span in spans],
            "fires on the last token, whatever it is": [span.context == span.text for span in spans],
        }
    return next((reason for reason, is_so in kinds.items() if sum(is_so) >= NEARLY_ALL * len(spans)), "")
