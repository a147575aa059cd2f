"""Instructions with a reference's answers, chats as examples to train on, and a model's own answers.

Before: files of `data`. After: `instruction` trains, and has the answers judged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from facsynth.errors import InputError
from facsynth.evaluating.data import Rows, data_file, where_of
from facsynth.model.tuning import Example
from facsynth.protocols import Writer
from facsynth.records import Failure, Message, Progress, Reply, Request, Sample, content_id
from facsynth.store import RESTORE, Artifact, write_text
from facsynth.text.sources import open_source
from facsynth.text.template import Template

ALPACA = (
    "{{ bos_token or '' }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '### Instruction:\n' + message['content'] + '\n\n### Response:\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token + '\n\n' }}"
    "{% else %}{{ message['content'] + '\n\n' }}{% endif %}{% endfor %}"
)
"""For a base model without a chat template: the frame of Alpaca's prompts, as in the paper."""
SPOKEN = frozenset({"system", "user", "assistant"})
"""Turns that are trained on; tool calls and reasoning are left out."""
CUT = "length"
"""`finish_reason` of an answer that its most tokens cut."""


class Item(NamedTuple):
    """An instruction to answer, with the reference's answer."""

    sample_id: str
    instruction: str
    dataset: str
    reference: str

    def as_row(self) -> dict[str, str]:
        """What sets it apart from the items of other results."""
        return {"sample_id": self.sample_id, "reference_id": content_id((Message("assistant", self.reference),))}


class Items(NamedTuple):
    """A test set."""

    items: list[Item]
    n_twice: int
    """Instructions that came again, and were left out."""
    n_skipped: int
    """Rows that cannot be read."""
    fingerprints: dict[str, str]


class Chats(NamedTuple):
    """A training set."""

    samples: list[Sample]
    fingerprint: str
    n_skipped: int
    """Rows that cannot be read."""


def read_items(test: Sequence[str], reference: str, progress: Progress) -> Items:
    """Instructions, each once, with the reference's answer to the same text.

    Raises:
        InputError: the reference lacks some, or has two for one.
    """
    rows, answers = Rows(test, "message", progress), Rows([reference], "chat", progress)
    samples = [sample for sample, _ in rows]
    different = {sample.sample_id: sample for sample in samples}
    replies: dict[str, str] = {}
    for sample in (sample for sample, _ in answers if _is_answered(sample) and asked_in(sample) in different):
        text = sample.messages[-1].content
        if replies.setdefault(asked_in(sample), text) != text:
            raise InputError(
                f"{where_of(sample, answers)} has another output for an instruction that has one already\n"
                "Leave one of them out: answers are compared with one."
            )
    datasets = {row.where: row.value.get("dataset") for row in _raw(test) if isinstance(row.value, Mapping)}
    missing = [sample for sample in different.values() if sample.sample_id not in replies]
    if missing:
        raise InputError(
            f"{reference} has no output for {len(missing)} of {len(different)} instructions; the first is "
            f"{where_of(missing[0], rows)}: {missing[0].text[:80]!r}\n"
            "Outputs are found by the text of their instruction: give those of a model that was asked all of them."
        )
    items = [
        Item(sample.sample_id, sample.text, str(datasets.get(sample.where) or ""), replies[sample.sample_id])
        for sample in different.values()
    ]
    n_twice = len(samples) - len(items)
    return Items(items, n_twice, rows.n_failures, {"test": rows.fingerprint(), "reference": answers.fingerprint()})


def _raw(sources: Sequence[str]) -> Iterator[Any]:
    return (row for source in sources for row in open_source(data_file(source)).rows())


def asked_in(sample: Sample) -> str:
    """The id that a chat's user turns have as a sample of form message; of what has none, its own."""
    turns = tuple(message for message in sample.messages if message.role == "user")
    return content_id(turns) if turns else sample.sample_id


def _is_answered(sample: Sample) -> bool:
    return sample.messages[-1].role == "assistant"


def read_chats(train: Sequence[str], progress: Progress) -> Chats:
    """Chats to train on."""
    rows = Rows(train, "chat", progress)
    return Chats([sample for sample, _ in rows], rows.fingerprint(), rows.n_failures)


def examples_of(chats: Chats, template: Template, max_tokens: int) -> list[Example]:
    """Each chat up to its last reply, which alone is learned, in the frame that `template` answers in.

    Longer ones than `max_tokens` lose the end of the reply; those whose prompt is as long are left out, and so is what
    the template refuses.

    Raises:
        InputError: nothing is left.
    """
    found, reason = [], "it has no reply after a prompt, or a prompt that is too long"
    for sample in chats.samples:
        turns = [message for message in sample.messages if message.role in SPOKEN]
        while turns and turns[-1].role != "assistant":
            turns.pop()
        if len(turns) < 2:
            continue
        try:
            prompt, text = template.prompt_ids(turns[:-1]), template.render(turns)
        except InputError as err:
            reason = str(err)
            continue
        ids = list(template.tokenizer(text, add_special_tokens=False)["input_ids"])[:max_tokens]
        n_prompt = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, ids, strict=False)))
        if n_prompt < len(ids):
            found.append(Example(ids, n_prompt))
    if not found:
        raise InputError(f"none of the {len(chats.samples)} chats can be trained on: {reason}\nGive other chats.")
    return found


def write_answers(writer: Writer, items: Sequence[Item], max_tokens: int) -> list[Reply]:
    """The model's most likely answer to each instruction."""
    return writer.write(
        [Request((Message("user", item.instruction),), max_tokens, 0.0, 1.0, rng_seed=0) for item in items]
    )


def keep_outputs(artifact: Artifact, name: str, items: Sequence[Item], replies: Sequence[Reply], model: str) -> None:
    """Answers in AlpacaEval's layout, a list of objects; one that failed is a row of failures."""
    rows = [
        {
            "dataset": item.dataset, "instruction": item.instruction, "output": reply.text, "generator": model,
            "finish_reason": reply.finish_reason,
        }
        for item, reply in zip(items, replies, strict=True)
        if not reply.error
    ]  # fmt: skip
    failures = [
        Failure(item.sample_id, f"no answer: {reply.error}")
        for item, reply in zip(items, replies, strict=True)
        if reply.error
    ]
    text = json.dumps(rows, ensure_ascii=False, indent=1)
    artifact.write(name, lambda path: write_text(path, text), failures)


def read_outputs(path: Path, items: Sequence[Item]) -> list[dict[str, Any] | None]:
    """Of each item its row; None where the answer failed.

    Raises:
        InputError: the file was changed.
    """
    try:
        rows = {row["instruction"]: row for row in json.loads(path.read_text("utf-8")) if row["output"] is not None}
    except (ValueError, KeyError, TypeError) as err:
        raise InputError(f"{path} is no list of outputs: {err}\n{RESTORE}") from err
    return [rows.get(item.instruction) for item in items]
