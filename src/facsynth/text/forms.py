"""Forms: which part of a row is encoded. Rows are cut to samples here, and samples written as rows again.

Texts are kept as found, but NUL is removed and a lone surrogate becomes U+FFFD; samples so repaired are counted.
A <think> block at the start of a reply becomes a turn of the role reasoning. Empty system and reasoning turns are
left out; an empty user or assistant turn is a `RowError`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from facsynth.errors import SettingsError
from facsynth.records import Message, Sample
from facsynth.text.layouts import NO_FIELDS, Fields, Parts, RowError, Turn, as_json, kind_of, parts_of

_DIALOGUE = frozenset({"user", "assistant"})
_FORM_ROLES = {
    "message": frozenset({"user"}),
    "chat": _DIALOGUE,
    "preference": _DIALOGUE,
    "ab": _DIALOGUE,
    "text": frozenset({"text"}),
}
FORMS = tuple(_FORM_ROLES)
_CONTENT_ROLES: frozenset[str] = frozenset().union(*_FORM_ROLES.values())

AB_KEYS = ("question", "answer_matching_behavior", "answer_not_matching_behavior")

_THINK = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")


class Mapped(NamedTuple):
    """A row's sample, and whether NUL or lone surrogates were taken out of it."""

    sample: Sample
    repaired: bool


def form_roles(form: str) -> frozenset[str]:
    """The roles whose contents are content.

    Raises:
        SettingsError: there is no such form.
    """
    if form not in _FORM_ROLES:
        raise SettingsError(f"there is no form {form!r}\nKnown forms: {', '.join(FORMS)}.")
    return _FORM_ROLES[form]


def check_compat(compat: str, codes: str) -> None:
    """Refuse to read texts as the paper's scripts did where codes are not theirs too.

    Raises:
        SettingsError: saying what to give.
    """
    if compat and codes != "relu":
        raise SettingsError(
            f"compat {compat} measures relu codes, asked for {codes}\nSet sae.codes: relu (--codes relu)."
        )


def to_sample(row: Any, form: str, fields: Fields = NO_FIELDS) -> Mapped:
    """Cut one row to the part its form encodes.

    Raises:
        RowError: the row has no such part.
        SettingsError: there is no such form.
    """
    form_roles(form)
    try:
        found = _messages(_cut(parts_of(row, fields, text_first=form == "text"), form))
    except RecursionError as err:
        raise RowError("the row is nested too deeply") from err
    messages = tuple(Message(m.role, _clean(m.content)) for m in found)
    repaired = messages != tuple(found)
    if form == "text":
        messages = (Message("text", "\n\n".join(m.content for m in messages if not _blank(m.content))),)
    for number, message in enumerate(messages, start=1):
        if message.role in _CONTENT_ROLES and _blank(message.content):
            where = f"turn (turn {number}) " if form != "text" else ""
            raise RowError(f"the {message.role} {where}is empty")
    return Mapped(Sample(messages), repaired)


def to_row(sample: Sample, form: str) -> dict[str, Any]:
    """The row, in the form's layout, that `to_sample` reads back to the same sample."""
    form_roles(form)
    turns = [{"role": m.role, "content": m.content} for m in sample.messages]
    if form == "text":
        return {"text": sample.text}
    if form == "preference":
        start = max((i for i, m in enumerate(sample.messages) if m.role == "user"), default=-1) + 1
        return {"prompt": turns[:start], "chosen": turns[start:]}
    if form == "ab" and [m.role for m in sample.messages] == ["user", "assistant"]:
        question, answer = sample.messages
        row = {"question": question.content, "answer_matching_behavior": answer.content}
        if to_sample(row, form).sample == sample:
            return row
    return {"messages": turns}


