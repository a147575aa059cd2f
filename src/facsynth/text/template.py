"""Chat template to token ids and content mask: one rendering, tokenised once, nothing guessed from token counts.

Before: `text.corpus` gives samples. After: `model.backbone` runs the ids, `features.encode` keeps what the mask
marks. The template is first rendered around placeholders, once per sequence of roles; the real rendering is then
laid along that skeleton, so a message that looks like a header cannot be mistaken for one.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import TemplateError

from facsynth.errors import InputError, SettingsError
from facsynth.records import ASSISTANT, Message, Sample

DATE = "01 Jan 2025"
PINNED = {"date_string": DATE, "enable_thinking": False}
"""Template variables that would make the same sample render differently on another day."""
PREAMBLE = f"{{% macro strftime_now(format) %}}{DATE}{{% endmacro %}}\n"
"""Put before every template: newer transformers hand no functions to templates. The line break is not rendered."""

PLAIN_ROLE = "text"
MARK = "\ue000\ue001"
"""Stands for a turn that is not there yet."""


@dataclass(frozen=True)
class Tokens:
    """One sample, ready to run."""

    ids: npt.NDArray[np.int32]
    """[n_tokens]"""
    role: npt.NDArray[np.uint8]
    """[n_tokens]: 0 is no content; r is a token of a message with the r-th of the roles asked for, sorted."""
    cut: bool = False
    """Whether something past `max_tokens` was left out."""
    merged: int = 0
    """How many messages were joined to the one before, because the template wants turns to alternate."""

    @property
    def content(self) -> npt.NDArray[np.bool_]:
        """[n_tokens], True on content tokens; never on the first position or a special token."""
        return self.role > 0


@dataclass(frozen=True)
class Piece:
    """A part of a turn: where turns are merged, one turn has several."""

    role: str
    text: str


Turn = tuple[str, tuple[Piece, ...]]
Range = tuple[int, int, int]
"""Characters from, to, and the number of the role."""
JOINT = "\n\n"


class Template:
    """A tokenizer's chat template, with what it allows found out once."""

    def __init__(self, tokenizer: Any) -> None:
        """Take a fast Hugging Face tokenizer.

        Raises:
            SettingsError: a slow tokenizer; it cannot say where a token lies in the text.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise SettingsError(
                f"the tokenizer {type(tokenizer).__name__} is a slow one and gives no character offsets\n"
                "Save it as a fast tokenizer (tokenizer.json) beside the model."
            )
        self.tokenizer = tokenizer
        self.special_ids = np.array(sorted(set(tokenizer.all_special_ids) | _special_added(tokenizer)), dtype=np.int32)
        self._skeletons: dict[tuple[str, ...], list[str]] = {}

    @property
    def has_chat(self) -> bool:
        """Whether there is a chat template at all; a base model has none."""
        return bool(self.tokenizer.chat_template)

    @property
    def fingerprint(self) -> str:
        """sha256 of the template text, the special tokens that it may write by name, and what is pinned."""
        pinned = PINNED | {"strftime_now": DATE}
        named = {name: str(token) for name, token in self.tokenizer.special_tokens_map.items()}
        text = json.dumps([self.tokenizer.chat_template, named, pinned], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def tokenize(self, sample: Sample, roles: Collection[str], max_tokens: int) -> Tokens:
        """Render, tokenise and mask one sample.

        Args:
            sample: messages, already cut to their form; the role `text` alone means no template.
            roles: whose messages are content.
            max_tokens: longer samples lose whole messages from the end; the first one that counts loses tokens.

        Raises:
            InputError: the template refuses the sample, or nothing of the contents is left to measure.
        """
        messages = sample.messages
        tokens = self._tokenize_all(messages, roles)
        cut = len(tokens.ids) > max_tokens
        fewest = next((number for number, m in enumerate(messages, start=1) if m.role in roles), len(messages))
        if cut and fewest < len(messages):
            numbers = range(fewest, len(messages))
            fitting = bisect_right(numbers, max_tokens, key=lambda n: len(self._tokenize_all(messages[:n], roles).ids))
            tokens = self._tokenize_all(messages[: numbers[max(fitting - 1, 0)]], roles)
        if len(tokens.ids) > max_tokens:
            tokens = Tokens(tokens.ids[:max_tokens], tokens.role[:max_tokens], merged=tokens.merged)
        if not tokens.content.any():
            name = sample.where or f"sample {sample.sample_id}"
            raise InputError(f"{name} has no content tokens: only special tokens, or nothing kept")
        return replace(tokens, cut=cut)

    def prompt_ids(self, messages: Sequence[Message], prefix: str = "", role: str = ASSISTANT) -> list[int]:
        """Token ids up to where the assistant's reply starts, or a turn of another role; `prefix` already written."""
        if role == ASSISTANT:
            text = self.render(messages, add_generation_prompt=True)
        else:
            text = self._render([*messages, Message(role, MARK)], ())[0].rpartition(MARK)[0]
        return list(self.tokenizer(text + prefix, add_special_tokens=False)["input_ids"])

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """The text of a chat; where the template refuses its turns as they are, neighbours are merged as in `tokenize`.

        Raises:
            InputError: the template refuses it.
        """
        turns: list[Turn] = [(m.role, (Piece(m.role, m.content),)) for m in messages]
        try:
            return self._apply(_as_chat(turns), add_generation_prompt=add_generation_prompt)
        except InputError:
            _, merged = self._fitting_skeleton(turns)
            return self._apply(_as_chat(merged), add_generation_prompt=add_generation_prompt)

    def rendered_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the whole rendering; of a plain text, with its BOS."""
        return self._tokenize_all(messages, {message.role for message in messages}).ids.tolist()

    def _tokenize_all(self, messages: Sequence[Message], roles: Collection[str]) -> Tokens:
        if len(messages) == 1 and messages[0].role == PLAIN_ROLE:
            text = messages[0].content
            ids, offsets = self._encode(text)
            bos = self.tokenizer.bos_token_id
            ids = [bos, *ids] if bos is not None else ids
            offsets = [(0, 0), *offsets] if bos is not None else offsets
            ranges, merged = [(0, len(text), 1)], 0
        else:
            text, ranges, merged = self._render(messages, roles)
            ids, offsets = self._encode(text)
        return Tokens(*self._mask(text, ids, offsets, ranges), merged=merged)

    def _encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return encoded["input_ids"], encoded["offset_mapping"]

    def _mask(
        self, text: str, ids: list[int], offsets: list[tuple[int, int]], ranges: list[Range]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
        """A token counts when it overlaps a content and what it has outside of it is white space."""
        id_array = np.array(ids, dtype=np.int32)
        roles = np.zeros(len(ids), dtype=np.uint8)
        spans = np.array(offsets, dtype=np.int64).reshape(-1, 2)
        for start, end, role in ranges:
            overlap = (spans[:, 0] < end) & (spans[:, 1] > start)
            for index in np.flatnonzero(overlap & ((spans[:, 0] < start) | (spans[:, 1] > end))):
                a, b = spans[index]
                overlap[index] = not (text[a:start] + text[max(end, a) : b]).strip()
            roles[overlap] = role
        roles[np.isin(id_array, self.special_ids)] = 0
        roles[:1] = 0
        return id_array, roles

    def _render(self, messages: Sequence[Message], roles: Collection[str]) -> tuple[str, list[Range], int]:
        """The rendered text, the character ranges of the contents that count, and how many messages were merged."""
        turns: list[Turn] = [(m.role, (Piece(m.role, m.content),)) for m in messages]
        skeleton, turns = self._fitting_skeleton(turns)
        text = self._apply(_as_chat(turns))
        numbers = {role: number for number, role in enumerate(sorted(roles), start=1)}
        ranges, position = [], len(skeleton[0])
        if not text.startswith(skeleton[0]):
            raise InputError("the chat template renders this sample unlike its placeholders: cannot locate contents")
        for index, ((_, pieces), following) in enumerate(zip(turns, skeleton[1:], strict=True), start=1):
            content = JOINT.join(piece.text for piece in pieces)
            offset, end = _locate(text, position, content, following, last=index == len(turns))
            at = position - offset
            for piece in pieces:
                if piece.role in roles:
                    ranges.append((max(at, position), min(at + len(piece.text), end), numbers[piece.role]))
                at += len(piece.text) + len(JOINT)
            position = end + len(following)
        return text, [r for r in ranges if r[0] < r[1]], len(messages) - len(turns)

    def _fitting_skeleton(self, turns: list[Turn]) -> tuple[list[str], list[Turn]]:
        """The text between the contents, for the first way of merging that the template accepts."""
        reason: Exception | None = None
        for merge in (_as_they_are, _merge_neighbours, _system_into_user):
            merged = merge(turns)
            roles = tuple(role for role, _ in merged)
            try:
                if roles not in self._skeletons:
                    self._skeletons[roles] = self._skeleton(roles)
                return self._skeletons[roles], merged
            except InputError as err:
                reason = err
        raise InputError(f"the chat template refuses roles {[role for role, _ in turns]}: {reason}")

    def _skeleton(self, roles: tuple[str, ...]) -> list[str]:
        marks = [f"\ue000{index}\ue001" for index in range(len(roles))]
        text = self._apply([{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)])
        parts = []
        for mark in marks:
            before, found, text = text.partition(mark)
            if not found or mark in text:
                raise InputError(f"the chat template does not render each of the roles {list(roles)} once, in order")
            parts.append(before)
        return [*parts, text]

    def _apply(self, chat: list[dict[str, str]], *, add_generation_prompt: bool = False) -> str:
        if not self.has_chat:
            raise SettingsError(
                "the tokenizer has no chat template, and the samples are chat messages\n"
                "Use the form `text`, a model with a chat template, or that of its chat sibling: "
                "model.chat_template_from (--chat-template-from)."
            )
        try:
            source = PREAMBLE + self.tokenizer.get_chat_template()
            rendered = self.tokenizer.apply_chat_template(
                chat, chat_template=source, tokenize=False, add_generation_prompt=add_generation_prompt, **PINNED
            )
        except (TemplateError, TypeError, ValueError) as err:  # whatever a template raises, or trips over
            raise InputError(f"the chat template refuses this sample: {err}") from err
        return str(rendered)


def _locate(text: str, position: int, content: str, following: str, *, last: bool) -> tuple[int, int]:
    """(characters the template trimmed on the left, end of the content) at `position` of the rendering."""
    core = content.strip()
    start = content.find(core) if core else len(content)
    left, right = content[:start], content[start + len(core) :]
    for before, after in itertools.product(_trims(left, str.lstrip), _trims(right, str.rstrip)):
        end = position + len(before) + len(core) + len(after)
        fits = text.startswith(before + core + after, position) and text.startswith(following, end)
        if fits and (not last or end + len(following) == len(text)):
            return len(left) - len(before), end
    raise InputError(f"the chat template changes this content, so its tokens cannot be told apart: {content[:80]!r}")


def _trims(blank: str, strip: Callable[[str, str], str]) -> tuple[str, str, str]:
    """What templates leave of the white space at one end of a content: all, what is left of line breaks, nothing."""
    return blank, strip(blank, "\n"), ""


def _as_they_are(turns: list[Turn]) -> list[Turn]:
    return turns


def _merge_neighbours(turns: list[Turn]) -> list[Turn]:
    merged: list[Turn] = []
    for role, pieces in turns:
        if merged and merged[-1][0] == role:
            merged[-1] = (role, merged[-1][1] + pieces)
        else:
            merged.append((role, pieces))
    return merged


def _system_into_user(turns: list[Turn]) -> list[Turn]:
    """For templates without a system turn: its text opens the user turn, and stays a system piece for the mask."""
    return _merge_neighbours([("user" if role == "system" else role, pieces) for role, pieces in turns])


def _as_chat(turns: Sequence[Turn]) -> list[dict[str, str]]:
    return [{"role": role, "content": JOINT.join(piece.text for piece in pieces)} for role, pieces in turns]


def _special_added(tokenizer: Any) -> set[int]:
    decoder: dict[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    return {index for index, token in decoder.items() if getattr(token, "special", False)}
