"""What is asked next, and why nothing more is: a function of the waves that were decided and those that are out.

Before: `coverage.plan` says what is attempted. After: `synthesis.loop` sends a wave, and hands back what became of it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby

from facsynth.llm.budget import NOT_SENT, Amount, total
from facsynth.records import Request
from facsynth.synthesis.accept import MEASURED, WRITER_ERROR, acceptance_limit
from facsynth.synthesis.candidates import CONTROL, PLAIN, PLAIN_RUNG, SPANS_RUNG, STEERED_RUNG, Candidate, Synthesis
from facsynth.synthesis.ladder import Strength, Yield
from facsynth.synthesis.requests import (
    FeatureTask,
    Pair,
    SynthesisSettings,
    feature_request,
    plain_request,
    worst_amount,
)
from facsynth.text.labels import Label

Wave = list[tuple[int, Request]]
"""Requests with the features they are for."""
PLAIN_WAVE, PLAIN_WAVES = 16, 64
"""Plain requests of the first wave, and of any at most: after a wave that was worth its tokens as many as before it."""


class Waves:
    """The state between waves. A wave that is out counts as in vain until it is taken."""

    def __init__(
        self, tasks: Sequence[FeatureTask], settings: SynthesisSettings, selected: Sequence[Candidate] = ()
    ) -> None:
        """Begin with nothing asked, and with what was selected from a pool."""
        self.tasks, self.settings, self.selected = tasks, settings, selected
        self._labels = {task.feature_id: task.label for task in tasks}
        self._plain_labels = [task.label for task in tasks] or [None]
        self.candidates: list[Candidate] = []
        self.n_asked: Counter[int] = Counter()
        self.n_fired = Counter(feature for c in selected if not c.reason for feature in c.fires)
        self._n_in_vain: Counter[int] = Counter()
        """Candidates written for a feature since the last accepted sample that fires it."""
        self._n_out: Counter[int] = Counter()
        self._ends: dict[int, tuple[Candidate, Candidate]] = {}
        """Of each feature, those written for it that fired it most and least."""
        self._strengths = {t.feature_id: Strength(settings.strength / 2) for t in tasks}
        self._plain = Yield(settings.plain_yield, 0)
        self._yield = Yield(settings.min_yield)
        self._round, self._n_done_before = 1, self.n_done
        self._spent, self._out = Amount(), Amount()
        self._progress = [(0, self.n_done, 0, 0)]
        self._cap = ""
        """The one that was reached."""

    def lacks(self, task: FeatureTask) -> int:
        """Accepted samples still wanted; any accepted sample counts for every attempted feature it fires."""
        return task.n_wanted - self.n_fired[task.feature_id]

    def label_of(self, feature: int, index: int) -> Label | None:
        """What a sample written for a feature is to be; plain ones have the labels of all features in turn."""
        own = self._labels.get(feature, self._plain_labels[index % len(self._plain_labels)])
        return self.settings.wanted.label if own is None else own

    def _plain_request(self, index: int) -> Request:
        return plain_request(index, self.settings, self.label_of(PLAIN, index))

    @property
    def n_done(self) -> int:
        """Features that have what they want."""
        return sum(self.lacks(task) <= 0 for task in self.tasks)

    def next(self) -> Wave:
        """The next requests, now out; none where all is done, given up, capped, poor, or waits for what is out."""
        is_over = bool(self._cap) or self._is_poor or self.n_done == len(self.tasks) or not self.settings.max_candidates
        wave = [] if is_over else self._within_caps(self._plain_wave() or self._feature_wave())
        if not wave and not is_over and not self._n_out.total() and self._begins_again():
            return self.next()
        for feature, request in wave:
            self.n_asked[feature] += 1
            self._n_out[feature] += 1
            self._out = self._out.plus(worst_amount(request, self.settings))
        return wave

    def _plain_wave(self) -> Wave:
        """Plain requests, no more than the open features would get; in a round no more than all of them."""
        if PLAIN_RUNG not in self.settings.rungs or self._plain.n_poor:
            return []
        n_open, first = sum(self.lacks(task) > 0 for task in self.tasks), self.n_asked[PLAIN]
        most = len(self.tasks) * self.settings.max_candidates * self._round
        end = min(first + min(max(PLAIN_WAVE, first), PLAIN_WAVES, n_open * self.settings.per_wave), most)
        return [(PLAIN, self._plain_request(index)) for index in range(first, end)]

    def _feature_wave(self) -> Wave:
        """Requests for every open feature, more for one that needed many in vain; those first that did best so far.

        Those of a feature are equal but for their random numbers: a local writer reads equal prompts once.
        """
        wave: Wave = []
        if self.settings.rungs == (PLAIN_RUNG,):
            return wave
        for task in sorted(self.tasks, key=self._promise, reverse=True):
            feature = task.feature_id
            if self.lacks(task) > 0 and task.through is None and task.spans:
                n = min(max(self.settings.per_wave, self._in_vain(feature) // 2), self._left(feature))
                first, pair = self.n_asked[feature], self._pair(feature)
                request = feature_request(task, first, self.settings, pair, self._strength(feature))
                wave += [(feature, replace(request, sample_index=index)) for index in range(first, first + n)]
        return wave

    def take(self, wave: Wave, candidates: Sequence[Candidate]) -> None:
        """Add what became of a wave."""
        n_new = self._n_new(candidates)
        for (feature, request), candidate in zip(wave, candidates, strict=True):
            self.candidates.append(candidate)
            self._n_out[feature] -= 1
            self._n_in_vain[feature] += 1
            self._out = self._out.minus(worst_amount(request, self.settings))
            self._spent = self._spent.plus(self._amount(candidate))
            if candidate.reason.startswith(f"{WRITER_ERROR}: {NOT_SENT}: "):
                self._cap = candidate.reason.removeprefix(f"{WRITER_ERROR}: {NOT_SENT}: ")
        for candidate in candidates:
            self._contrast(candidate)
            if not candidate.reason:
                self.n_fired.update(candidate.fires)
                self._n_in_vain.update({feature: -self._n_in_vain[feature] for feature in candidate.fires})
        for feature, own in groupby(candidates, key=lambda candidate: candidate.written_for):
            if feature in self._strengths and (steered := [c for c in own if c.strength]):
                self._strengths[feature].take(steered)
        n_written = sum(candidate.written_tokens for candidate in candidates)
        written = [candidate.reason for candidate in candidates if not candidate.reason.startswith(WRITER_ERROR)]
        tokens, _, n, n_accepted = self._progress[-1]
        self._progress.append((tokens + n_written, self.n_done, n + len(written), n_accepted + written.count("")))
        rung = self._plain if wave and wave[0][0] == PLAIN else self._yield
        if rung is self._yield or not rung.n_poor:  # a rung that was left is left
            rung.take(n_new, sum(candidate.written_tokens for candidate in candidates))

    def next_control(self, control: Sequence[Candidate]) -> Wave:
        """The next plain requests for the chance level, once no wave is out: those of the rung that were answered, and
        cost nothing again; then what is due besides and fits the caps.
        """
        again = self.plain_again
        if again and not control:
            return [(CONTROL, self._plain_request(index)) for index in again]
        n_plain = self.n_asked[PLAIN] if self.settings.control else 0
        first, end = n_plain + len(control) - len(again), n_control(len(self.candidates), self.settings)
        wave = [(CONTROL, self._plain_request(index)) for index in range(first, end)]
        costs = [worst_amount(request, self.settings) for _, request in wave]
        spent = total([self._spent, *map(self._amount, control)])
        while wave and self.settings.caps.exceeded(total([spent, *costs])):
            wave.pop()
            costs.pop()
        return wave

    @property
    def plain_again(self) -> list[int]:
        """The plain requests of the rung that the control asks again; one that failed is not, and stays as it was."""
        if not self.settings.control:
            return []
        plain = [candidate for candidate in self.candidates if candidate.written_for == PLAIN]
        return [index for index, c in enumerate(plain) if not c.reason.startswith(WRITER_ERROR)]

    def outcome(self, control: list[Candidate]) -> Synthesis:
        """What was written in all, once no wave is out."""
        found = [*self.selected, *self.candidates]
        return Synthesis(
            accepted=[c for c in found if not c.reason],
            rejected=[c for c in found if c.reason],
            gave_up={t.feature_id: self.n_asked[t.feature_id] for t in self.tasks if self.lacks(t) > 0},
            control=control,
            stop_reason=self.stop_reason(),
            progress=self._progress,
        )

    def stop_reason(self) -> str:
        """Why there is no further wave, once none is out."""
        if not self.tasks:
            return "no feature was attempted"
        if self.n_done == len(self.tasks):
            return "every attempted feature has its samples"
        if self._cap:
            return f"{self._cap} is reached"
        if not self.settings.max_candidates:
            return "nothing was to be written"
        if self._is_poor:
            least, n = self.settings.min_yield, self.settings.n_windows
            return f"under {least:g} new samples per 1,000 written tokens, {n} windows in a row"
        return "the candidates of the remaining features are spent"

    @property
    def _is_poor(self) -> bool:
        return self._yield.n_poor >= self.settings.n_windows

    def _begins_again(self) -> bool:
        """Whether another round is worth it: what is still missing gets all its candidates once more, after a round
        that closed something.
        """
        if self._round >= self.settings.rounds or self.n_done <= self._n_done_before:
            return False
        self._round, self._n_done_before = self._round + 1, self.n_done
        self._n_in_vain.clear()
        self._plain = Yield(self.settings.plain_yield, 0)
        self._strengths = {feature: Strength(self.settings.strength / 2) for feature in self._strengths}
        return True

    def _n_new(self, candidates: Iterable[Candidate]) -> int:
        """Samples that features lacked, before these are taken."""
        fired = Counter(feature for c in candidates if not c.reason for feature in c.fires)
        return sum(max(0, min(self.lacks(task), fired[task.feature_id])) for task in self.tasks)

    def _promise(self, task: FeatureTask) -> tuple[float, float]:
        """Accepted samples a candidate, and how near the best one came."""
        feature = task.feature_id
        best = _activation(self._ends[feature][0]) if feature in self._ends else 0.0
        return self.n_fired[feature] / max(self.n_asked[feature], 1), best / acceptance_limit(task.threshold)

    def _strength(self, feature: int) -> float:
        """0 on the rung of spans alone: until a wave was in vain, and again after every accepted sample."""
        rungs = self.settings.rungs
        if STEERED_RUNG not in rungs or (SPANS_RUNG in rungs and self._in_vain(feature) < self.settings.per_wave):
            return 0.0
        return self._strengths[feature].now

    def _contrast(self, candidate: Candidate) -> None:
        """Keep the texts that fired their feature most and least, of those that were measured for it."""
        if candidate.reason in MEASURED and candidate.feature == candidate.written_for:
            known = self._ends.get(candidate.feature, (candidate, candidate))
            best, worst = max(known[0], candidate, key=_activation), min(known[1], candidate, key=_activation)
            self._ends[candidate.feature] = best, worst

    def _pair(self, feature: int) -> Pair | None:
        """What step 2 shows; None in step 1, and while only one text is known that fires the feature."""
        if self.settings.steps == 1 or feature not in self._ends:
            return None
        best, worst = self._ends[feature]
        strong = best.message if feature in best.fires else ""
        return None if strong == worst.message else Pair(strong, worst.message)

    def _left(self, feature: int) -> int:
        """Candidates that may still be written in vain."""
        return self.settings.max_candidates - self._in_vain(feature)

    def _in_vain(self, feature: int) -> int:
        """Candidates since the last accepted sample that fires it, those that are out too."""
        return self._n_in_vain[feature] + self._n_out[feature]

    def _within_caps(self, wave: Wave) -> Wave:
        """As much of a wave as fits, whatever it may cost, beside what plain samples will cost that are then due."""
        caps, each = self.settings.caps, self._expected()
        costs = [worst_amount(request, self.settings) for _, request in wave]
        n_before = len(self.candidates) + self._n_out.total()
        while wave:
            n_plain = self.n_asked[PLAIN] + sum(feature == PLAIN for feature, _ in wave)
            n_due = max(0, n_control(n_before + len(wave), self.settings) - n_plain)
            cap = caps.exceeded(total([self._spent, self._out, *[each] * n_due, *costs]))
            if not cap:
                return wave
            if len(wave) == 1 and not self._n_out.total():
                self._cap = cap
            wave.pop()
            costs.pop()
        return wave

    def _expected(self) -> Amount:
        """What a plain sample will cost: no more than candidates did, whose prompts are longer."""
        n = len(self.candidates)
        if not n:
            return worst_amount(plain_request(0, self.settings), self.settings)
        return Amount(-(-self._spent.calls // n), -(-self._spent.tokens // n), self._spent.money / n)

    def _amount(self, candidate: Candidate) -> Amount:
        if not candidate.n_calls:
            return Amount()
        return self.settings.price.of(candidate.prompt_tokens, candidate.written_tokens, candidate.n_calls)


def first_plain(n_open: int, settings: SynthesisSettings) -> int:
    """Requests of the first plain wave for so many open features."""
    return min(PLAIN_WAVE, n_open * settings.per_wave)


def n_control(n_candidates: int, settings: SynthesisSettings) -> int:
    """How many plain samples are written beside so many candidates."""
    return math.ceil(round(n_candidates * settings.control, 6))


def _activation(candidate: Candidate) -> float:
    return candidate.activation or 0.0
