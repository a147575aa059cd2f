"""What a written sample consists of, call by call: the message first, then what its form has besides.

Before: `synthesis.waves` has requests for messages. After: `synthesis.loop` encodes the part of each sample that its
form says, and decides. message: one call. chat: a reply. preference: a reply, and one with a flaw. ab: two short
answers, offered in random order.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from facsynth import prompts
from facsynth.llm.longer import write_to_end
from facsynth.protocols import Writer
from facsynth.records import Message, Reply, Request, Sample
from facsynth.synthesis.accept import (
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
from facsynth.text.dirt import refuses
from facsynth.text.overlap import WordRuns

FLAWS = (
    "it says something that is not true",
    "it leaves out a part of what was asked for",
    "it does not keep to a condition that the message names, or answers in another form than was asked for",
    "one step of its reasoning is wrong, and so is what follows from it",
    "it answers a question that is near to what was asked, and not the same",
)
"""Of a rejected reply; each in its turn."""
LENGTHS = 0.5, 2.0
"""Words of the rejected reply, as a share of those of the chosen one, at least and at most."""
LONGEST_ANSWER = 40
"""Words of an answer to choose."""
SAME_REPLY, UNLIKE_LENGTHS = "both replies are the same", "replies of unlike lengths"
NO_CHOICE = "no short answer"
WHICH = {"matching": "of which it is true", "other": "of which the opposite is true"}
Calls = Sequence[tuple[int, Request]]
"""Indices of samples, with what is asked for them next."""


@dataclass(frozen=True)
class Wanted:
    """What kind of sample is written."""

    form: str = "message"
    many: str = "messages that different people sent to an assistant"
    """What is asked for, as several are called."""
    one: str = "message"
    behaviour: str = ""
    """Of an A/B question: what the matching answer shows."""
    label: str | int | None = None
    """Every sample of the form message gets it."""
    reply_tokens: int = 96
    """Longest reply."""


MESSAGE = Wanted()


@dataclass
class Written:
    """One sample on its way: a text for each part, what it cost, and why it is none."""

    request: Request
    parts: dict[str, str] = field(default_factory=dict)
    reason: str = ""
    flaw: str = ""
    n_calls: int = 0
    prompt_tokens: int = 0
    written_tokens: int = 0
    messages: tuple[Message, ...] = ()
    """What is encoded, whole or not."""
    row: dict[str, Any] = field(default_factory=dict)
    """All of it, in the form's layout; empty where it is a message alone."""

    @property
    def sample(self) -> Sample:
        """What is encoded."""
        return Sample(self.messages)

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

    def write(self, requests: Sequence[Request]) -> list[Written]:
        """A sample for each request for a message; one with a fault is asked for no further."""
        samples = [Written(request) for request in requests]
        for sample, reply in zip(samples, write_to_end(self._writer, requests, self._n_tries), strict=True):
            self._take_message(sample, reply)
        form = self._wanted.form
        if form in {"chat", "preference"}:
            self._ask(samples, "reply", reply_request, self._reply)
        if form == "preference":
            self._ask(samples, "worse", worse_request, self._reply)
        if form == "ab":
            for name in WHICH:
                self._ask(samples, name, choice_request, self._choice)
        for sample in samples:
            if not sample.reason:
                sample.reason = _finish(sample, self._wanted)
        return samples

    def _take_message(self, sample: Written, reply: Reply) -> None:
        sample.cost(reply)
        request = sample.request
        text = clean_text(reply.text.removeprefix(request.prefix), unfinished=reply.finish_reason == "length")
        sample.parts["message"], sample.messages = text, (Message("user", text),)
        sample.reason = fault(reply, text, request.messages[-1].content, self._languages, self._clean)

    def _ask(
        self,
        samples: Sequence[Written],
        name: str,
        request: Callable[[Written, str, Wanted], Request],
        read: Callable[[Reply], tuple[str, str]],
    ) -> None:
        """One more part of each sample without a fault."""
        going = [sample for sample in samples if not sample.reason]
        asked = [request(sample, name, self._wanted) for sample in going]
        for sample, reply in zip(going, write_to_end(self._writer, asked, self._n_tries) if asked else [], strict=True):
            sample.cost(reply)
            sample.parts[name], sample.reason = read(reply)

    def _reply(self, reply: Reply) -> tuple[str, str]:
        """A reply, and why it is none."""
        text = without_control(reply.text, unfinished=reply.finish_reason == "length")
        if why := _no_text(reply, text):
            return text, why
        if refuses(text):
            return text, REFUSAL
        return text, unclean(text, self._languages, self._clean) or repeats(text)

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


