"""Whether a task needs a feature, in the words of a model: Yes, Probably, Maybe or No, with a reason.

Before: explanations of `interpret`. After: `measure` takes the features whose verdicts count as relevant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

from facsynth import prompts
from facsynth.llm.structured import Answer
from facsynth.meaning.asking import (
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
from facsynth.records import Span, Task

Label = Literal["Yes", "Probably", "Maybe", "No"]
COUNTED: tuple[Label, ...] = ("Yes", "Probably", "Maybe")
"""The verdicts that count as relevant (paper, appendix K)."""
LONGEST_REASON = 400
N_SHOWN = 4
"""Spans beside the explanation."""


def _usable(reason: str) -> str:
    reason = one_line(reason)[:LONGEST_REASON]
    if why := unusable(reason):
        raise ValueError(why)
    return reason


class _Label(Answer):
    """Of a small model, which gives no reason."""

    verdict: Annotated[Label, BeforeValidator(lambda v: v.strip().strip(".").capitalize() if isinstance(v, str) else v)]


class _Reasoned(_Label):
    reason: Annotated[str, AfterValidator(_usable)]


@dataclass(frozen=True)
class Verdict:
    """Whether a feature is relevant to a task."""

    label: Label
    reason: str
    """Empty where a small model was asked."""


def judge(
    explanations: Mapping[int, str],
    spans: Mapping[int, Sequence[Span]],
    task: Task,
    writer: Writer,
    settings: AskingSettings = USUAL,
) -> Answers[Verdict]:
    """Judge each explained feature, with one call; one that could not be explained is not asked about.

    Args:
        explanations: by feature.
        spans: of each of them, best first.
        task: its definition and rubric go into the prompt.
        writer: the model that judges.
        settings: how it is asked.
    """
    rubric = "\n".join(f"- {line}" for line in task.rubric)
    questions = {
        feature: question(
            prompts.fill(
                "judge",
                definition=task.definition,
                rubric=rubric,
                explanation=prompts.quoted(explanation),
                spans=listed(map(marked, spans[feature][:N_SHOWN])),
            ),
            feature,
            settings,
            begin='{"verdict": "',
            stop='"',
            n_tokens=8,
        )
        for feature, explanation in explanations.items()
        if explanation
    }
    if settings.asks == "continue":
        labels = ask_each(writer, questions, _Label)
        return Answers({f: Verdict(a.verdict, "") for f, a in labels.found.items()}, labels.failures)
    answers = ask_each(writer, questions, _Reasoned)
    return Answers({f: Verdict(a.verdict, a.reason) for f, a in answers.found.items()}, answers.failures)
