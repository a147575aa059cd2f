"""What has no place in training data: refusals, remains of templates, personal data, each known by patterns.

Before: what a writer gave. After: `synthesis.accept` rejects it. A pattern is no proof: it misses some, and now and
then takes what is none.
"""

from __future__ import annotations

import re

_REFUSAL = re.compile(
    r"(?i)^\W*(?:(?:i'?m sorry|i am sorry|sorry|unfortunately|i apologi[sz]e|as an ai\b[^,.]*)[\s,.;:!-]*(?:but\W+)?)?"
    r"(?:i (?:can(?:no|')t|won't|will not|am (?:un|not )able to|must decline)|i'm (?:not able|unable) to|unable to)"
    r"\W+(?:\w+\W+){0,2}?(?:help|assist|comply|provide|answer|respond|fulfil|do that|do this|continue|explain)"
)
_OF_A_WRITER = re.compile(
    r"(?i)\b(?:as an ai\b|language model|(?:that|this|your) (?:request|topic|prompt|content)|"
    r"(?:with|to) (?:that|this)\b|"
    r"guidelines|(?:write|generate|create|provide) (?:a|an|any|such|that|this|another|more)\b)"
)
"""What a writer speaks of who refuses, and a person with a problem hardly does."""
_TEMPLATE = (
    re.compile(r"<\|[^|<>]{1,40}\|>"),
    re.compile(r"</?(?:s|bos|eos|pad|unk|start_of_turn|end_of_turn)>|\[/?INST\]|<</?SYS>>"),
    re.compile(r"(?im)^\s*#{1,4} ?(?:instruction|input|response|output|user|assistant|human)\b"),
    re.compile(r"(?m)^\s*(?:Human|Assistant|User|AI|System) ?:"),
    re.compile(r"\{\{.{1,60}?\}\}|\$\{\w+\}"),
    re.compile(r"(?i)\[(?:your|insert|add|name of|enter|placeholder|the user)\b[^\]\n]{0,60}\]"),
)
_PERSONAL = {
    "e-mail address": re.compile(r"(?i)\b[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}\b"),
    "IBAN": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b"),
    "social security number": re.compile(r"\b(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}\b"),
    "phone number": re.compile(
        r"(?<![\w.])(?:\+\d{1,3}[ .-]?)?(?:\(\d{2,5}\)[ .-]?)?\d{2,4}(?:[ .-]\d{2,4}){2,4}(?![\w-])"
    ),
    "IP address": re.compile(r"\b(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)\b"),
}
_DIGITS = re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)")
FEWEST_PHONE_DIGITS = 9


def refuses(text: str) -> bool:
    """Whether an answer begins with a refusal."""
    return bool(_REFUSAL.match(text.replace("’", "'")))


def refuses_to_write(text: str) -> bool:
    """Whether a text is a writer's refusal, and not the message of somebody who cannot do something."""
    return refuses(text) and bool(_OF_A_WRITER.search(text))


def template_in(text: str) -> str:
    """The first remains of a template; empty where there are none."""
    found = [match for pattern in _TEMPLATE if (match := pattern.search(text))]
    return min(found, key=lambda match: match.start()).group().strip() if found else ""


def personal_data_in(text: str) -> str:
    """A kind of personal data that a text seems to hold; empty where it holds none."""
    for match in _DIGITS.finditer(text):
        if _is_card(re.sub(r"\D", "", match.group())):
            return "card number"
    for kind, pattern in _PERSONAL.items():
        for match in pattern.finditer(text):
            if kind != "phone number" or len(re.sub(r"\D", "", match.group())) >= FEWEST_PHONE_DIGITS:
                return kind
    return ""


def _is_card(digits: str) -> bool:
    """Luhn's check."""
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0
