"""What a feature reacts to, in words: from spans over the whole range of its activations, the firing token marked.

Before: `features.draw`. After: `score` tests the explanation on other texts, `judge` asks whether a task needs the
feature. Nothing is decided by an explanation: what a text fires is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator

from facsynth import prompts
from facsynth.llm.structured import Answer
from facsynth.meaning.asking import (
    MARKS,
    USUAL,
    Answers,
    AskingSettings,
    ask_each,
    listed,
    marked,
    one_line,
    question,
    unusable,
)
from facsynth.protocols import Writer
from facsynth.records import Span

LONGEST_EXPLANATION = 400
CANNOT_TELL = ""
"""The explanation of a feature whose spans share nothing that could be named."""


_NOTHING = {"null", "none", "cannot tell"}
"""Words for null, of models that have begun a string."""


def _usable(text: str | None) -> str | None:
    if text is None or text.strip(" .").casefold() in _NOTHING:
        return None
    if len(text) > LONGEST_EXPLANATION:
        raise ValueError(f"it has {len(text)} characters, at most {LONGEST_EXPLANATION} were asked for")
    if reason := unusable(text):
        raise ValueError(reason)
    return text


class _Explained(Answer):
    explanation: Annotated[str | None, AfterValidator(_usable)]


def interpret(spans: Mapping[int, Sequence[Span]], writer: Writer, settings: AskingSettings = USUAL) -> Answers[str]:
    """Explain each feature, with one call.

    Args:
        spans: of each feature, all of which it fires; a feature without any is not asked about.
        writer: the model that explains.
        settings: how many spans it is shown.

    Returns:
        By feature its explanation, `CANNOT_TELL` where the model could name nothing.
    """
    questions = {
        feature: question(
            prompts.fill("explain", spans=_shown(rows[: settings.n_spans])),
            feature,
            settings,
            begin='{"explanation": "',
            stop=".",
            n_tokens=64,
        )
        for feature, rows in spans.items()
        if rows
    }
    answers = ask_each(writer, questions, _Explained)
    texts = {f: _plain(answer.explanation or CANNOT_TELL) for f, answer in answers.found.items()}
    return Answers(texts, answers.failures)


def _plain(text: str) -> str:
    return one_line(text.replace(MARKS[0], "").replace(MARKS[1], ""))


def _shown(spans: Sequence[Span]) -> str:
    """The strongest first, each with its strength from 1 to 10."""
    ordered = sorted(spans, key=lambda span: -span.activation)
    highest = ordered[0].activation
    return listed(map(marked, ordered), [max(1, round(10 * span.activation / highest)) for span in ordered])
