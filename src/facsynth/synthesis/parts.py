"""What a written sample consists of, call by call: the message first, then what its form has besides.

Before: `synthesis.waves` has requests for messages. After: `synthesis.deciding` encodes the part of each sample that
its form says. message: one call. chat: a reply. preference: a reply, and one with a flaw. ab: two short answers,
offered in random order. Of several turns, each further one is a reply and what is said to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from facsynth import prompts
from facsynth.llm.longer import write_to_end
from facsynth.protocols import Writer
from facsynth.records import Message, Reply, Request, Sample
from facsynth.synthesis.accept import (
    NOT_ENCODED,
    REFUSAL,
    UNFINISHED,
    WRITER_ERROR,
    CleanSettings,
    clean_text,
    fault,
    repeats,
    unclean,
    without_control,
)
from facsynth.synthesis.rows import bare, row_of
from facsynth.text.dirt import refuses
from facsynth.text.forms import to_sample
from facsynth.text.labels import Label, name_of
from facsynth.text.layouts import RowError

FLAWS = (
    "it says something that is not true",
    "it leaves out a part of what was asked for",
    "it does not keep to a condition that the message names, or answers in another form than was asked for",
    "one step of its reasoning is wrong, and so is what follows from it",
    "it answers a question that is near to what was asked, and not the same",
)
"""Of a rejected reply; each in its turn."""
LONGEST_ANSWER = 40
"""Words of an answer to choose."""
NO_CHOICE = "no short answer"
WHICH = {"matching": "of which it is true", "other": "of which the opposite is true"}


@dataclass(frozen=True)
class Wanted:
    """What kind of sample is written."""

    form: str = "message"
    many: str = "messages that different people sent to an assistant"
    """What is asked for, as several are called."""
    one: str = "message"
    behaviour: str = ""
    """Of an A/B question: what the matching answer shows."""
    label: Label | None = None
    """Every sample of the form message gets it."""
    labels: tuple[tuple[str, str], ...] = ()
    """Labels that there are, each with what is then asked for."""
    reply_tokens: int = 96
    """Longest reply."""
    turns: int = 1
    """Of the user; not of A/B questions."""

    def of(self, label: Label | None) -> Wanted:
        """Samples of one label, which a data set may have in another spelling; None: as it is."""
        name = name_of(label, [name for name, _ in self.labels])
        return self if name is None else replace(self, label=label, many=dict(self.labels)[name])


MESSAGE = Wanted()


@dataclass
class Written:
    """One sample on its way: a text for each part, what it cost, and why it is none."""

    request: Request
    label: Label | None = None
    """What it gets."""
    turns: list[Message] = field(default_factory=list)
    """The message, and whatever is said after it."""
    parts: dict[str, str] = field(default_factory=dict)
    """What is no turn: a worse reply, answers to choose from."""
    at_hand: dict[str, Reply] = field(default_factory=dict)
    """Replies that are not asked for any more, by the part that they are."""
    reason: str = ""
    fault_at: str = ""
    """The part that is at fault, where it is not the message."""
    flaw: str = ""
    n_calls: int = 0
    prompt_tokens: int = 0
    written_tokens: int = 0
    row: dict[str, Any] = field(default_factory=dict)
    """All of it, in the form's layout; empty where it is a message alone, or none."""

    def sample(self, form: str) -> Sample:
        """What is encoded."""
        return to_sample(self.row, form).sample if self.row else Sample(tuple(self.turns[:1]))

    def cost(self, reply: Reply) -> None:
        """Count a reply."""
        self.n_calls += reply.n_calls
        self.prompt_tokens += reply.prompt_tokens
        self.written_tokens += reply.written_tokens


