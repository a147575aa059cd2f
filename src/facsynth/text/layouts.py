r"""What a row holds, whatever its layout: the turns that lead up to a reply, and the reply.

A row is read by the first of these that it has (null counts as absent); form `text` asks for `text` first:

    messages | conversations    [chosen]                                a list of turns: role/content or from/value
    prompt                      [chosen | completion]                   a text, an HH text, or a list of turns
    instruction [input]         [chosen | output]                       also instances.0.input, instances.0.output
    question                    [chosen | answer_matching_behavior | answer]
    chosen                                                              "\n\nHuman: … \n\nAssistant: …", or turns
    text                                                                a user turn, unless the form is `text`

`system` (or `system_prompt`) and `history` (pairs) go before the turns. A `chosen` that holds a user turn is the
whole conversation, else it follows the prompt. `Fields` replaces all of this by named fields.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

from facsynth.errors import SettingsError

_ROLES = {
    name: role
    for role, names in {
        "user": ("user", "human", "prompter"),
        "assistant": ("assistant", "gpt", "model", "bot"),
        "system": ("system", "developer"),
        "tool": ("tool", "function", "observation", "ipython"),
        "tool_call": ("tool_call", "function_call"),
        "reasoning": ("reasoning", "thinking"),
    }.items()
    for name in names
}
_REPLIES: dict[str, tuple[str, ...]] = {
    "messages": (),
    "conversations": (),
    "prompt": ("completion",),
    "instruction": ("output", "instances.0.output"),
    "question": ("answer_matching_behavior", "answer"),
}
LAYOUT_KEYS = frozenset(_REPLIES) | {"chosen", "text"}
"""A row that has one of these is recognised."""

_ABSENT = object()
_HH_TURN = re.compile(r"\n\n(Human|Assistant):")
KNOWN_LAYOUTS = (
    "Known layouts: messages; conversations; prompt + completion; prompt + chosen + rejected; instruction + input + "
    "output; question + answer; chosen + rejected; text."
)
_UNKNOWN_HINT = (
    f"{KNOWN_LAYOUTS}\n"
    "Name the fields of any other (a.0.b goes into objects and lists): data.fields.text (--text-field FIELD), or "
    "messages, prompt and completion, chosen and rejected (--messages-field …)."
)


class RawRow(NamedTuple):
    """A row as found. With a `problem`, `value` is what could not be read."""

    where: str
    value: Any
    problem: str = ""


class RowError(ValueError):
    """Why a row is no sample of the form; `hint` is the way out where a whole corpus is like that."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


@dataclass(frozen=True)
class Fields:
    """Where the parts of a row are, for layouts that are not recognised; a dotted path goes into objects and lists."""

    text: str | None = None
    messages: str | None = None
    prompt: str | None = None
    completion: str | None = None
    chosen: str | None = None
    rejected: str | None = None

    def __post_init__(self) -> None:
        for part, path in asdict(self).items():
            if path is not None and not path.strip():
                raise SettingsError(
                    f"the name of the {part} field is empty\nName a field: data.fields.{part} (--{part}-field)."
                )
        beginnings = [name for name in ("text", "messages", "prompt") if name in self.named]
        if len(beginnings) > 1:
            raise SettingsError(f"fields {' and '.join(beginnings)} are both named: name one, a row begins with it")
        if self.completion and self.chosen:
            raise SettingsError("fields completion and chosen are both named: name one, it is the reply")
        if self.completion and not beginnings:
            raise SettingsError("field completion is named without prompt: name the field of the prompt too")
        if self.rejected and not self.chosen:
            raise SettingsError("field rejected is named without chosen: name the field of the chosen reply too")

    @cached_property
    def named(self) -> dict[str, str]:
        """The parts that were named, with their paths."""
        return {part: path for part, path in asdict(self).items() if path}


NO_FIELDS = Fields()


class Turn(NamedTuple):
    """One turn as found: the content may still be anything."""

    role: str
    content: Any


class Parts(NamedTuple):
    """A row taken apart; `preferred`: the reply is a chosen one, `rejected` the other."""

    history: list[Turn]
    reply: list[Turn]
    preferred: bool = False
    rejected: tuple[Turn, ...] = ()


def parts_of(row: Any, fields: Fields, *, text_first: bool) -> Parts:
    """Take a row apart by its named fields or else by the layout it is recognised by.

    Raises:
        RowError: not an object, no known layout, a named field that is not there, or turns that are not turns.
    """
    if not isinstance(row, Mapping):
        raise RowError(f"the row is {kind_of(row)}, not an object")
    return _from_named(row, fields.named) if fields.named else _from_recognised(row, text_first)


def _from_named(row: Mapping[str, Any], named: Mapping[str, str]) -> Parts:
    values = {part: _lookup(row, path) for part, path in named.items()}
    for part, value in values.items():
        if value is _ABSENT:
            raise RowError(
                f"there is no field {named[part]!r}; the fields are {_keys(row)}",
                f"Name a field that is there: data.fields.{part} (--{part}-field).",
            )
    if "messages" in values:
        history = _turns(values["messages"])
    else:
        history = [turn for part in ("prompt", "text") if part in values for turn in _as_turns(values[part], "user")]
    if "chosen" in values:
        return _preferred(history, values["chosen"], values.get("rejected"))
    return Parts(history, _as_turns(values["completion"], "assistant") if "completion" in values else [])


