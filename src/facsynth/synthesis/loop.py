"""Write, encode, keep what fires: wave by wave, until every feature has its samples or a cap is reached.

Before: `synthesis.waves` says what is asked. After: `coverage` again, over seed set and accepted samples. A wave
depends only on earlier waves, never on time or arrival; its decisions are one file. So the same recorded replies give
the same samples, byte for byte, however often the run was interrupted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import NamedTuple

from facsynth.errors import InputError, ModelError
from facsynth.llm.budget import NOT_SENT
from facsynth.llm.wire import Kind
from facsynth.protocols import Writer
from facsynth.records import Measurement, Progress, Sample, no_progress
from facsynth.store import Artifact, fingerprint, read_jsonl, write_jsonl
from facsynth.synthesis.accept import (
    ENOUGH_OF_IT,
    NOT_FLUENT,
    NOTHING_FIRES,
    WRITER_ERROR,
    CleanSettings,
    acceptance_limit,
)
from facsynth.synthesis.candidates import (
    CONTROL,
    PLAIN,
    PLAIN_RUNG,
    SPANS_RUNG,
    STEERED_RUNG,
    Candidate,
    Synthesis,
)
from facsynth.synthesis.parts import SampleWriter, Written
from facsynth.synthesis.requests import FeatureTask, SynthesisSettings, languages_of
from facsynth.synthesis.seen import NOTHING_SEEN, Seen
from facsynth.synthesis.waves import Wave, Waves

Measure = Callable[[Sequence[Sample]], list[Measurement | None]]
"""Samples in, what they fire out (float32, on the text alone), same order; None: could not be encoded."""


def synthesize(
    tasks: Sequence[FeatureTask],
    writer: Writer,
    measure: Measure,
    artifact: Artifact,
    settings: SynthesisSettings,
    *,
    selected: Sequence[Candidate] = (),
    guard: Guard | None = None,
    seen: Seen = NOTHING_SEEN,
    progress: Progress = no_progress,
) -> Synthesis:
    """Write samples for features until each has `n_wanted` accepted ones or `max_candidates` in a row were in vain.

    Args:
        tasks: the attempted features.
        writer: requests in, replies out; wrap it in a ledger to be able to go on.
        measure: what decides.
        artifact: keeps one file of decisions a wave.
        settings: sizes and sampling.
        selected: from a pool; what those fire that are accepted is not written for.
        guard: what tells gibberish, where the writer is steered.
        seen: samples of seed set and anchor; a candidate that is equal to one, or nearly, is a copy.
        progress: told of accepted samples.

    Raises:
        ModelError: the writer answered no request of a wave.
    """
    waves, judge = Waves(tasks, settings, selected), _Judge(tasks, measure, artifact, settings.clean, seen)
    judge.guard = guard
    judge.remember(selected)
    samples = SampleWriter(writer, settings.wanted, settings.clean, judge.languages, settings.n_tries)
    beside = ThreadPoolExecutor(settings.lag + 1)
    out: deque[tuple[str, Wave, Callable[[], list[Written]]]] = deque()
    n = 0
    try:
        while True:
            while len(out) <= settings.lag and (wave := waves.next()):
                name, n = f"waves/{n:04d}.jsonl", n + 1
                is_sent = bool(settings.lag) and not artifact.has(name)
                out.append((name, wave, _written(samples, wave, beside if is_sent else None)))
            if not out:
                break
            name, wave, replies = out.popleft()
            waves.take(wave, judge.decide(name, wave, replies, waves))
            progress("writing samples", waves.n_done, len(tasks))
    finally:
        beside.shutdown(wait=False, cancel_futures=True)
    return waves.outcome(_control(waves, judge, samples))


def _control(waves: Waves, judge: _Judge, writer: SampleWriter) -> list[Candidate]:
    """The plain samples, which are compared with seed set and anchor alone."""
    judge.forget_accepted()
    control: list[Candidate] = []
    while plain := waves.next_control(control):
        name = f"waves/control{len(control):05d}.jsonl"
        found = judge.decide(name, plain, _written(writer, plain), waves)
        control += [c.changed(n_calls=0) for c in found] if len(control) < waves.n_asked[PLAIN] else found
        if any(NOT_SENT in candidate.reason for candidate in control):
            break
    return control


def _written(writer: SampleWriter, wave: Wave, beside: ThreadPoolExecutor | None = None) -> Callable[[], list[Written]]:
    """What gives the samples of a wave; `beside`: where they are written from now on, while something else is done."""
    write = partial(writer.write, [request for _, request in wave])
    return beside.submit(write).result if beside else write


class Guard(NamedTuple):
    """What tells texts from gibberish."""

    floor: float
    """Mean log-probability in nats, below which a text is none."""
    log_probs: Callable[[Sequence[Sample]], list[float]]
    """Of samples that can be encoded, as the unsteered model finds them."""


class _Judge:
    """Decides on replies, and keeps what it decided."""

    def __init__(
        self,
        tasks: Sequence[FeatureTask],
        measure: Measure,
        artifact: Artifact,
        clean: CleanSettings,
        given: Seen,
    ) -> None:
        self.measure, self.artifact, self.clean = measure, artifact, clean
        self.thresholds = {task.feature_id: task.threshold for task in tasks}
        self.limits = {feature: acceptance_limit(threshold) for feature, threshold in self.thresholds.items()}
        self.guard: Guard | None = None
        self.languages = languages_of(tasks)
        self._given, self._accepted = given, Seen.of([], clean)
        """Of seed set and anchor, and accepted since: a sample equal to one of them, or nearly, adds nothing."""

    def forget_accepted(self) -> None:
        """Compare with what was given alone."""
        self._accepted = Seen.of([], self.clean)

    def remember(self, candidates: Iterable[Candidate]) -> None:
        """Compare with the accepted ones too."""
        for candidate in candidates:
            if not candidate.reason and candidate.written_for != CONTROL:
                self._accepted.add(candidate.sample_id, candidate.text)

    def decide(self, name: str, wave: Wave, write: Callable[[], list[Written]], waves: Waves) -> list[Candidate]:
        """Encode and decide, or read what was decided before."""
        if not self.artifact.has(name):
            written = write()
            if not waves.candidates:
                _check_any(written)
            rows = [asdict(c) for c in self._decide(wave, written, waves)]
            self.artifact.write(name, lambda path: write_jsonl(path, rows))
        path = self.artifact.folder / name
        candidates = [Candidate.of_row(row) for row in read_jsonl(path)]
        if len(candidates) != len(wave):
            raise InputError(
                f"{path} is damaged: it decides on {len(candidates)} candidates of {len(wave)}\n"
                "Remove it, and run the same command again: they are decided anew, and nothing is written again."
            )
        self.remember(candidates)
        return candidates

    def _decide(self, requests: Wave, written: Sequence[Written], waves: Waves) -> list[Candidate]:
        samples = [found.sample for found in written]
        sound = [index for index, found in enumerate(written) if not found.reason]
        measured = dict(zip(sound, self.measure([samples[i] for i in sound]), strict=True)) if sound else {}
        log_probs = self._log_probs(requests, samples, measured)
        seen, lacking = Seen.of([], self.clean), {task.feature_id: waves.lacks(task) for task in waves.tasks}
        decided: dict[int, Candidate] = {}
        for index in self._by_worth(requests, measured, lacking):
            candidate = _candidate(requests[index][0], written[index], log_probs.get(index))
            if not candidate.reason:
                candidate = self._judge(candidate, measured[index], seen, lacking)
            decided[index] = candidate
        return [decided[index] for index in range(len(written))]

    def _log_probs(
        self, requests: Wave, samples: Sequence[Sample], measured: Mapping[int, Measurement | None]
    ) -> dict[int, float]:
        """Of the candidates that fire anything, where there is a guard."""
        firing = [
            i for i, found in measured.items()
            if found and requests[i][0] != CONTROL
            and any(found.maxima.get(f, (0.0, 0))[0] > limit for f, limit in self.limits.items())
        ]  # fmt: skip
        return dict(zip(firing, self.guard.log_probs([samples[i] for i in firing]), strict=True)) if self.guard else {}

    def _by_worth(
        self, requests: Wave, measured: Mapping[int, Measurement | None], lacking: Mapping[int, int]
    ) -> Iterator[int]:
        """The candidates of a wave in the order they are decided in: those that fire their own feature most first; of
        plain ones always the one that closes most of what is lacking, which changes with every one that is taken.
        """

        def worth(index: int) -> float:
            feature, found = requests[index][0], measured.get(index)
            if found is None or feature == CONTROL:
                return 0.0
            if feature == PLAIN:
                return sum(found.maxima.get(f, (0.0, 0))[0] > self.limits[f] for f, n in lacking.items() if n > 0)
            return found.maxima.get(feature, (0.0, 0))[0] / self.limits[feature]

        left = list(range(len(requests)))
        while left:
            best = max(left, key=lambda index: (worth(index), -index))
            left.remove(best)
            yield best

    def _judge(self, candidate: Candidate, found: Measurement | None, seen: Seen, lacking: dict[int, int]) -> Candidate:
        """Accept a candidate for a feature that still lacks samples and fires, its own one first.

        Candidates come strongest first, so a feature keeps its strongest.
        """
        if found is None:
            return candidate.changed(reason="cannot be encoded")
        own = candidate.written_for
        limits = self.thresholds if own == CONTROL else self.limits
        fires = tuple(sorted(f for f, limit in limits.items() if found.maxima.get(f, (0.0, 0))[0] > limit))
        wanted = [f for f in fires if lacking[f] > 0]
        activation, position = found.maxima.get(own, (0.0, 0))
        candidate = candidate.changed(activation=activation, position=position, fires=fires)
        for known in (self._given, self._accepted, seen):
            if reason := known.has(candidate.sample_id, candidate.text):
                return candidate.changed(reason=reason)
        if own == CONTROL:
            seen.add(candidate.sample_id, candidate.text)
            return candidate.changed(reason="" if fires else NOTHING_FIRES)
        if not wanted:
            return candidate.changed(reason=ENOUGH_OF_IT if fires else NOTHING_FIRES)
        if self.guard and (candidate.log_prob is None or candidate.log_prob < self.guard.floor):
            return candidate.changed(reason=NOT_FLUENT)
        seen.add(candidate.sample_id, candidate.text)
        for feature in fires:
            lacking[feature] -= 1
        best = own if own in wanted else max(wanted, key=lambda f: found.maxima[f][0] / self.limits[f])
        activation, position = found.maxima[best]
        return candidate.changed(feature=best, activation=activation, position=position, span=found.span(position))


def _candidate(written_for: int, written: Written, log_prob: float | None) -> Candidate:
    """What was written, before anything is decided but its faults."""
    request, sample = written.request, written.sample
    strength = dict(request.steering).get(written_for, 0.0)
    return Candidate(
        written_for=written_for, text=sample.text, reason=written.reason, feature=written_for,
        strength=strength, rung=_rung(written_for, strength), sample_id=sample.sample_id,
        prompt_hash=fingerprint(request.as_json())[:16], log_prob=log_prob, n_calls=written.n_calls,
        prompt_tokens=written.prompt_tokens, written_tokens=written.written_tokens,
        row=written.row, flaw=written.flaw,
    )  # fmt: skip


def _rung(written_for: int, strength: float) -> str:
    if written_for < 0:
        return PLAIN_RUNG if written_for == PLAIN else ""
    return STEERED_RUNG if strength else SPANS_RUNG


def _check_any(written: Sequence[Written]) -> None:
    """Refuse a first wave of which nothing was answered, but where a cap or what is asked for is why."""
    failed = [sample.reason.removeprefix(f"{WRITER_ERROR}: ") for sample in written if not sample.parts["message"]]
    errors = [why for why, sample in zip(failed, written, strict=False) if sample.reason.startswith(WRITER_ERROR)]
    kinds = {error.partition(":")[0] for error in errors}
    if len(errors) == len(written) and not kinds & {NOT_SENT, Kind.REFUSAL, Kind.FILTER}:
        raise ModelError(
            f"the writer answered none of {len(written)} requests: {errors[0]}\n"
            "Mend that, and start in a new folder: failed calls are kept, like answered ones."
        )
