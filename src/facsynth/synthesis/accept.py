"""What is kept and why not: the only place that decides.

Before: `synthesis.loop` hands in what was written and what it fired. A candidate counts for the feature that
fires, whichever it was written for: activation is the truth, the prompt only a means.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass

from facsynth.records import Reply
from facsynth.text.dirt import personal_data_in, refuses_to_write, template_in
from facsynth.text.language import other_language

MARGIN = 1.05
"""Accepted above threshold x 1.05, so that the noise of other batches and machines cannot undo it."""
MARGIN_AT_ZERO = 0.05
NOTHING_FIRES = "does not fire"
ENOUGH_OF_IT = "fires only what has its samples"
MEASURED = ("", NOTHING_FIRES, ENOUGH_OF_IT)
"""Reasons of candidates whose activation is known."""
NOT_FLUENT = "less likely than nearly all of the anchor"
REPEATS, TOO_SHORT, UNFINISHED = "repeats itself", "too short", "unfinished"
BROKEN = frozenset({NOT_FLUENT, REPEATS, TOO_SHORT, UNFINISHED})
"""Reasons of texts that too much steering gives."""
POOR, NOT_SCORED = "poor in the eyes of the judge", "no marks from the judge"
OTHER_LABEL = "predicted to have another label"
WRITER_ERROR, REFUSAL, NOT_ENCODED = "writer error", "refusal", "cannot be encoded"
MIN_WORDS = 3
COPIED_WORDS = 10
"""So many words in a row of a text that was shown to the writer make a candidate a copy; of a shorter one, all."""
QUOTES = (('"', '"'), ("“", "”"), ("'", "'"), ("‘", "’"), ("`", "`"))

_WORD = re.compile(r"\w+")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_SENTENCE = re.compile(r"[.!?][\"'”’)]*(?=\s|$)")
_OPENING = re.compile(
    r"(?:(?:sure|okay|certainly|of course)\b.*"
    r"|.*\bhere(?:'s| is| are)\b.*\b(?:message|example|one|question)s?\b.*):\s*$",
    re.IGNORECASE,
)


def acceptance_limit(threshold: float) -> float:
    """What an activation must exceed to be accepted."""
    return threshold * MARGIN if threshold > 0 else MARGIN_AT_ZERO


def text_sha256(text: str) -> str:
    """What proves that a text is still the accepted one."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def clean_text(reply: str, *, unfinished: bool = False) -> str:
    """The message itself: no control characters, and nothing that small writers put around it, however often.

    Of an `unfinished` reply whole sentences are kept. What comes out is clean: cleaned again, it stays as it is.
    """
    text = without_control(reply, unfinished=unfinished)
    while (inner := _unwrapped(text)) != text:
        text = inner
    return text


def without_control(reply: str, *, unfinished: bool = False) -> str:
    """A reply without control characters; of an `unfinished` one whole sentences."""
    text = _CONTROL.sub("", reply).strip()
    return text[: max((found.end() for found in _SENTENCE.finditer(text)), default=0)] if unfinished else text


def _unwrapped(text: str) -> str:
    """Without one layer of opening line, label, list mark and quotes; never longer, so that layers come to an end."""
    first, newline, rest = text.partition("\n")
    if newline and rest.strip() and _OPENING.match(first):
        text = rest.strip()
    text = re.sub(r"^(?:\*\*)?(?:new )?(?:message|user|question|text)(?:\*\*)?\s*:\s*(?:\*\*)?", "", text, flags=re.I)
    text = re.sub(r"^(?:[-*•]|\d{1,2}[.)])\s+", "", text.strip())
    while any(text[:1] == a and text[-1:] == b and not {a, b} & set(text[1:-1]) for a, b in QUOTES if len(text) > 1):
        text = text[1:-1].strip()
    return text.strip()


@dataclass(frozen=True)
class CleanSettings:
    """What is rejected, whatever it fires."""

    max_words: int | None = None
    personal_data: bool = False
    """Reject what seems to hold some: addresses, numbers of phones, cards and accounts."""
    fluency: float = 0.05
    """Share of the anchor that is less likely than what a steered writer may give; 0: anything may be."""
    min_score: int | None = None
    """The lowest mark that a judge may give, 1 to 5; None: no judge is asked."""
    check_label: bool = False
    """Reject what a head, trained on the anchor's labels, takes for another label than its own."""
    near: float = 0.5
    """Of the runs of five words, the share that seed set, anchor and accepted samples may have too."""
    alike: float | None = None
    """Cosine to the nearest of them by a sentence encoder, above which a sample says the same; None: not asked."""
    encoder: str = "embedded"


USUAL = CleanSettings()


def fault(
    reply: Reply, text: str, shown: str, languages: Collection[str] = ("",), settings: CleanSettings = USUAL
) -> str:
    """Why a reply is no candidate, whatever it fires; empty where it is one.

    Args:
        reply: what the writer gave.
        text: the reply, cleaned.
        shown: what the writer was shown, to tell copies.
        languages: of the anchor's spans, as `other_language` names them; empty is English.
        settings: what is rejected.
    """
    if reply.error:
        return f"{WRITER_ERROR}: {' '.join(reply.error.split())[:200]}"
    if reply.finish_reason == "length" and not text:
        return UNFINISHED
    words = text.lower().split()
    if len(words) < MIN_WORDS:
        return TOO_SHORT
    if reason := unclean(text, languages, settings):
        return reason
    return repeats(text) or ("copies what it was shown" if _is_copy(text, shown) else "")


def repeats(text: str) -> str:
    """Whether many runs of four words come up again; empty where they do not."""
    words = text.lower().split()
    fours = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    return REPEATS if len(fours) - len(set(fours)) > max(2, len(fours) // 6) else ""


def unclean(text: str, languages: Collection[str], settings: CleanSettings = USUAL) -> str:
    """What in a text, wherever it comes from, has no place in training data; empty where nothing has."""
    language, n_words = other_language(text), len(text.split())
    kind = personal_data_in(text) if settings.personal_data else ""
    found = (
        (settings.max_words is not None and n_words > settings.max_words, "too long"),
        (refuses_to_write(text), REFUSAL),
        (bool(template_in(text)), "remains of a template"),
        (language not in languages, f"wrong language: {language or 'English'}"),
        (bool(kind), f"personal data: {kind}"),
    )
    return next((reason for is_so, reason in found if is_so), "")


def _is_copy(text: str, shown: str) -> bool:
    """Whether `COPIED_WORDS` in a row, or a shorter text as a whole, stand in `shown`; marks and case do not count."""
    words, shown_words = (_WORD.findall(part.lower()) for part in (text, shown))
    n = min(COPIED_WORDS, len(words))
    known = {tuple(shown_words[i : i + n]) for i in range(len(shown_words) - n + 1)}
    return n > 0 and any(tuple(words[i : i + n]) in known for i in range(len(words) - n + 1))
