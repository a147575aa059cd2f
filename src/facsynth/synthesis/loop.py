"""Write, encode, keep what fires: wave by wave, until every feature has its samples or a cap is reached.

Before: `coverage.plan` says what is attempted. After: `coverage` again, over seed set and accepted samples. A wave
has a fixed size and depends only on earlier waves, never on time or arrival; its decisions are one file. So the
same recorded replies give the same samples, byte for byte, however often the run was interrupted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from facsynth.errors import ModelError
from facsynth.protocols import Writer
from facsynth.records import Measurement, Message, Progress, Reply, Request, Sample, no_progress
from facsynth.store import Artifact, fingerprint, read_jsonl, write_jsonl
from facsynth.synthesis.accept import NOTHING_FIRES, acceptance_limit, clean_text, fault
from facsynth.synthesis.requests import FeatureTask, SynthesisSettings, feature_request, plain_request

CONTROL = -1
THERE_ALREADY = "is there already"
Measure = Callable[[Sequence[Sample]], list[Measurement | None]]
"""Samples in, what they fire out (float32, on the text alone), same order; None: could not be encoded."""


@dataclass(frozen=True)
class Candidate:
    """One reply and what became of it: a row of the wave's file."""

    written_for: int
    """The feature of its prompt; `CONTROL` for a plain sample."""
    text: str
    reason: str
    """Empty where accepted."""
    feature: int = -1
    """The feature it is accepted for; where rejected, that of its prompt."""
    activation: float = 0.0
    position: int = 0
    span: str = ""
    fires: tuple[int, ...] = ()
    """Attempted features above their acceptance limit; of a plain sample, above their threshold."""
    sample_id: str = ""
    prompt_hash: str = ""
    strength: float = 0.0
    prompt_tokens: int = 0
    written_tokens: int = 0


@dataclass(frozen=True)
class Synthesis:
    """What was written, all of it, in the order of asking."""

    accepted: list[Candidate]
    rejected: list[Candidate]
    gave_up: dict[int, int]
    """feature_id → candidates spent on it."""
    control: list[Candidate]
    """Plain samples; `fires` are the features above their threshold, as in `recovered`."""
    stop_reason: str

    @property
    def candidate_tokens(self) -> int:
        """Written for features, accepted or not."""
        return sum(candidate.written_tokens for candidate in (*self.accepted, *self.rejected))

    @property
    def control_tokens(self) -> int:
        """Written beside, for the chance level."""
        return sum(candidate.written_tokens for candidate in self.control)


def synthesize(
    tasks: Sequence[FeatureTask],
    writer: Writer,
    measure: Measure,
    artifact: Artifact,
    settings: SynthesisSettings,
    *,
    known_ids: Collection[str] = (),
    progress: Progress = no_progress,
) -> Synthesis:
    """Write samples for features until each has `n_wanted` accepted ones or `max_candidates` in a row were in vain.

    Args:
        tasks: the attempted features.
        writer: requests in, replies out; wrap it in a ledger to be able to go on.
        measure: what decides.
        artifact: keeps one file of decisions a wave.
        settings: sizes and sampling.
        known_ids: samples of seed and anchor; a candidate equal to one is a copy.
        progress: told of accepted samples.

    Raises:
        ModelError: the writer answered no request of a wave.
    """
    loop = _Loop(tasks, writer, measure, artifact, settings, set(known_ids))
    wave, stop_reason = 0, ""
    while not stop_reason:
        requests = loop.next_wave()
        if requests:
            loop.take(loop.decide(f"waves/{wave:04d}.jsonl", requests))
        stop_reason = loop.stop_reason(requests)
        progress("writing samples", loop.n_done, len(tasks))
        wave += 1
    loop.known_ids = set(known_ids)
    plain = [(CONTROL, plain_request(index, settings)) for index in range(n_control(len(loop.candidates), settings))]
    return Synthesis(
        accepted=[c for c in loop.candidates if not c.reason],
        rejected=[c for c in loop.candidates if c.reason],
        gave_up={t.feature_id: loop.n_tried[t.feature_id] for t in tasks if loop.lacks(t) > 0},
        control=loop.decide("waves/control.jsonl", plain) if plain else [],
        stop_reason=stop_reason,
    )


