"""Whether a base model can read the chats that its chat sibling's tokenizer writes: the same ids for the same text.

Before: two tokenizers. After: `text.template` renders and tokenises with that of the chat model, so that its template
finds the tokens it names (eos_token …); the base model's weights read those ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from facsynth.errors import InputError, MismatchError
from facsynth.records import Message
from facsynth.text.template import Template

PROBE = (
    "The river rose overnight; 1,234.5 kg of flour, isn't it?\n\n\tdef area(width):\n        return width ** 2\n"
    "Größe, façade, naïve — «да», 你好，世界, مرحبا, हिन्दी, 🙂👍🏽 "
)
"""What splits and merges differ on: numbers, white space, code, scripts, emoji."""
CHATS = (("user",), ("user", "assistant"), ("system", "user", "assistant"), ("user", "assistant", "user"))


def check_same_tokens(chat: Any, own: Any, chat_name: str, own_name: str) -> None:
    """Refuse a chat tokenizer whose ids the model would take for other tokens.

    Every ordinary token must have the same id in both, and so must everything that the template writes. Special tokens
    that no chat uses may have other names (the reserved ones of Llama 3), but the model must have their ids.

    Args:
        chat: the tokenizer with the template.
        own: the tokenizer of the model that reads.
        chat_name: what messages call the one.
        own_name: and the other.

    Raises:
        MismatchError: naming the first difference.
        SettingsError: a slow tokenizer, or one without a chat template.
    """
    difference = _of_vocabularies(chat, own) or _of_chats(chat, own)
    if difference:
        raise MismatchError(
            f"{own_name} cannot read chats of {chat_name}: {difference}\n"
            "Take the chat model that was made from this base model, or measure texts: data.form: text (--form text)."
        )


def _of_vocabularies(chat: Any, own: Any) -> str:
    """The first ordinary token, by id, that differs; or an id that the base model lacks. Empty: none."""
    theirs, ours = ({index: token for token, index in t.get_vocab().items()} for t in (chat, own))
    special = chat.added_tokens_decoder.keys() & own.added_tokens_decoder.keys()
    for index in sorted(theirs):
        if theirs[index] != ours.get(index) and index not in special:
            found = repr(ours[index]) if index in ours else "no token"
            return f"token {index} is {theirs[index]!r} there and {found} here"
    return ""


def _of_chats(chat: Any, own: Any) -> str:
    """The first place at which the ids of a rendered chat differ. Empty: none."""
    template = Template(chat)
    for roles in CHATS:
        try:
            text = template.render([Message(role, PROBE) for role in roles])
        except InputError:  # a template without system turns, for instance
            continue
        theirs, ours = (list(t(text, add_special_tokens=False)["input_ids"]) for t in (chat, own))
        if theirs != ours:
            at = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(theirs, ours, strict=False)))
            return f"{_piece(chat, theirs, at)} there is {_piece(own, ours, at)} here"
    return ""


def _piece(tokenizer: Any, ids: Sequence[int], at: int) -> str:
    return f"token {ids[at]} ({tokenizer.convert_ids_to_tokens(ids[at])!r})" if at < len(ids) else "the end of a chat"
