"""What questions about features have in common: how texts stand in a prompt, and what a usable answer is.

Before: spans of `features.draw`. After: `interpret`, `score` and `judge` ask. Texts of corpora are untrusted: each is
one JSON string on a line of its own, so that no text ends where it wants to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

from facsynth.errors import SettingsError
from facsynth.llm.structured import Answer, ask_json
from facsynth.prompts import apart, quoted
from facsynth.protocols import Writer
from facsynth.records import Failure, Message, Request, Span
from facsynth.text.dirt import refuses
from facsynth.text.language import other_language

_T = TypeVar("_T")
_A = TypeVar("_A", bound=Answer)
MARKS = ("<<", ">>")
"""Around a firing token, as in delphi; small models know them better than rarer ones."""
LONGEST_BEFORE, LONGEST_AFTER = 600, 200
"""Characters of a text in a prompt, before and after its firing token."""
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]+")
_MARK = re.compile(r"<(?=<)|>(?=>)")
"""Where a mark begins."""


@dataclass(frozen=True)
class AskingSettings:
    """What explanations, scores and verdicts depend on, besides features, spans and the model that is asked."""

    n_spans: int = 10
    """Shown to whoever explains a feature."""
    n_texts: int = 20
    """That an explanation is tested on: half of them fire the feature."""
    texts_per_call: int = 10
    max_tokens: int = 128
    """Of an answer; of one that does not end, twice as many."""
    asks: Literal["continue", "message"] = "message"
    """continue: the answer is begun in the prompt, for a small model in this process."""
    rng_seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("n_spans", 1), ("n_texts", 4), ("texts_per_call", 2), ("max_tokens", 8)):
            if getattr(self, name) < least:
                raise SettingsError(f"{name} is {getattr(self, name)}\nGive at least {least}.")


USUAL = AskingSettings()


@dataclass(frozen=True)
class Answers(Generic[_T]):
    """What was answered, by feature, and what was not."""

    found: dict[int, _T]
    failures: tuple[Failure, ...]
    """`where` is the feature."""


def question(prompt: str, number: int, settings: AskingSettings, *, begin: str, stop: str, n_tokens: int) -> Request:
    """A prompt as a request; a small model goes on from `begin` and ends at `stop`, within `n_tokens`."""
    goes_on = settings.asks == "continue"
    return Request(
        messages=(Message("user", prompt),),
        max_tokens=min(n_tokens, settings.max_tokens) if goes_on else settings.max_tokens,
        temperature=0.0,
        top_p=1.0,
        rng_seed=settings.rng_seed,
        sample_index=number,
        prefix=begin if goes_on else "",
        stop=stop if goes_on else "",
    )


def ask_each(writer: Writer, questions: Mapping[int, Request], form: type[_A]) -> Answers[_A]:
    """One question about each feature."""
    answers = dict(zip(questions, ask_json(writer, list(questions.values()), form), strict=True))
    return Answers(
        {feature: answer for feature, answer in answers.items() if not isinstance(answer, Failure)},
        tuple(replace(a, where=f"feature {feature}") for feature, a in answers.items() if isinstance(a, Failure)),
    )


def listed(texts: Iterable[str], strengths: Sequence[int] = ()) -> str:
    """Numbered lines, each text a JSON string; strengths stand behind the number."""
    lines = []
    for number, text in enumerate(texts, start=1):
        strength = f" ({strengths[number - 1]})" if strengths else ""
        lines.append(f"{number}.{strength} {quoted(text)}")
    return "\n".join(lines)


def marked(span: Span, marks: tuple[str, str] = MARKS) -> str:
    """The span and how its sentence goes on, the firing token between marks."""
    token = _flat(span.token)
    space, token = (" " if token[:1] == " " else ""), token.strip() or "⏎"
    whole = span.text.rstrip("\ufffd")  # a character of several tokens ends behind the span
    before, after = _flat(span.text.removesuffix(span.token)), _flat(span.context[len(whole) :])
    return f"{before[-LONGEST_BEFORE:]}{space}{marks[0]}{token}{marks[1]}{after[:LONGEST_AFTER]}".strip()


def bare(span: Span) -> str:
    """As `marked`, without the marks."""
    return marked(span, ("", "")).replace("⏎", " ")


def one_line(text: str) -> str:
    """Words of an answer on one line, without control characters and halves of characters."""
    return " ".join(_UNPRINTABLE.sub(" ", text).split())


def unusable(text: str) -> str:
    """Why words of an answer cannot be used; empty where they can."""
    if not text.strip():
        return "empty: the answer holds no words"
    if refuses(text):
        return "refusal: the model would not answer"
    found = other_language(text)
    return f"wrong language: it seems to be {found}, English was asked for" if found else ""


def _flat(text: str) -> str:
    """On one line, without marks of its own, or anything that ends a turn: such words are taken apart."""
    return apart(_MARK.sub(lambda found: f"{found[0]} ", re.sub(r"\s+", " ", text)))
