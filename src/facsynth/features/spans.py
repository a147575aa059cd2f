"""The texts that fire a feature most, cut to end with the firing token.

Before: `features.encoded`. After: prompts of `synthesis`, the plan and the report. (The released scripts of the
paper cut the span before the firing token, so that what fired could not be seen.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from facsynth.features.encoded import Encoded
from facsynth.records import Span
from facsynth.text.ids import decoder

FOLLOWING_TOKENS = 16
_SENTENCE_END = re.compile(r"[.!?](?=\s)|\n")
SPAN_TOKENS = 32
"""Longest span, in tokens (paper, appendix K)."""


def best_spans(encoded: Encoded, tokenizer: Any, feature_ids: Sequence[int], n_spans: int = 5) -> dict[int, list[Span]]:
    """For each feature its highest samples, best first, one span a sample, equal texts once.

    Args:
        encoded: where to look.
        tokenizer: of the model that encoded it.
        feature_ids: which features.
        n_spans: at most so many a feature (16 are kept in the profile).
    """
    tops = {feature: encoded.profile.top_samples(feature) for feature in feature_ids}
    wanted = {top.sample_id for samples in tops.values() for top in samples}
    tokens: dict[str, tuple[list[int], list[int]]] = {}
    for table in encoded.shards(["sample_id", "token_ids", "token_role"]):
        for row, sample_id in enumerate(table["sample_id"].to_pylist()):
            if sample_id in wanted:
                tokens[sample_id] = (table["token_ids"][row].as_py(), table["token_role"][row].as_py())
    found: dict[int, list[Span]] = {}
    for feature, samples in tops.items():
        spans: dict[str, Span] = {}
        for top in samples:
            text, token, context = cut_span(*tokens[top.sample_id], top.position, tokenizer)
            span = Span(feature, text, token, top.activation, top.sample_id, top.position, context)
            spans.setdefault(text.strip(), span)
        found[feature] = list(spans.values())[:n_spans]
    return found


def cut_span(ids: Sequence[int], roles: Sequence[int], position: int, tokenizer: Any) -> tuple[str, str, str]:
    """The text of at most 32 content tokens that end at `position`, that token, and the span with what follows.

    What follows goes on to the end of the sentence, or for 16 tokens.
    """
    start, end = position, position + 1
    while start > 0 and position - start < SPAN_TOKENS - 1 and roles[start - 1] == roles[position]:
        start -= 1
    while end < len(ids) and end - position <= FOLLOWING_TOKENS and roles[end] == roles[position]:
        end += 1
    decode = decoder(tokenizer)
    text, context = decode(list(ids[start : position + 1])), decode(list(ids[start:end]))
    sentence_end = _SENTENCE_END.search(context, len(text))
    return text, decode([ids[position]]), context[: sentence_end.end()] if sentence_end else context


def span_text(ids: Sequence[int], roles: Sequence[int], tokenizer: Any, position: int) -> str:
    """`cut_span` without the token."""
    return cut_span(ids, roles, position, tokenizer)[0]