def full_row(row: Any, form: str, fields: Fields = NO_FIELDS) -> dict[str, Any]:
    """A row that `to_sample` takes, in the form's layout: all its turns, encoded or not, and the rejected reply.

    Besides, the label of a message and the subset of a pair.

    `to_sample` cuts it to the same sample as the row itself.

    Raises:
        RowError: the row has turns that are no texts.
    """
    parts = parts_of(row, fields, text_first=form == "text")
    history, reply, rejected = (_plain(turns) for turns in (parts.history, parts.reply, parts.rejected))
    if form == "text":
        return to_row(to_sample(row, form, fields).sample, form)
    if form == "preference":
        subset = row.get("subset") if isinstance(row, Mapping) else None
        kept: dict[str, Any] = {"subset": subset} if isinstance(subset, str) else {}
        return {"prompt": history, "chosen": reply} | ({"rejected": rejected} if rejected else {}) | kept
    if form == "ab" and isinstance(row, Mapping) and not fields.named:
        kept = {key: row[key] for key in AB_KEYS if isinstance(row.get(key), str)}
        if len(kept) == len(AB_KEYS):
            return kept
    label = row.get("label") if form == "message" and isinstance(row, Mapping) else None
    label = int(label) if isinstance(label, float) and label.is_integer() else label
    return {"messages": history + reply} | ({"label": label} if isinstance(label, str | int) else {})


def _plain(turns: Sequence[Turn]) -> list[dict[str, str]]:
    texts = [(turn.role, _clean(_content(turn, number))) for number, turn in enumerate(turns, start=1)]
    return [{"role": role, "content": content} for role, content in texts]


def _cut(parts: Parts, form: str) -> list[Turn]:
    if form == "message":
        turns = [turn for turn in parts.history if turn.role == "user"]
        if not turns:
            raise RowError("form message needs a user turn, the row has none", "Choose another data.form (--form).")
        return turns
    turns = parts.history + parts.reply
    roles = [turn.role for turn in turns]
    if form == "preference" and not (parts.preferred and "assistant" in [turn.role for turn in parts.reply]):
        raise RowError(
            "form preference needs a chosen reply, the row has none",
            "Choose another data.form (--form), or name the field of the chosen reply: data.fields.chosen "
            "(--chosen-field).",
        )
    lacking = [] if form == "text" else [role for role in ("user", "assistant") if role not in roles]
    if lacking:
        raise RowError(
            f"form {form} needs a turn of the {lacking[0]}, the row has {', '.join(dict.fromkeys(roles)) or 'none'}",
            "Choose another data.form (--form), or name the fields: data.fields.prompt and completion "
            "(--prompt-field and --completion-field).",
        )
    return turns


def _messages(turns: Sequence[Turn]) -> list[Message]:
    messages = []
    for number, turn in enumerate(turns, start=1):
        content = _content(turn, number)
        while turn.role == "assistant" and (thought := _THINK.match(content)):
            messages.append(Message("reasoning", thought.group(1).strip()))
            content = content[thought.end() :]
        messages.append(Message(turn.role, content))
    return [m for m in messages if m.role in _CONTENT_ROLES or m.role == "tool" or not _blank(m.content)]


def _content(turn: Turn, number: int) -> str:
    content = turn.content
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content:
        if len(content) > 1 and turn.role != "tool" and all(isinstance(part, str) for part in content):
            raise RowError(
                f"the content of the {turn.role} turn (turn {number}) is a list of {len(content)} texts, not a text",
                "Write one object a row. A file of columns, as DataFrame.to_dict('list') gives, is named .json.",
            )
        texts: list[Any] = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        if all(isinstance(text, str) for text in texts):
            return "".join(texts)
        if turn.role != "tool":
            kinds = {str(p.get("type", "unknown")) for p in content if isinstance(p, Mapping)} - {"text"}
            raise RowError(f"turn {number} has parts that are not text: {', '.join(sorted(kinds)) or 'unknown'}")
    if turn.role == "tool":
        return as_json(content)
    raise RowError(
        f"the content of the {turn.role} turn (turn {number}) is {kind_of(content)}, not a string",
        "Where the text lies deeper, name its path, as in data.fields.completion: messages.1.content.answer "
        "(--completion-field messages.1.content.answer).",
    )


def _clean(text: str) -> str:
    return text if text.isascii() and "\0" not in text else _SURROGATE.sub("\ufffd", text.replace("\0", ""))


def _blank(text: str) -> bool:
    return not text.replace("\ufffd", "").replace("\0", "").strip()
