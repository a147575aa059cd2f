"""A text around the span that fires a feature: what a page shows of it.

Before: rows of a run's files. After: `report.features` and `report.build`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from facsynth.report.read import RunFiles

MAX_WHOLE, CONTEXT, MAX_SPAN, MAX_TOKEN = 700, 220, 400, 60
"""Characters: of a text shown whole, around the span of a longer one, of the span, of the firing token."""
_LAST_WORD = re.compile(r"(?<!\S)\S{1,24}\s*\Z")


@dataclass(frozen=True)
class Excerpt:
    """A text around the span that fires. `token` ends the span; `n_characters` is 0 where nothing was cut."""

    head: str
    span: str
    token: str
    tail: str
    n_characters: int = 0


def excerpt(text: str, start: int, end: int, token: str = "") -> Excerpt:
    """`text` with `text[start:end]` as the span, its closing `token` set apart; a long text is cut around it."""
    token = token if token.isspace() else token.lstrip()
    token_start = end - min(len(token), MAX_TOKEN) if text[:end].endswith(token) else end
    start = max(min(start, token_start), end - MAX_SPAN)
    first, last = 0, len(text)
    if len(text) > MAX_WHOLE:
        first = max(0, start - CONTEXT)
        last = min(len(text), max(end + CONTEXT, first + MAX_WHOLE - CONTEXT))
    return Excerpt(
        head=("… " if first else "") + text[first:start],
        span=text[start:token_start],
        token=text[token_start:end],
        tail=text[end:last] + (" …" if last < len(text) else ""),
        n_characters=len(text) if last - first < len(text) else 0,
    )


def ending(text: str, token: str = "") -> Excerpt:
    """A span, which ends with the token that fires; the last word stands for one that was not recorded."""
    return excerpt(text, len(text), len(text), token or _last_word(text))


def sample_excerpt(files: RunFiles, index: int, *, marked: bool) -> Excerpt | None:
    """The accepted sample of a provenance row, `marked`: with the span that its row names where it holds it."""
    row, text = files.provenance[index], files.accepted_text(index)
    if text is None:
        unreadable = "This row of samples.jsonl cannot be read in the run's form."
        return Excerpt(unreadable, "", "", "") if index < len(files.samples) else None
    span = row["span"] if marked else ""
    span = span if span in text else span.strip()
    start = text.find(span) if span else -1
    return excerpt(text, 0, 0) if start < 0 else excerpt(text, start, start + len(span), _last_word(span))


def _last_word(text: str) -> str:
    found = _LAST_WORD.search(text[-200:])
    return found.group() if found else ""