class SampleWriter:
    """Writes samples of a form, all messages of a wave first."""

    def __init__(
        self, writer: Writer, wanted: Wanted, clean: CleanSettings, languages: Collection[str], n_tries: int = 1
    ) -> None:
        """Take who writes, what is wanted, what is rejected, and how often a reply that does not end is asked for."""
        self._writer, self._wanted, self._clean = writer, wanted, clean
        self._languages, self._n_tries = languages, n_tries

    def write(self, requests: Sequence[Request], labels: Sequence[Label | None]) -> list[Written]:
        """A sample for each request for a message, labelled; one with a fault is asked for no further."""
        samples = [Written(request, label) for request, label in zip(requests, labels, strict=True)]
        for sample, reply in zip(samples, write_to_end(self._writer, requests, self._n_tries), strict=True):
            self.take_message(sample, reply, sample.request.messages[-1].content)
        self.complete(samples)
        return samples

    def complete(self, samples: Sequence[Written]) -> None:
        """Ask for whatever samples without a fault have besides their message, and put them together."""
        form = self._wanted.form
        if form == "ab":
            for name in WHICH:
                self._ask(samples, name, partial(choice_request, which=name), self._choice)
        else:
            for _ in range(1, self._wanted.turns):
                self._ask(samples, "assistant", reply_request, self._reply)
                self._ask(samples, "user", next_request, self._message)
        if form in {"chat", "preference"}:
            self._ask(samples, "assistant", reply_request, self._reply)
        if form == "preference":
            self._ask(samples, "worse", worse_request, self._reply)
        for sample in samples:
            if not sample.reason:
                sample.row, sample.reason = row_of(form, sample.turns, sample.parts, sample.label)
                sample.reason = sample.reason or _unread(sample, form)
                sample.fault_at = form if sample.reason and sample.row else ""

    def take_message(self, sample: Written, reply: Reply, shown: str) -> None:
        """Begin a sample with a reply; `shown` is what the writer was shown, to tell copies."""
        sample.cost(reply)
        text = clean_text(reply.text.removeprefix(sample.request.prefix), unfinished=reply.finish_reason == "length")
        sample.turns.append(Message("user", text))
        sample.reason = fault(reply, text, shown, self._languages, self._clean)

    def _ask(
        self,
        samples: Sequence[Written],
        name: str,
        request: Callable[[Written, Wanted], Request],
        read: Callable[[Reply], tuple[str, str]],
    ) -> None:
        """One more part of each sample without a fault; a role names a turn."""
        going = [sample for sample in samples if not sample.reason]
        lacking = [sample for sample in going if name not in sample.at_hand]
        asked = [request(sample, self._wanted) for sample in lacking]
        replies = write_to_end(self._writer, asked, self._n_tries) if asked else []
        for sample, reply in zip(lacking, replies, strict=True):
            sample.cost(reply)
            sample.at_hand[name] = reply
        for sample in going:
            text, sample.reason = read(sample.at_hand.pop(name))
            sample.fault_at = name if sample.reason else ""
            if name in {"user", "assistant"}:
                sample.turns.append(Message(name, text))
            else:
                sample.parts[name] = text

    def _message(self, reply: Reply) -> tuple[str, str]:
        """What the user says next."""
        text = clean_text(reply.text, unfinished=reply.finish_reason == "length")
        return text, _no_text(reply, text) or unclean(text, self._languages, self._clean) or repeats(text)

    def _reply(self, reply: Reply) -> tuple[str, str]:
        """A reply, and why it is none."""
        text = without_control(reply.text, unfinished=reply.finish_reason == "length")
        if why := _no_text(reply, text):
            return text, why
        return text, REFUSAL if refuses(text) else unclean(text, self._languages, self._clean) or repeats(text)

    def _choice(self, reply: Reply) -> tuple[str, str]:
        """A short answer, on one line."""
        text = " ".join(clean_text(reply.text, unfinished=reply.finish_reason == "length").split())
        if why := _no_text(reply, text):
            return text, why
        if len(text.split()) > LONGEST_ANSWER or re.search(r"\([AB]\)", text):
            return text, NO_CHOICE
        return text, unclean(text, self._languages, self._clean)


def _no_text(reply: Reply, text: str) -> str:
    if reply.error:
        return f"{WRITER_ERROR}: {' '.join(reply.error.split())[:200]}"
    return "" if text else UNFINISHED


def reply_request(sample: Written, wanted: Wanted) -> Request:
    """Ask for an answer to what was said, as anybody would."""
    return _next(sample, tuple(sample.turns), wanted)


def next_request(sample: Written, wanted: Wanted) -> Request:
    """Ask for what the user says to that."""
    return _next(sample, prompts.fill("next_turn", turns=_told(sample.turns)), wanted)


def worse_request(sample: Written, wanted: Wanted) -> Request:
    """Ask for an answer with a flaw, which the sample remembers."""
    sample.flaw = FLAWS[sample.request.sample_index % len(FLAWS)]
    *history, reply = sample.turns
    n_words = str(len(reply.content.split()))
    return _next(sample, prompts.fill("reply_worse", turns=_told(history), flaw=sample.flaw, n_words=n_words), wanted)


def choice_request(sample: Written, wanted: Wanted, which: str) -> Request:
    """Ask for the answer that shows the behaviour, or the other one."""
    question = prompts.quoted(bare(sample.turns[0].content))
    prompt = prompts.fill("answer_choice", question=question, behaviour=wanted.behaviour, which=WHICH[which])
    return _next(sample, prompt, wanted)


def _next(sample: Written, asked: str | tuple[Message, ...], wanted: Wanted) -> Request:
    """No steering, no prefix: what is encoded of it must fire by itself."""
    messages = (Message("user", asked),) if isinstance(asked, str) else asked
    return replace(
        sample.request, messages=messages, max_tokens=wanted.reply_tokens, steering=(), prefix="", stop=""
    )  # fmt: skip


def _told(turns: Sequence[Message]) -> str:
    """Each turn one JSON string on a line of its own."""
    return "\n".join(f"{turn.role}: {prompts.quoted(turn.content)}" for turn in turns)


def longest(request: Request, wanted: Wanted, longer: int) -> list[Request]:
    """A request for a message and all that may follow it, with parts `longer` times as long as first asked for."""
    message, reply = ("x " * 2 * longer * n for n in (request.max_tokens, wanted.reply_tokens))
    sample, found = Written(request, turns=[Message("user", message)]), [request]
    if wanted.form == "ab":
        return [request, *(choice_request(sample, wanted, which) for which in WHICH)]
    for turn in range(wanted.turns):
        if turn + 1 < wanted.turns or wanted.form in {"chat", "preference"}:
            found.append(reply_request(sample, wanted))
            sample.turns.append(Message("assistant", reply))
        if turn + 1 < wanted.turns:
            found.append(next_request(sample, wanted))
            sample.turns.append(Message("user", reply))
    return [*found, worse_request(sample, wanted)] if wanted.form == "preference" else found


def _unread(sample: Written, form: str) -> str:
    """Why what was put together cannot be read, as of turns of nothing but broken characters."""
    try:
        sample.sample(form)
    except RowError:
        sample.row = {}
        return NOT_ENCODED
    return ""
