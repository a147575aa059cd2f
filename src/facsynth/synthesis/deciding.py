"""What becomes of a wave: measured, guarded, scored, and accepted or rejected with a reason; cheap checks come first.

Before: `synthesis.parts` has written samples. After: `synthesis.loop` hands what was decided to `synthesis.waves`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from facsynth.errors import IncompleteError, InputError, ModelError, SettingsError
from facsynth.llm.budget import NOT_SENT
from facsynth.llm.endpoint_writer import ENOUGH, is_passing
from facsynth.llm.wire import Kind
from facsynth.records import NON_FINITE, Measurement, Sample
from facsynth.store import Artifact, fingerprint, read_jsonl, write_jsonl
from facsynth.synthesis.accept import (
    ENOUGH_OF_IT,
    NOT_ENCODED,
    NOT_FLUENT,
    NOT_SCORED,
    NOTHING_FIRES,
    OTHER_LABEL,
    POOR,
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
)
from facsynth.synthesis.parts import Written
from facsynth.synthesis.requests import FeatureTask, SynthesisSettings, languages_of
from facsynth.synthesis.seen import Seen
from facsynth.synthesis.waves import Wave, Waves
from facsynth.text.labels import Label

Measure = Callable[[Sequence[Sample]], list[Measurement | None]]
"""Samples in, what they fire out (float32, on the text alone), same order; None: could not be encoded."""
Score = Callable[[Sequence[Mapping[str, Any]]], list[int | None]]
"""Whole rows in, a judge's marks out, 1 to 5, same order; None: it gave none."""
HasLabel = Callable[[Sequence[Sample], Sequence[Label | None]], list[bool]]
"""Samples and the labels they were written with in, whether they have them out, same order."""


def check_given(clean: CleanSettings, has_label: HasLabel | None, score: Score | None) -> None:
    """Refuse to leave out a check that is asked for.

    Raises:
        SettingsError: what it needs is not given.
    """
    if clean.min_score is not None and score is None:
        raise SettingsError("min_score asks for marks, and no judge is given\nGive one, or leave min_score out.")
    if clean.check_label and has_label is None:
        raise SettingsError("check_label needs what tells labels\nGive has_label, or leave check_label out.")


class Guard(NamedTuple):
    """What tells texts from gibberish."""

    floor: float
    """Mean log-probability in nats, below which a text is none."""
    log_probs: Callable[[Sequence[Sample]], list[float]]
    """Of samples that can be encoded, as the unsteered model finds them."""


