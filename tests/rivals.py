"""A writer that answers whatever rival methods ask, anchor texts, and a way to let one of them write."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facsynth.baselines import METHODS
from facsynth.baselines.frame import Cap, collect
from facsynth.baselines.given import Given
from facsynth.llm import Ledger, LedgerWriter, ScriptedWriter
from facsynth.records import Reply, Request
from facsynth.synthesis.parts import Wanted
from facsynth.synthesis.requests import SynthesisSettings
from facsynth.synthesis.seen import Seen

TEXT = (
    "river bread winter garden letter window doctor engine market mountain teacher kettle pocket silver thunder "
    "harbour lantern meadow needle orange pepper rabbit saddle ticket valley weather yellow anchor basket candle "
    "forest guitar hammer island jacket ladder mirror office pencil ribbon school turtle violin wagon feather copper"
)
WORDS = TEXT.split()
MARKS = {
    "self_instruct": "Go on with the list from number",
    "prismatic": "Write the items",
    "evol": "Write it anew, as a somewhat more complex",
    "breadth": "Let it lead you to an entirely different",
    "equal": "Are both equal",
    "rating": "Answer with one rating",
    "plan": "Then write the line FINAL:",
    "vote": "Does it belong to these",
    "persona": "Put yourself in the place",
    "better": "Which reply serves better",
    "describe": "Describe how they are written",
    "aligned": "This is said of how they are written",
    "worse": "with one mistake",
    "plain": "Write a numbered list of",
    "matching": "of which it is true",
    "other": "of which the opposite is true",
}


def kind_of(request: Request) -> str:
    """Which prompt it is; what is no prompt of a method is a message that is to be answered."""
    if request.role == "user":
        return "user"
    text = request.messages[-1].content
    return next((kind for kind, mark in MARKS.items() if mark in text), "reply")


def sentence(*key: Any) -> str:
    """Words that are nobody else's."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return "the " + " ".join(WORDS[byte % len(WORDS)] for byte in digest[:9]) + " of my day"


def answered(request: Request) -> str:
    """Good answers of all kinds."""
    n, kind = request.sample_index, kind_of(request)
    if kind in {"self_instruct", "prismatic"}:
        return f" {sentence(n, 0)}\n7. {sentence(n, 1)}\n8. {sentence(n, 2)}"
    fixed = {"equal": " different", "rating": " good", "vote": " Yes", "describe": "calm tone\nplain style"}
    if kind == "better":
        first, second = (
            re.search(rf"{name} reply: (.*)", request.messages[-1].content) for name in ("First", "Second")
        )
        assert first and second
        return " first" if first[1] > second[1] else " second"
    if kind == "plan":
        return f"They are short.\nStep 1: a river.\nFINAL: {sentence(n)}"
    return fixed.get(kind, sentence(n, kind))


def embed(texts: Sequence[str]) -> np.ndarray:
    """Counts of words, as unit vectors."""
    found = np.array([[text.lower().split().count(word) for word in WORDS] + [1e-3] for text in texts], np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


SHOWN = tuple(sentence("anchor", n) for n in range(12))
Answer = Callable[[Request], str | Reply]


def given(form: str = "message", asks: Any = "continue", **more: Any) -> Given:
    """What a method gets; `more` are fields of `Wanted`, or of `Given`."""
    handed = {
        name: more.pop(name, default) for name, default in (("embed", embed), ("gradients", embed), ("reward", None))
    }
    clean = {"clean": more.pop("clean")} if "clean" in more else {}
    wanted = Wanted(form, behaviour="Helping whoever asks.", reply_tokens=30, **more)
    return Given(SynthesisSettings(max_tokens=30, asks=asks, wanted=wanted, **clean), SHOWN, **handed)


class Stopping(ScriptedWriter):
    """Is interrupted when it is asked for the n-th time."""

    left = 1 << 30

    def write(self, requests: Sequence[Request]) -> list[Reply]:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        return super().write(requests)


def written(
    folder: Path, name: str, cap: Cap, answer: Answer = answered, what: Given | None = None, left: int = 1 << 30,
    **more: Any,
) -> tuple[dict[str, Any], list[Request]]:  # fmt: skip
    """Let a method write through a ledger in its folder: the manifest, and what the writer was asked."""
    what = what or given()
    writer = Stopping(answer)
    writer.left = left
    folder.mkdir(exist_ok=True)
    seen = more.pop("seen", Seen.of([], what.settings.clean))
    with Ledger.open(folder / "ledger.sqlite") as ledger:
        through = LedgerWriter(writer, ledger)
        manifest = collect(name, METHODS[name], what, through, cap, out=folder, seen=seen, parents={}, **more)
    return manifest, writer.history