def reply_request(sample: Written, name: str, wanted: Wanted) -> Request:
    """Ask for an answer to a message, as anybody would."""
    return _next(sample, sample.parts["message"], wanted)


def worse_request(sample: Written, name: str, wanted: Wanted) -> Request:
    """Ask for an answer with a flaw, which the sample remembers."""
    sample.flaw = FLAWS[sample.request.sample_index % len(FLAWS)]
    n_words = str(len(sample.parts["reply"].split()))
    return _next(
        sample, prompts.fill("reply_worse", message=sample.parts["message"], flaw=sample.flaw, n_words=n_words), wanted
    )


def choice_request(sample: Written, name: str, wanted: Wanted) -> Request:
    """Ask for the answer that shows the behaviour, or the other one."""
    question, behaviour = _bare(sample.parts["message"]), wanted.behaviour
    prompt = prompts.fill("answer_choice", question=question, behaviour=behaviour, which=WHICH[name])
    return _next(sample, prompt, wanted)


def _next(sample: Written, prompt: str, wanted: Wanted) -> Request:
    """No steering, no prefix: what is encoded of it must fire by itself."""
    return replace(
        sample.request, messages=(Message("user", prompt),), max_tokens=wanted.reply_tokens, steering=(), prefix="",
        stop="",
    )  # fmt: skip


def longest(request: Request, wanted: Wanted) -> list[Request]:
    """A request for a message, and all that may follow it, as long as can be: for what it may cost."""
    text, reply = ("x " * 2 * n for n in (request.max_tokens, wanted.reply_tokens))
    sample = Written(request, {"message": text, "reply": reply})
    if wanted.form == "ab":
        return [request, *(choice_request(sample, name, wanted) for name in WHICH)]
    found = [request]
    if wanted.form in {"chat", "preference"}:
        found.append(reply_request(sample, "reply", wanted))
    if wanted.form == "preference":
        found.append(worse_request(sample, "worse", wanted))
    return found


def _finish(sample: Written, wanted: Wanted) -> str:
    """Put the parts together; why they are no sample."""
    parts = sample.parts
    user = {"role": "user", "content": parts["message"]}
    if wanted.form == "message" and wanted.label is not None:
        sample.row = {"messages": [user], "label": wanted.label}
    elif wanted.form == "chat":
        sample.messages += (Message("assistant", parts["reply"]),)
        sample.row = {"messages": [user, {"role": "assistant", "content": parts["reply"]}]}
    elif wanted.form == "preference":
        sample.messages += (Message("assistant", parts["reply"]),)
        chosen, rejected = ([{"role": "assistant", "content": parts[name]}] for name in ("reply", "worse"))
        sample.row = {"prompt": [user], "chosen": chosen, "rejected": rejected}
        return _unlike(parts["reply"], parts["worse"])
    elif wanted.form == "ab":
        sample.row, sample.messages = _question(sample)
        return _same(parts["matching"], parts["other"])
    return ""


def _unlike(chosen: str, rejected: str) -> str:
    share = len(rejected.split()) / max(len(chosen.split()), 1)
    if not LENGTHS[0] <= share <= LENGTHS[1]:
        return UNLIKE_LENGTHS
    return _same(chosen, rejected)


def _same(one: str, other: str) -> str:
    words = [re.findall(r"\w+", text.lower()) for text in (one, other)]
    return SAME_REPLY if words[0] == words[1] or WordRuns([one], 5).share(other) > 0.9 else ""


def _question(sample: Written) -> tuple[dict[str, Any], tuple[Message, ...]]:
    """The row of a question with both answers, and what of it is encoded; which one is (A) is a hash's choice."""
    parts: Mapping[str, str] = sample.parts
    first = hashlib.sha256("\n".join(parts.values()).encode("utf-8", "surrogatepass")).digest()[0] % 2
    options = [parts["matching"], parts["other"]]
    a, b = options[::-1] if first else options
    question = f"{_bare(parts['message'])}\n\nChoices:\n (A) {a}\n (B) {b}"
    matching, other = ("(B)", "(A)") if first else ("(A)", "(B)")
    row = {"question": question, "answer_matching_behavior": matching, "answer_not_matching_behavior": other}
    return row, (Message("user", question), Message("assistant", matching))


def _bare(question: str) -> str:
    """Without choices that the writer gave of its own accord."""
    return re.split(r"\s*(?:Choices:|\(A\))", question, maxsplit=1)[0].strip() or question