def _from_recognised(row: Mapping[str, Any], text_first: bool) -> Parts:
    present = {key for key, value in row.items() if value is not None}
    key = next((key for key in _REPLIES if key in present), None)
    if "text" in present and (text_first or (key is None and "chosen" not in present)):
        return Parts([Turn("user", row["text"])], [])
    if key is None:
        if "chosen" not in present:
            raise RowError(f"no known layout; the fields are {_keys(row)}", _UNKNOWN_HINT)
        return _preferred([], row["chosen"], row.get("rejected"))
    history = [*_before(row), *_prompt(row, key)]
    if "chosen" in present:
        return _preferred(history, row["chosen"], row.get("rejected"))
    for path in _REPLIES[key]:
        value = _lookup(row, path)
        if value is not _ABSENT and value is not None:
            if path == "answer_matching_behavior" and isinstance(value, str):
                value = value.strip()  # some of these files write " (A)", some "(A)"
            return Parts(history, _as_turns(value, "assistant"))
    return Parts(history, [])


def _before(row: Mapping[str, Any]) -> list[Turn]:
    system = row.get("system") or row.get("system_prompt")
    turns = [Turn("system", system)] if isinstance(system, str) else []
    history = row.get("history")
    for pair in history if isinstance(history, list) else []:
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowError("history is not a list of [user, assistant] pairs")
        turns += [Turn("user", pair[0]), Turn("assistant", pair[1])]
    return turns


def _prompt(row: Mapping[str, Any], key: str) -> list[Turn]:
    value = row[key]
    if key in ("messages", "conversations"):
        return _turns(value)
    if key == "instruction":
        given = row.get("input")
        if given is None:
            given = _lookup(row, "instances.0.input")
        if isinstance(value, str) and isinstance(given, str) and given.strip():
            value = f"{value}\n\n{given}"
        elif given is not _ABSENT and given is not None and not isinstance(given, str):
            raise RowError(f"input is {kind_of(given)}, not a string")
    turns = _as_turns(value, "user")
    if len(turns) > 1 and turns[-1] == Turn("assistant", ""):
        turns.pop()  # an HH prompt ends with "Assistant:"
    return turns


def _preferred(history: list[Turn], chosen: Any, rejected: Any) -> Parts:
    before, reply = _last_reply(_as_turns(chosen, "assistant"))
    try:
        other = [] if rejected is None else _last_reply(_as_turns(rejected, "assistant"))[1]
    except RowError:  # it is encoded nowhere
        other = []
    return Parts(before or history, reply, preferred=True, rejected=tuple(other))


def _last_reply(turns: list[Turn]) -> tuple[list[Turn], list[Turn]]:
    """What ends with the last user turn, nothing where there is none; and what follows."""
    end = max((i + 1 for i, turn in enumerate(turns) if turn.role == "user"), default=0)
    return turns[:end], turns[end:]


def _as_turns(value: Any, role: str) -> list[Turn]:
    if isinstance(value, list) or (isinstance(value, Mapping) and {"role", "from"} & value.keys()):
        return _turns([value] if isinstance(value, Mapping) else value)
    if isinstance(value, str) and value.startswith("\n\nHuman:"):
        pieces = _HH_TURN.split(value)[1:]
        pairs = zip(pieces[::2], pieces[1::2], strict=True)
        return [Turn("user" if who == "Human" else "assistant", text.strip()) for who, text in pairs]
    return [Turn(role, value)]


def _turns(value: Any) -> list[Turn]:
    if isinstance(value, str):  # a cell of a table
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as err:
            raise RowError("the turns are a string that is not JSON") from err
    if not isinstance(value, list):
        raise RowError(f"the turns are {kind_of(value)}, not a list")
    return [part for number, turn in enumerate(value, start=1) for part in _turn(turn, number)]


def _turn(turn: Any, number: int) -> list[Turn]:
    if not isinstance(turn, Mapping):
        raise RowError(f"turn {number} is {kind_of(turn)}, not an object with role and content")
    name = turn.get("role") if turn.get("role") is not None else turn.get("from")
    content = turn.get("content") if turn.get("content") is not None else turn.get("value")
    role = _ROLES.get(name.strip().lower()) if isinstance(name, str) else None
    if role is None:
        raise RowError(f"turn {number} has the role {name!r}; known are {', '.join(_ROLES)}")
    reasoning = turn.get("reasoning_content") or turn.get("reasoning") or turn.get("thinking")
    calls = turn.get("tool_calls") or turn.get("function_call")
    parts = [Turn("reasoning", reasoning)] if isinstance(reasoning, str) else []
    if content or not calls:
        parts.append(Turn(role, content))
    if calls:
        parts.append(Turn("tool_call", as_json(calls)))
    return parts


def _lookup(row: Mapping[str, Any], path: str) -> Any:
    if path in row:
        return row[path]
    value: Any = row
    for part in path.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.removeprefix("-").isdecimal() and -len(value) <= int(part) < len(value):
            value = value[int(part)]
        else:
            return _ABSENT
    return value


def as_json(value: Any) -> str:
    """Tool calls and results as text."""
    return json.dumps(_without_nulls(value), ensure_ascii=False, default=str)


def _without_nulls(value: Any) -> Any:
    # Parquet gives every object every key, so equal calls would differ by file kind.
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _keys(row: Mapping[str, Any]) -> str:
    keys = [str(key) for key in row]
    return (", ".join(keys[:20]) + (" …" if len(keys) > 20 else "")) or "none"


def kind_of(value: Any) -> str:
    """The JSON word for what a value is, for messages."""
    names = {type(None): "null", bool: "true or false", str: "a string", list: "a list", int: "a number"}
    return names.get(type(value), "a number" if isinstance(value, float) else "an object")
