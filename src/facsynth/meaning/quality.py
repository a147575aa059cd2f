"""How good a sample is as training data, in the marks of a model that is not told where the sample comes from.

Before: whole rows, in the layout of their form. After: `synthesis` keeps what has no mark under `min_score`; the report
shows the scores of accepted samples beside those of seed set and anchor, by the same judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from facsynth import prompts
from facsynth.errors import IncompleteError
from facsynth.llm.endpoint_writer import is_passing
from facsynth.llm.structured import Answer, ask_json
from facsynth.meaning.asking import AskingSettings, question
from facsynth.protocols import Writer
from facsynth.records import Failure

LONGEST_TURN = 4000
"""Characters of a turn that are shown; of a longer one the middle is left out."""
FIT = "it serves that purpose"
NATURAL = "somebody could have written it so, in good language"
CORRECT = {
    "message": "it makes sense by itself, and says or asks something that can be understood",
    "chat": "the last reply is right, and does what was asked for",
    "preference": "the chosen reply is right and better than the rejected one, which is wrong but no nonsense",
    "ab": "the matching answer shows what the data is about and the other one does not, and both could be given",
    "text": "what it says holds together",
}
Mark = Annotated[int, Field(ge=1, le=5)]


class _Marks(Answer):
    fit: Mark
    correct: Mark
    natural: Mark


def rate(
    rows: Sequence[Mapping[str, Any]], form: str, purpose: str, writer: Writer, settings: AskingSettings
) -> list[int | None]:
    """The lowest of three marks, 1 to 5, of each row; None where the judge's answer holds none.

    Equal rows are asked about once.

    Args:
        rows: in the layout of `form`.
        form: says what is correct.
        purpose: what the data is for.
        writer: the model that judges.
        settings: how it is asked.

    Raises:
        IncompleteError: the judge was not there, and may be for a later command.
    """
    shown = [listed_parts(row) for row in rows]
    different = list(dict.fromkeys(shown))
    requests = [
        question(
            prompts.fill("rate", purpose=purpose, sample=text, fit=FIT, correct=CORRECT[form], natural=NATURAL),
            0, settings, begin='{"fit": ', stop="}", n_tokens=32,
        )
        for text in different
    ]  # fmt: skip
    answers = dict(zip(different, ask_json(writer, requests, _Marks) if requests else [], strict=True))
    passing = [a.reason for a in answers.values() if isinstance(a, Failure) and is_passing(a.reason)]
    if passing:
        raise IncompleteError(
            f"the judge has not answered {len(passing)} of {len(answers)} questions: {passing[0]}\n"
            "What was answered is kept, and the same command asks again."
        )
    return [None if isinstance(a := answers[text], Failure) else min(a.fit, a.correct, a.natural) for text in shown]


def listed_parts(row: Mapping[str, Any]) -> str:
    """A row part by part, each one JSON string on a line of its own; labels are left out."""
    if "question" in row:
        names = {"question": "question", "answer_matching_behavior": "matching answer",
                 "answer_not_matching_behavior": "other answer"}  # fmt: skip
        return "\n".join(_line(name, str(row[key])) for key, name in names.items() if key in row)
    if "text" in row:
        return _line("text", str(row["text"]))
    turns = [(turn["role"], turn["content"]) for turn in row.get("messages", row.get("prompt", []))]
    turns += [(f"{name} reply", turn["content"]) for name in ("chosen", "rejected") for turn in row.get(name, [])]
    return "\n".join(_line(name, text) for name, text in turns)


def _line(name: str, text: str) -> str:
    if len(text) > LONGEST_TURN:
        text = f"{text[: LONGEST_TURN // 2]} […] {text[-LONGEST_TURN // 2 :]}"
    return f"{name}: {prompts.quoted(text)}"