class Decider:
    """Decides on replies, and keeps what it decided."""

    def __init__(
        self,
        tasks: Sequence[FeatureTask],
        measure: Measure,
        artifact: Artifact,
        settings: SynthesisSettings,
        *,
        given: Seen,
        guard: Guard | None = None,
        has_label: HasLabel | None = None,
        score: Score | None = None,
    ) -> None:
        """As `loop.synthesize` takes them."""
        if tasks and settings.max_candidates:
            check_given(settings.clean, has_label, score)
        self.measure, self.artifact, self.clean, self.form = measure, artifact, settings.clean, settings.wanted.form
        self.guard, self.has_label, self.score = guard, has_label, score
        self.thresholds = {task.feature_id: task.threshold for task in tasks}
        self.limits = {feature: acceptance_limit(threshold) for feature, threshold in self.thresholds.items()}
        self.languages = languages_of(tasks)
        self._given, self._accepted = given, given.nothing(settings.clean)
        """Of seed set and anchor, and accepted since: a sample equal to one of them, or nearly, adds nothing."""

    def forget_accepted(self) -> None:
        """Compare with what was given alone."""
        self._accepted = self._given.nothing(self.clean)

    def remember(self, candidates: Iterable[Candidate]) -> None:
        """Compare with the accepted ones too, and plain samples with all of these."""
        for candidate in candidates:
            if not candidate.reason or (candidate.written_for == CONTROL and candidate.reason == NOTHING_FIRES):
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
        samples = [found.sample(self.form) for found in written]
        sound = [index for index, found in enumerate(written) if not found.reason]
        measured = dict(zip(sound, self.measure([samples[i] for i in sound]), strict=True)) if sound else {}
        log_probs = self._log_probs(requests, samples, measured)
        candidates = [
            _candidate(requests[i][0], found, samples[i], log_probs.get(i)) for i, found in enumerate(written)
        ]
        checked: dict[int, Candidate] = {}
        while True:
            decided = self._in_turn([checked.get(i, c) for i, c in enumerate(candidates)], measured, waves)
            new = [i for i, c in enumerate(decided) if not c.reason and c.written_for != CONTROL and i not in checked]
            if not new or not (self.score or self.has_label):
                return decided
            for i, (mark, reason) in self._final({i: candidates[i] for i in new}, samples).items():
                own, found = decided[i].written_for, measured[i]
                activation, position = found.maxima.get(own, (0.0, 0)) if found else (None, 0)
                checked[i] = (
                    decided[i].changed(
                        score=mark, reason=reason, feature=own, activation=activation, position=position, span=""
                    )
                    if reason
                    else candidates[i].changed(score=mark)
                )

    def _final(self, new: Mapping[int, Candidate], samples: Sequence[Sample]) -> dict[int, tuple[int | None, str]]:
        """A judge's mark, and why not, of candidates that pass everything else: label first, the judge last.

        What is rejected here leaves its place to another one, and did fire what it fires.
        """
        found: dict[int, tuple[int | None, str]] = dict.fromkeys(new, (None, ""))
        if self.has_label:
            fits = self.has_label([samples[i] for i in new], [c.whole.get("label") for c in new.values()])
            found = {i: (None, "" if fit else OTHER_LABEL) for i, fit in zip(new, fits, strict=True)}
        asked = [i for i, (_, reason) in found.items() if not reason]
        if not self.score or not asked:
            return found
        marks = self.score([new[i].whole for i in asked])
        if len(marks) >= ENOUGH and all(mark is None for mark in marks):
            raise ModelError(
                f"the judge gave no marks to any of {len(marks)} samples\n"
                "See what it says: facsynth ledger RUN --export calls.jsonl. Then, in a new folder, give it more "
                "room (judge.max_tokens), name another judge, or leave accept.min_score out."
            )
        least = self.clean.min_score or 0
        return found | {
            i: (mark, NOT_SCORED if mark is None else POOR if mark < least else "")
            for i, mark in zip(asked, marks, strict=True)
        }

    def _in_turn(
        self, candidates: Sequence[Candidate], measured: Mapping[int, Measurement | None], waves: Waves
    ) -> list[Candidate]:
        """Decide on candidates without a fault, one after the other: each accepted one changes what is lacking."""
        seen, lacking = self._given.nothing(self.clean), {task.feature_id: waves.lacks(task) for task in waves.tasks}
        decided = list(candidates)
        for index in self._by_worth(candidates, measured, lacking):
            if not candidates[index].reason:
                decided[index] = self._judge(candidates[index], measured[index], seen, lacking)
        return decided

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
        self, candidates: Sequence[Candidate], measured: Mapping[int, Measurement | None], lacking: Mapping[int, int]
    ) -> Iterator[int]:
        """The candidates of a wave in the order they are decided in: those that fire their own feature most first; of
        plain ones always the one that closes most of what is lacking, which changes with every one that is taken.
        """

        def worth(index: int) -> float:
            feature, found = candidates[index].written_for, measured.get(index)
            if found is None or feature == CONTROL:
                return 0.0
            if feature == PLAIN:
                return sum(found.maxima.get(f, (0.0, 0))[0] > self.limits[f] for f, n in lacking.items() if n > 0)
            return found.maxima.get(feature, (0.0, 0))[0] / self.limits[feature]

        left = list(range(len(candidates)))
        while left:
            best = max(left, key=lambda index: (worth(index), -index))
            left.remove(best)
            yield best

    def _judge(self, candidate: Candidate, found: Measurement | None, seen: Seen, lacking: dict[int, int]) -> Candidate:
        """Accept a candidate for a feature that still lacks samples and fires, its own one first.

        Candidates come strongest first, so a feature keeps its strongest.
        """
        if found is None:
            return candidate.changed(reason=NOT_ENCODED)
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


def _candidate(written_for: int, written: Written, sample: Sample, log_prob: float | None) -> Candidate:
    """What was written, before anything is decided but its faults."""
    request = written.request
    strength = dict(request.steering).get(written_for, 0.0)
    return Candidate(
        written_for=written_for, text=sample.text, reason=written.reason, feature=written_for,
        strength=strength, rung=_rung(written_for, strength), sample_id=sample.sample_id,
        prompt_hash=fingerprint(request.as_json())[:16], log_prob=log_prob, n_calls=written.n_calls,
        prompt_tokens=written.prompt_tokens, written_tokens=written.written_tokens,
        row=written.row, flaw=written.flaw, fault_at=written.fault_at,
    )  # fmt: skip


def _rung(written_for: int, strength: float) -> str:
    if written_for < 0:
        return PLAIN_RUNG if written_for == PLAIN else ""
    return STEERED_RUNG if strength else SPANS_RUNG


def _check_any(written: Sequence[Written]) -> None:
    """Refuse a first wave of which nothing was answered, but where a cap or what is asked for is why."""
    prefix = f"{WRITER_ERROR}: "
    errors = [sample.reason.removeprefix(prefix) for sample in written if sample.reason.startswith(prefix)]
    kinds = {error.partition(":")[0] for error in errors}
    if len(errors) == len(written) and all(map(is_passing, errors)) and NOT_SENT not in kinds:
        raise IncompleteError(
            f"the writer finished none of {len(written)} samples: {errors[0]}\nThe same command asks again."
        )
    if len(errors) == len(written) and not kinds & {NOT_SENT, NON_FINITE, Kind.REFUSAL, Kind.FILTER}:
        raise ModelError(
            f"the writer finished none of {len(written)} samples: {errors[0]}\n"
            "Mend that, and start in a new folder: failed calls are kept, like answered ones."
        )
