"""Instruction following downstream: which of two answers a judge would rather have, asked in both orders; win rate.

Before: answers of a model, and of a reference. After: `evaluating` writes the figures down. Judges favour a place: each
pair is shown twice, turned round, and a judge that answers one letter whatever stands there is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator

from facsynth import prompts
from facsynth.errors import IncompleteError, ModelError
from facsynth.llm.endpoint_writer import is_passing
from facsynth.llm.structured import Answer, ask_json
from facsynth.meaning.asking import AskingSettings, question
from facsynth.protocols import Writer
from facsynth.records import Failure, Request
from facsynth.tasks.resample import Metric, mean_metric

Letter = Literal["A", "B", "tie"]
ONE_LETTER = 0.95
"""Share of A, or of B, in the verdicts, above which a judge looks at the place and not at the answer: of sound verdicts
in both orders, each has half."""
ANOTHER = "Take another judge, in another folder: --judge-url, --judge-model and -o."
WORTH: Mapping[Letter, float] = {"A": 1.0, "B": 0.0, "tie": 0.5}


def _letter(value: object) -> object:
    told = value.strip().strip(".\"'").casefold() if isinstance(value, str) else value
    return {"a": "A", "b": "B"}.get(told, told) if isinstance(told, str) else told


class _Choice(Answer):
    better: Annotated[Letter, BeforeValidator(_letter)]


class Duel(NamedTuple):
    """Two answers to one instruction."""

    sample_id: str
    instruction: str
    ours: str
    reference: str


class Verdict(NamedTuple):
    """What a judge said of a duel."""

    ours_first: Letter | None
    """With our answer as A; None where the reply could not be used, or where both answers are the same."""
    ours_second: Letter | None
    """With our answer as B."""
    preference: float | None
    """Mean over both orders, from 0 (the reference is better) to 1 (ours is); None without both verdicts."""


class Verdicts(NamedTuple):
    """Of several duels, in their order."""

    found: list[Verdict]
    failures: list[Failure]
    """`where` is the sample, and the order."""


def judge_duels(duels: Sequence[Duel], writer: Writer, asking: AskingSettings) -> Verdicts:
    """Ask which answer is better, for each duel in both orders; equal answers are a tie, and nobody is asked.

    Args:
        duels: with different instructions.
        writer: the judge.
        asking: how it is asked.

    Raises:
        IncompleteError: questions without an answer that the same command could find.
    """
    requests: dict[tuple[int, int], Request] = {
        (place, order): _asked(duel, order, place, asking)
        for place, duel in enumerate(duels)
        if duel.ours != duel.reference
        for order in (0, 1)
    }
    answers = dict(zip(requests, ask_json(writer, list(requests.values()), _Choice) if requests else [], strict=True))
    failed = {key: answer for key, answer in answers.items() if isinstance(answer, Failure)}
    passing = [failure.reason for failure in failed.values() if is_passing(failure.reason)]
    if passing:
        raise IncompleteError(
            f"the judge has not answered {len(passing)} of {len(answers)} questions: {passing[0]}\n"
            "What was answered is kept, and the same command asks again."
        )
    letters = {key: answer.better for key, answer in answers.items() if not isinstance(answer, Failure)}
    found = [
        Verdict(None, None, 0.5)
        if duel.ours == duel.reference
        else _verdict(letters.get((place, 0)), letters.get((place, 1)))
        for place, duel in enumerate(duels)
    ]
    names = ("our answer first", "our answer second")
    failures = [replace(f, where=f"{duels[place].sample_id}, {names[order]}") for (place, order), f in failed.items()]
    return Verdicts(found, failures)


def _asked(duel: Duel, order: int, place: int, asking: AskingSettings) -> Request:
    shown = (duel.ours, duel.reference) if order == 0 else (duel.reference, duel.ours)
    prompt = prompts.fill(
        "prefer",
        instruction=prompts.quoted(duel.instruction),
        answer_a=prompts.quoted(shown[0]),
        answer_b=prompts.quoted(shown[1]),
    )
    return question(prompt, place, asking, begin='{"better": "', stop='"', n_tokens=4)


def _verdict(first: Letter | None, second: Letter | None) -> Verdict:
    preference = None if first is None or second is None else (WORTH[first] + 1 - WORTH[second]) / 2
    return Verdict(first, second, preference)


def bias_of(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """How the verdicts depend on the place: letters, and the share of duels whose two orders do not agree."""
    letters = Counter(letter for v in verdicts for letter in (v.ours_first, v.ours_second) if letter is not None)
    both = [(WORTH[v.ours_first], 1 - WORTH[v.ours_second]) for v in verdicts if v.ours_first and v.ours_second]
    disagree = sum(first != second for first, second in both)
    return {
        "letters": {letter: letters[letter] for letter in WORTH},
        "n_asked_twice": len(both), "disagree": disagree / len(both) if both else None,
    }  # fmt: skip


def check_judge(verdicts: Sequence[Verdict], judge: str, failures: str) -> None:
    """Refuse a judge that gives one letter whatever stands there, or none; `failures` is the file of its replies.

    Raises:
        ModelError: saying how often.
    """
    letters: dict[str, int] = bias_of(verdicts)["letters"]
    n = sum(letters.values())
    if not n and any(verdict.preference is None for verdict in verdicts):
        raise ModelError(
            f"no reply of the judge ({judge}) says which answer is better: {failures} in the folder "
            f"has what it replied\n{ANOTHER}"
        )
    for letter in ("A", "B"):
        if letters[letter] > ONE_LETTER * n:
            raise ModelError(
                f"the judge ({judge}) answered {letter} to {letters[letter]} of {n} questions, though each pair of "
                "answers was shown in both orders: it tells nothing of the answers, and no result is written\n"
                f"{ANOTHER}"
            )


def metric(items: Sequence[Mapping[str, Any]]) -> Metric:
    """Mean preference; items without one are left out."""
    del items
    return mean_metric
