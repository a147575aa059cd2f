"""How far an explanation can be trusted: whether it tells texts that fire the feature from texts that do not.

Before: explanations of `interpret`, and texts of `features.draw` that had no part in them. After: the sheet, the plan.
Detection as in Paulo et al. (arXiv 2410.13928), with hard texts among those that do not fire, and with the explanation
of another feature as control: what a judge finds without knowing anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from facsynth import prompts
from facsynth.llm.structured import Answer, ask_json
from facsynth.meaning.asking import USUAL, Answers, AskingSettings, bare, listed, question
from facsynth.protocols import Writer
from facsynth.records import Failure, Interval, Request, Span

FEWEST = 2
"""Texts of each kind, under which nothing is scored."""
TOO_FEW = "too few texts to test its explanation on"


class _Detected(Answer):
    fits: tuple[int, ...]


class Trial(NamedTuple):
    """A text that an explanation is tested on."""

    text: str
    fires: bool


@dataclass(frozen=True)
class Detection:
    """Counts of one explanation on one feature's texts."""

    n_firing: int
    n_silent: int
    n_hits: int
    """Texts that fire and were said to fit."""
    n_false: int
    """Texts that do not, and were said to."""

    @property
    def balanced_accuracy(self) -> float:
        """Mean of the shares of firing and of silent texts that were told rightly; 0.5 is chance."""
        share = (self.n_hits / self.n_firing + 1 - self.n_false / self.n_silent) / 2
        return round(share, 9)  # equal ones are equal

    @property
    def interval(self) -> Interval:
        """Of the balanced accuracy: Wilson's for each share, put together by MOVER (Zou and Donner 2008).

        It takes each text for one of many; that a judge reads ten of them together is not in it.
        """
        shares = (self.n_hits, self.n_firing), (self.n_silent - self.n_false, self.n_silent)
        parts = [(n / of, share_interval(n, of)) for n, of in shares]
        below = math.hypot(*(value - part.low for value, part in parts)) / 2
        above = math.hypot(*(part.high - value for value, part in parts)) / 2
        return Interval(max(0.0, self.balanced_accuracy - below), min(1.0, self.balanced_accuracy + above))


@dataclass(frozen=True)
class Score:
    """An explanation beside its control."""

    explained: Detection
    control: Detection | None
    """By the explanation of another feature; None where there is no other, or no usable answer."""


def controls_of(
    explanations: Mapping[int, str], is_close: Callable[[int, int], bool], rng_seed: int = 0
) -> dict[int, str]:
    """For each feature the explanation of another one, in other words and of a feature that is not close to it.

    The next such one on a ring in random order: explanations that are added later change few controls.
    """
    ring = sorted(explanations, key=lambda f: (np.random.default_rng([rng_seed, f]).random(), f))
    found = {}
    for at, feature in enumerate(ring):
        own = explanations[feature].casefold()
        others = (ring[(at + step) % len(ring)] for step in range(1, len(ring)))
        other = next((o for o in others if explanations[o].casefold() != own and not is_close(feature, o)), None)
        if other is not None:
            found[feature] = explanations[other]
    return found


def score(
    explanations: Mapping[int, str],
    controls: Mapping[int, str],
    trials: Mapping[int, Sequence[Trial]],
    writer: Writer,
    settings: AskingSettings = USUAL,
) -> Answers[Score]:
    """Test each explanation, and for each feature its control, on the same texts.

    Takes `n_calls` calls a feature and explanation. Features with too few texts are among the failures.

    Args:
        explanations: by feature; an empty one is not tested.
        controls: by feature; those of `controls_of`.
        trials: for each of them, as `trials_of` gives them.
        writer: the model that judges.
        settings: texts a call.
    """
    tested = {f: text for f, text in explanations.items() if text and is_enough(trials[f])}
    words = {f: [text, *([controls[f]] if f in controls else [])] for f, text in tested.items()}
    asked = {f: [_questions(text, f, trials[f], settings) for text in texts] for f, texts in words.items()}
    every = [request for parts in asked.values() for part in parts for request in part]
    replies = iter(ask_json(writer, every, _Detected))
    found: dict[int, Score] = {}
    failures = [
        Failure(f"feature {f}", f"{TOO_FEW}: {len(trials[f])}")
        for f, text in explanations.items()
        if text and f not in tested
    ]
    for feature, parts in asked.items():
        counts = [_counted([next(replies) for _ in part], trials[feature], settings) for part in parts]
        explained, control = counts[0], counts[1] if len(counts) > 1 else None
        failed = [c for c in counts if isinstance(c, Failure)]
        failures += [Failure(f"feature {feature}", c.reason, c.raw) for c in failed[:1]]
        if isinstance(explained, Detection):
            found[feature] = Score(explained, control if isinstance(control, Detection) else None)
    return Answers(found, tuple(failures))


def share_interval(n: int, of: int) -> Interval:
    """Wilson's score interval of a share."""
    z = float(norm.ppf(0.975))
    centre = (n + z * z / 2) / (of + z * z)
    half = z / (of + z * z) * math.sqrt(n * (of - n) / of + z * z / 4)
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Student's interval of a mean; None under two values."""
    if len(values) < 2:
        return None
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return Interval(fmean(values) - half, fmean(values) + half)


def trials_of(
    firing: Sequence[Span], hard: Sequence[Span], easy: Sequence[Span], feature: int, settings: AskingSettings
) -> list[Trial]:
    """The texts of one feature in an order that tells nothing; `firing` had no part in its explanation."""
    n = settings.n_texts // 2
    n_hard = max(n // 2, n - len(easy))
    silent = [*hard[:n_hard], *easy[: n - len(hard[:n_hard])]]
    found = [Trial(bare(span), True) for span in firing[:n]] + [Trial(bare(span), False) for span in silent]
    order = np.random.default_rng([settings.rng_seed, feature]).permutation(len(found))
    return [found[i] for i in order]


def n_calls(n_texts: int, settings: AskingSettings) -> int:
    """Calls that testing one explanation takes."""
    return -(-n_texts // settings.texts_per_call)


def is_enough(trials: Sequence[Trial]) -> bool:
    """Whether an explanation can be tested on these."""
    n_firing = sum(trial.fires for trial in trials)
    return n_firing >= FEWEST and len(trials) - n_firing >= FEWEST


def _questions(explanation: str, feature: int, trials: Sequence[Trial], settings: AskingSettings) -> list[Request]:
    size, described = settings.texts_per_call, prompts.quoted(explanation)
    return [
        question(
            prompts.fill("detect", explanation=described, texts=listed(t.text for t in trials[start : start + size])),
            feature * settings.n_texts + start,
            settings,
            begin='{"fits": [',
            stop="]",
            n_tokens=4 * size,
        )
        for start in range(0, len(trials), size)
    ]


def _counted(
    answers: Sequence[_Detected | Failure], trials: Sequence[Trial], settings: AskingSettings
) -> Detection | Failure:
    """All parts put together; one that failed, or that names a text that is not there, fails the whole."""
    said: set[int] = set()
    for part, answer in enumerate(answers):
        if isinstance(answer, Failure):
            return answer
        start = part * settings.texts_per_call
        shown = range(1, min(settings.texts_per_call, len(trials) - start) + 1)
        if wrong := [n for n in answer.fits if n not in shown]:
            return Failure("", f"it names text {wrong[0]} of {len(shown)}", str(list(answer.fits)))
        said |= {start + n - 1 for n in answer.fits}
    fires = {i for i, trial in enumerate(trials) if trial.fires}
    return Detection(len(fires), len(trials) - len(fires), len(said & fires), len(said - fires))
