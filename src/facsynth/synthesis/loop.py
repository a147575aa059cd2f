"""Write, encode, keep what fires: wave by wave, until every feature has its samples or a cap is reached.

Before: `synthesis.waves` says what is asked. After: `coverage` again, over seed set and accepted samples. A wave
depends only on earlier waves, never on time or arrival; its decisions are one file. So the same recorded replies give
the same samples, byte for byte, however often the run was interrupted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from facsynth.llm.budget import NOT_SENT
from facsynth.protocols import Writer
from facsynth.records import Progress, no_progress
from facsynth.store import Artifact
from facsynth.synthesis.accept import WRITER_ERROR
from facsynth.synthesis.candidates import (
    Candidate,
    Synthesis,
)
from facsynth.synthesis.deciding import Decider, Guard, HasLabel, Measure, Score
from facsynth.synthesis.parts import SampleWriter, Written
from facsynth.synthesis.requests import FeatureTask, SynthesisSettings
from facsynth.synthesis.seen import NOTHING_SEEN, Seen
from facsynth.synthesis.waves import Wave, Waves


def synthesize(
    tasks: Sequence[FeatureTask],
    writer: Writer,
    measure: Measure,
    artifact: Artifact,
    settings: SynthesisSettings,
    *,
    selected: Sequence[Candidate] = (),
    guard: Guard | None = None,
    has_label: HasLabel | None = None,
    score: Score | None = None,
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
        has_label: what tells the label of a sample, where that is checked.
        score: the judge's marks, where one is asked.
        seen: samples of seed set and anchor; a candidate that is equal to one, or nearly, is a copy.
        progress: told of accepted samples.

    Raises:
        ModelError: the writer finished no sample of the first wave.
    """
    waves = Waves(tasks, settings, selected)
    decider = Decider(tasks, measure, artifact, settings, given=seen, guard=guard, has_label=has_label, score=score)
    decider.remember(selected)
    samples = SampleWriter(writer, settings.wanted, settings.clean, decider.languages, settings.n_tries)
    _decide_all(waves, decider, samples, settings.lag, progress)
    return waves.outcome(_control(waves, decider, samples))


def _decide_all(waves: Waves, decider: Decider, writer: SampleWriter, lag: int, progress: Progress) -> None:
    """Wave by wave, `lag` of them written while one is decided."""
    beside = ThreadPoolExecutor(lag + 1)
    out: deque[tuple[str, Wave, Callable[[], list[Written]]]] = deque()
    n = 0
    try:
        while True:
            while len(out) <= lag and (wave := waves.next()):
                name, n = f"waves/{n:04d}.jsonl", n + 1
                is_sent = bool(lag) and not decider.artifact.has(name)
                out.append((name, wave, _written(writer, wave, waves, beside if is_sent else None)))
            if not out:
                break
            name, wave, write = out.popleft()
            waves.take(wave, decider.decide(name, wave, write, waves))
            progress("writing samples", waves.n_done, len(waves.tasks))
    finally:
        beside.shutdown(wait=False, cancel_futures=True)


def _control(waves: Waves, decider: Decider, writer: SampleWriter) -> list[Candidate]:
    """The plain samples, which are compared with seed set and anchor alone."""
    decider.forget_accepted()
    control: list[Candidate] = []
    n_again = len(waves.plain_again)
    while plain := waves.next_control(control):
        name = f"waves/control{len(control):05d}.jsonl"
        found = decider.decide(name, plain, _written(writer, plain, waves), waves)
        control += [c.changed(n_calls=0) for c in found] if len(control) < n_again else found
        if any(candidate.reason.startswith(f"{WRITER_ERROR}: {NOT_SENT}: ") for candidate in control):
            break
    return control


def _written(
    writer: SampleWriter, wave: Wave, waves: Waves, beside: ThreadPoolExecutor | None = None
) -> Callable[[], list[Written]]:
    """What gives the samples of a wave; `beside`: where they are written from now on, while something else is done."""
    labels = [waves.label_of(feature, request.sample_index) for feature, request in wave]
    write = partial(writer.write, [request for _, request in wave], labels)
    return beside.submit(write).result if beside else write
