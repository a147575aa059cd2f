"""Samples in the layouts that trainers read: TRL's types of data sets, and LLaMA-Factory's with their entry.

Before: rows in the layout of their form, as `forms.full_row` gives them. TRL: trl/docs/source/dataset_formats.md;
LLaMA-Factory: data/README.md of its repository.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from facsynth.errors import InputError

Row = dict[str, Any]
Layout = Literal["trl", "trl-completion", "llama-factory", "plain"]
"""trl: messages, prompt alone, or prompt with chosen and rejected. trl-completion: prompt and completion."""
_TRAINED = ("user", "assistant", "system")
"""Roles that both trainers know in any template."""


def laid_out(rows: Sequence[Row], form: str, layout: Layout) -> list[Row]:
    """The rows of a form in a trainer's layout, all of one kind.

    Messages that all have a label are text and label. Where one chat has no reply, all are prompts: a trainer takes one
    kind of row. Pairs without the rejected reply, and
    turns of other roles than user, assistant and system, are left as they are found.
    """
    if layout == "plain" or form == "text":
        return [dict(row) for row in rows]
    if form == "message" and layout == "trl" and all("label" in row for row in rows):
        return _labelled(rows)
    if form == "preference" or (form == "ab" and all("answer_not_matching_behavior" in row for row in rows)):
        pairs = [row if form == "preference" else _pair_of(row) for row in rows]
        return [_ranked(row) for row in pairs] if layout == "llama-factory" else pairs
    chats = [_turns_of(row) for row in rows]
    has_replies = all(turns and turns[-1]["role"] == "assistant" for turns in chats)
    make: dict[str, Callable[[list[Row]], Row]] = {
        "trl": lambda turns: {"messages": turns},
        "trl-completion": lambda turns: {"prompt": turns[:-1], "completion": turns[-1:]},
        "llama-factory": lambda turns: {"messages": turns},
    }
    return [make[layout](turns) if has_replies else {"prompt": _up_to_user(turns)} for turns in chats]


def dataset_info(name: str, file_name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """The entry of LLaMA-Factory's `dataset_info.json` for such rows.

    Raises:
        ValueError: rows that it cannot train on: prompts without replies.
    """
    first = rows[0]
    if "text" in first:
        return {name: {"file_name": file_name, "columns": {"prompt": "text"}}}
    if "messages" not in first:
        raise ValueError("there are no replies to train on (those of form chat have one)")
    columns = {"messages": "messages"}
    tags = {"role_tag": "role", "content_tag": "content"}
    tags |= {f"{role}_tag": role for role in _TRAINED}
    entry: dict[str, Any] = {"file_name": file_name, "formatting": "sharegpt"}
    if "chosen" in first:
        columns |= {"chosen": "chosen", "rejected": "rejected"}
        entry["ranking"] = True
    return {name: entry | {"columns": columns, "tags": tags}}


def _labelled(rows: Sequence[Row]) -> list[Row]:
    """For a classifier.

    Raises:
        InputError: some labels are numbers, others words.
    """
    of_kind = {type(row["label"]).__name__: row["label"] for row in rows}
    if len(of_kind) > 1:
        found = " and ".join(repr(label) for label in of_kind.values())
        raise InputError(
            f"labels are of several kinds, as {found}\n"
            "Spell the labels of seed set and anchor alike: written samples have those of the anchor, or of the task."
        )
    return [{"text": _text_of(row), "label": row["label"]} for row in rows]


def _text_of(row: Mapping[str, Any]) -> str:
    """What a classifier reads: the user's turns."""
    return "\n\n".join(turn["content"] for turn in row["messages"] if turn["role"] == "user")


def _turns_of(row: Mapping[str, Any]) -> list[Row]:
    if "messages" in row:
        return [dict(turn) for turn in row["messages"]]
    return [
        {"role": "user", "content": row["question"]},
        {"role": "assistant", "content": row["answer_matching_behavior"]},
    ]


def _pair_of(row: Mapping[str, Any]) -> Row:
    """Of an A/B question: the matching answer is the chosen one."""
    replies = {"chosen": row["answer_matching_behavior"], "rejected": row["answer_not_matching_behavior"]}
    return {
        "prompt": [{"role": "user", "content": row["question"]}],
        **{name: [{"role": "assistant", "content": text.strip()}] for name, text in replies.items()},
    }


def _ranked(pair: Mapping[str, Any]) -> Row:
    """LLaMA-Factory takes one turn, the last, as the reply."""
    *more, last = pair["chosen"]
    return {"messages": [*pair["prompt"], *more], "chosen": last, "rejected": pair.get("rejected", [{}])[-1]}


def _up_to_user(turns: Sequence[Row]) -> list[Row]:
    """What comes before the last reply."""
    end = max((i + 1 for i, turn in enumerate(turns) if turn["role"] == "user"), default=len(turns))
    return list(turns[:end])