def n_control(n_candidates: int, settings: SynthesisSettings) -> int:
    """How many plain samples are written beside so many candidates."""
    return math.ceil(round(n_candidates * settings.control, 6))


class _Loop:
    """The state between waves; a function of the waves taken so far."""

    def __init__(  # noqa: PLR0917 -- private, called once
        self,
        tasks: Sequence[FeatureTask],
        writer: Writer,
        measure: Measure,
        artifact: Artifact,
        settings: SynthesisSettings,
        known_ids: set[str],
    ) -> None:
        self.tasks, self.settings = tasks, settings
        self.writer, self.measure, self.artifact = writer, measure, artifact
        self.thresholds = {task.feature_id: task.threshold for task in tasks}
        self.limits = {feature: acceptance_limit(threshold) for feature, threshold in self.thresholds.items()}
        self.known_ids = known_ids
        """Of seed set and anchor, and accepted since: a sample equal to one of them adds nothing."""
        self.candidates: list[Candidate] = []
        self.n_tried: Counter[int] = Counter()
        self.n_in_vain: Counter[int] = Counter()
        """Candidates written for a feature since the last accepted sample that fires it."""
        self.n_fired: Counter[int] = Counter()
        self.written_tokens = 0

    def lacks(self, task: FeatureTask) -> int:
        """Accepted samples still wanted; any accepted sample counts for every attempted feature it fires."""
        return task.n_wanted - self.n_fired[task.feature_id]

    @property
    def n_done(self) -> int:
        """Features that have what they want."""
        return sum(self.lacks(task) <= 0 for task in self.tasks)

    def next_wave(self) -> list[tuple[int, Request]]:
        """The next requests, with their features; none where all is done, given up or capped."""
        wave = []
        for task in self.tasks:
            tried = self.n_tried[task.feature_id]
            if self.lacks(task) > 0:
                n = min(self.settings.per_wave, self.settings.max_candidates - self.n_in_vain[task.feature_id])
                wave += [
                    (task.feature_id, feature_request(task, index, self.settings)) for index in range(tried, tried + n)
                ]
        if self.settings.max_written_tokens is not None:
            left = self.settings.max_written_tokens - self.written_tokens
            while wave and left < self.settings.max_tokens * (len(wave) + self._n_control(len(wave))):
                wave.pop()
        return wave

    def _n_control(self, n_next: int) -> int:
        """Plain samples that are due once `n_next` further candidates are written."""
        return n_control(len(self.candidates) + n_next, self.settings)

    def stop_reason(self, wave: list[tuple[int, Request]]) -> str:
        """Why there is no further wave; empty where there is one."""
        if not self.tasks:
            return "no feature was attempted"
        if self.n_done == len(self.tasks):
            return "every attempted feature has its samples"
        if wave:
            return ""
        if any(self.lacks(t) > 0 and self.n_in_vain[t.feature_id] < self.settings.max_candidates for t in self.tasks):
            return "the cap on written tokens is reached"
        return "the candidates of the remaining features are spent"

    def decide(self, name: str, requests: list[tuple[int, Request]]) -> list[Candidate]:
        """Ask, encode and decide, or read what was decided before."""
        if not self.artifact.has(name):
            replies = self.writer.write([request for _, request in requests])
            if all(reply.error for reply in replies):
                raise ModelError(
                    f"the writer answered none of {len(replies)} requests: {replies[0].error}\n"
                    "Mend that, and start in a new folder: failed calls are kept, like answered ones."
                )
            rows = [asdict(c) for c in self._decide(requests, replies)]
            self.artifact.write(name, lambda path: write_jsonl(path, rows))
        return [_from_row(row) for row in read_jsonl(self.artifact.folder / name)]

    def take(self, candidates: Sequence[Candidate]) -> None:
        """Add a wave to the state."""
        for candidate in candidates:
            self.candidates.append(candidate)
            self.n_tried[candidate.written_for] += 1
            self.n_in_vain[candidate.written_for] += 1
            self.written_tokens += candidate.written_tokens
        for candidate in candidates:
            if not candidate.reason:
                self.n_fired.update(candidate.fires)
                self.n_in_vain.update({feature: -self.n_in_vain[feature] for feature in candidate.fires})
                self.known_ids.add(candidate.sample_id)

    def _decide(self, requests: list[tuple[int, Request]], replies: Sequence[Reply]) -> list[Candidate]:
        texts = [
            clean_text(reply.text.removeprefix(request.prefix), unfinished=reply.finish_reason == "length")
            for (_, request), reply in zip(requests, replies, strict=True)
        ]
        faults = [
            fault(reply, text, request.messages[-1].content)
            for (_, request), reply, text in zip(requests, replies, texts, strict=True)
        ]
        samples = [Sample((Message("user", text),)) for text in texts]
        sound = [index for index, found in enumerate(faults) if not found]
        measured = dict(zip(sound, self.measure([samples[i] for i in sound]), strict=True)) if sound else {}
        seen, lacking = set(self.known_ids), {task.feature_id: self.lacks(task) for task in self.tasks}
        decided: dict[int, Candidate] = {}
        for index in sorted(range(len(replies)), key=lambda i: (-self._excess(requests[i][0], measured.get(i)), i)):
            (written_for, request), reply = requests[index], replies[index]
            candidate = Candidate(
                written_for=written_for, text=texts[index], reason=faults[index], feature=written_for,
                sample_id=samples[index].sample_id, prompt_hash=fingerprint(request.as_json())[:16],
                strength=dict(request.steering).get(written_for, 0.0),
                prompt_tokens=reply.prompt_tokens, written_tokens=reply.written_tokens,
            )  # fmt: skip
            if not candidate.reason:
                candidate = self._judge(candidate, measured[index], seen, lacking)
            decided[index] = candidate
        return [decided[index] for index in range(len(replies))]

    def _excess(self, feature: int, found: Measurement | None) -> float:
        """Activation over limit, by which a wave's candidates are ranked."""
        return (
            found.maxima.get(feature, (0.0, 0))[0] / self.limits[feature] if found and feature in self.limits else 0.0
        )

    def _judge(
        self, candidate: Candidate, found: Measurement | None, seen: set[str], lacking: dict[int, int]
    ) -> Candidate:
        """Accept a candidate for a feature that still lacks samples and fires, its own one first.

        Candidates come strongest first, so a feature keeps its strongest.
        """
        if found is None:
            return _with(candidate, reason="cannot be encoded")
        own = candidate.written_for
        limits = self.thresholds if own == CONTROL else self.limits
        fires = tuple(sorted(f for f, limit in limits.items() if found.maxima.get(f, (0.0, 0))[0] > limit))
        wanted = [f for f in fires if lacking[f] > 0]
        activation, position = found.maxima.get(own, (0.0, 0))
        candidate = _with(candidate, activation=activation, position=position, fires=fires)
        if candidate.sample_id in seen:
            return _with(candidate, reason=THERE_ALREADY)
        if own == CONTROL:
            seen.add(candidate.sample_id)
            return _with(candidate, reason="" if fires else NOTHING_FIRES)
        if not wanted:
            return _with(candidate, reason="fires only what has its samples" if fires else NOTHING_FIRES)
        seen.add(candidate.sample_id)
        for feature in fires:
            lacking[feature] -= 1
        best = own if own in wanted else max(wanted, key=lambda f: found.maxima[f][0] / self.limits[f])
        activation, position = found.maxima[best]
        return _with(candidate, feature=best, activation=activation, position=position, span=found.span(position))


def _with(candidate: Candidate, **changes: Any) -> Candidate:
    return Candidate(**{**asdict(candidate), **changes})


def _from_row(row: dict[str, Any]) -> Candidate:
    return Candidate(**{**row, "fires": tuple(row["fires"])})
