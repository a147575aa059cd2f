"""What a writer is asked: prompts of a feature's spans, and the plain request of the control.

Before: `coverage.plan` and `features.spans`. After: `synthesis.loop` sends the requests.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from facsynth import prompts
from facsynth.errors import SettingsError
from facsynth.llm.budget import FREE, NO_CAPS, Amount, Caps, Price, total, worst_tokens
from facsynth.llm.longer import LONGER
from facsynth.records import Message, Request, Span
from facsynth.synthesis.accept import USUAL, CleanSettings
from facsynth.synthesis.candidates import RUNGS, STEERED_RUNG
from facsynth.synthesis.parts import MESSAGE, Wanted, longest
from facsynth.text.labels import Label
from facsynth.text.language import other_language

FEATURE_STRIDE = 1 << 20
"""Random numbers of a request depend on its rng_seed and sample_index: every feature gets its own, 0 the control."""


@dataclass(frozen=True)
class SynthesisSettings:
    """What the written samples depend on, besides features and writer."""

    per_wave: int = 2
    """Candidates a feature and wave; half as many as were in vain, where that is more."""
    max_candidates: int = 40
    """Candidates in a row of which none is accepted for the feature: then it is given up. 0: nothing is written."""
    max_tokens: int = 64
    """Longest message; one that does not end within is dropped."""
    temperature: float = 0.8
    top_p: float = 0.95
    rungs: tuple[str, ...] = (STEERED_RUNG,)
    """Of the ladder, see `synthesis.ladder`."""
    plain_yield: float = 5.0
    """New samples per 1,000 written tokens, under which plain ones are written no more."""
    min_yield: float = 0.0
    """The same, under which nothing is written any more after `n_windows` in a row; 0: no such end."""
    n_windows: int = 3
    rounds: int = 1
    """What is still missing after one that closed something gets all its candidates again in the next."""
    strength: float = 0.4
    """Of steering: half of it is tried first. 1 adds what the SAE writes for the feature at its anchor maximum."""
    n_spans: int = 4
    """Anchor spans shown in a prompt."""
    steps: int = 1
    """2: after the first wave of a feature a prompt shows the candidates that fired it most and least (paper, 6.2)."""
    caps: Caps = NO_CAPS
    """Over all calls, plain samples included; never exceeded."""
    price: Price = FREE
    """Of the writer's tokens."""
    control: float = 0.1
    """Plain-prompt samples beside, as a share of the candidates, for the chance level."""
    asks: Literal["continue", "message"] = "continue"
    """continue: a list that goes on, for a model in this process; message: in words, for a chat endpoint."""
    is_drafted: bool = False
    """Whether what asks for steering is drafted by one model and rewritten by another."""
    lag: int = 0
    """Waves that are asked for while one is decided: 1 at an endpoint, 0 where the model that decides writes too."""
    n_tries: int = 1
    """How often a reply that does not end is asked for, each time with twice the `max_tokens`."""
    clean: CleanSettings = USUAL
    """What is rejected, whatever it fires."""
    wanted: Wanted = MESSAGE
    """What kind of sample is written."""
    rng_seed: int = 0

    def __post_init__(self) -> None:
        least = {"per_wave": 1, "max_candidates": 0, "max_tokens": 1, "n_spans": 1, "rounds": 1, "n_windows": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise SettingsError(f"{name} is {getattr(self, name)}\nGive at least {bound}.")
        if not self.rungs or not set(self.rungs) <= set(RUNGS):
            raise SettingsError(f"rungs are {', '.join(self.rungs) or 'none'}\nGive some of {', '.join(RUNGS)}.")
        if self.steps not in {1, 2}:
            raise SettingsError(f"steps is {self.steps}\nGive 1 or 2.")
        if not 0 <= self.control <= 1:
            raise SettingsError(f"control is {self.control}\nGive a share between 0 and 1.")


@dataclass(frozen=True)
class FeatureTask:
    """One attempted feature."""

    feature_id: int
    threshold: float
    n_wanted: int
    spans: tuple[Span, ...]
    through: int | None = None
    """The feature of the same concept that is written for in its place; None where it is written for itself."""
    explanation: str = ""
    label: Label | None = None
    """What its samples are to be; None: what the task wants."""


PROMPTS = {
    (True, False): "write_message", (True, True): "write_pair",
    (False, False): "write_one", (False, True): "write_pair_one",
}  # fmt: skip
"""By whether a list goes on, and whether there is a pair."""


def languages_of(tasks: Sequence[FeatureTask]) -> set[str]:
    """Those of the anchor's spans, as `other_language` names them; empty is English."""
    return {other_language(span.context) for task in tasks for span in task.spans} or {""}


class Pair(NamedTuple):
    """The candidates of a feature that fired it most and least: the contrast of step 2."""

    strong: str
    """Empty where none fired it: then the anchor's spans alone show it."""
    weak: str


def feature_request(
    task: FeatureTask, index: int, settings: SynthesisSettings, pair: Pair | None = None, strength: float = 0.0
) -> Request:
    """Ask for candidate `index` of a feature: its spans as examples, its direction as steering; with a pair, that too.

    Source of the pair: arXiv 2602.10388, section 6.2. Differs: where no candidate fired there is no strong example, and
    none is made up.
    """
    n = len(task.spans)
    chosen = [task.spans[(index + i) % n] for i in range(min(settings.n_spans, n))]
    examples = [
        prompts.apart(" ".join(text.split()))
        for text in (*(s.context for s in chosen), *((pair.strong,) if pair else ())) if text
    ]  # fmt: skip
    words, goes_on = ", ".join(firing_words(task.spans)), settings.asks == "continue" or strength > 0
    values = {
        "spans": "\n".join(f"{number}. {text}" for number, text in enumerate(examples, start=1)),
        "words": words,
        "about": in_common(task),
        "weak": prompts.apart(" ".join(pair.weak.split())) if pair else "",
        **_what(settings.wanted.of(task.label)),
    }
    name = PROMPTS[goes_on, pair is not None]
    request = _request(prompts.fill(name, **values), index, settings)
    return replace(
        request,
        prefix=f"{len(examples) + 1}." if goes_on else "",
        stop="\n" if goes_on else "",
        rng_seed=settings.rng_seed * FEATURE_STRIDE + task.feature_id + 1,
        steering=((task.feature_id, strength),) if strength else (),
    )


def in_common(task: FeatureTask) -> str:
    """What the texts of a feature share, as it stands in a prompt behind "in common"."""
    if task.explanation:
        return f": {prompts.apart(task.explanation)}"
    return f", near the words {', '.join(firing_words(task.spans))}"


def plain_request(index: int, settings: SynthesisSettings, label: Label | None = None) -> Request:
    """Ask for a message, of a label or of the task's own, and nothing more: the control."""
    goes_on = settings.asks == "continue"
    request = _request(
        prompts.fill("write_plain" if goes_on else "write_plain_one", **_what(settings.wanted.of(label))),
        index,
        settings,
    )
    return replace(request, prefix="1." if goes_on else "")


def _what(wanted: Wanted) -> dict[str, str]:
    return {"many": wanted.many, "one": wanted.one}


def _request(prompt: str, index: int, settings: SynthesisSettings) -> Request:
    return Request(
        messages=(Message("user", prompt),),
        stop="\n" if settings.asks == "continue" else "",
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        rng_seed=settings.rng_seed * FEATURE_STRIDE,
        sample_index=index,
    )


def worst_amount(request: Request, settings: SynthesisSettings) -> Amount:
    """The most that a sample can cost, with all that may follow its message, each asked as often as it may be."""
    calls = longest(request, settings.wanted, LONGER ** (settings.n_tries - 1))
    if request.steering and settings.is_drafted:
        calls += drafted(request)
    tries = [replace(call, max_tokens=call.max_tokens * LONGER**n) for call in calls for n in range(settings.n_tries)]
    return total(settings.price.of(*worst_tokens(asked)) for asked in tries)


def drafted(request: Request) -> list[Request]:
    """A request as it is drafted and rewritten, as long as can be."""
    around = prompts.fill("rewrite", draft="x " * 2 * request.max_tokens, about=request.messages[-1].content)
    return [request, replace(request, messages=(Message("user", around),))]


def firing_words(spans: Sequence[Span], n_words: int = 3) -> list[str]:
    """The words that the firing tokens of the best spans are part of, each once."""
    words: dict[str, str] = {}
    for span in spans:
        rest = re.match(r"\w*", span.context.removeprefix(span.text))
        word = (span.text.split() or [""])[-1] + (rest.group() if rest else "")
        words.setdefault(word.lower(), f'"{prompts.apart(word)}"')
    return list(words.values())[:n_words]
