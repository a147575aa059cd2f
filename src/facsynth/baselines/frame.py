"""What all rival methods have in common: what they are given, how they ask, what is accepted, and what that cost.

Before: anchor texts, a writer, and what is there already. Inside: a method gives drafts, wave by wave. After: a folder
of samples in the order of acceptance, each with all that was asked for until then: the first 50 of 200 are what a
budget of 50 gives. Drafts pass what samples written for features pass, but that they need not fire any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from facsynth.baselines.given import Draft, Given, Method, Scribe
from facsynth.lock import locked
from facsynth.protocols import Writer
from facsynth.records import Progress, Sample, no_progress
from facsynth.store import Artifact, fingerprint, write_jsonl
from facsynth.synthesis.accept import OTHER_LABEL
from facsynth.synthesis.deciding import HasLabel, check_given
from facsynth.synthesis.parts import SampleWriter, Written
from facsynth.synthesis.rows import bare
from facsynth.synthesis.seen import Seen
from facsynth.text.forms import to_row
from facsynth.text.language import other_language

STAGE, SAMPLES, COSTS, REJECTED = "baseline", "samples.jsonl", "costs.jsonl", "rejected.jsonl"
IN_VAIN = 8
"""Waves in a row of which nothing is accepted: then a method has no more to give."""
OF_WAVE = "n_of_wave"
"""Of a cost: how many of its wave were accepted, with those beyond the cap."""
ALL_THERE, NO_TOKENS = "all samples are there", "the written tokens are used up"
NO_MORE, NOTHING_NEW = "the method has no more to give", f"nothing was accepted in {IN_VAIN} waves"


class Cap(NamedTuple):
    """Where a method stops."""

    n: int
    """Accepted samples."""
    written_tokens: int | None = None
    """All that is written for the method: the wave that reaches it is the last. None: as many as it takes."""


def collect(
    name: str,
    method: Method,
    given: Given,
    writer: Writer,
    cap: Cap,
    *,
    out: Path,
    seen: Seen,
    parents: Mapping[str, str],
    has_label: HasLabel | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Let a method write samples until it has as many as it may.

    Args:
        name: of the method.
        method: one of `baselines.METHODS`.
        given: what it may know.
        writer: through a ledger (`llm.LedgerWriter`, `EndpointWriter`), so that the same call goes on where it stopped.
        cap: where to stop.
        out: the folder: `samples.jsonl` in the form's layout, `costs.jsonl` (a row each: what was spent by the end of
            its wave, and how many of that were accepted), `rejected.jsonl`; it may hold the ledger.
        seen: samples of seed set and anchor, and what is held out.
        parents: fingerprints of all that `seen` and `given` hold, of the encoder and the like.
        has_label: tells labels, where `settings.clean` has them checked.
        progress: told of accepted samples.

    Returns:
        The manifest.

    Raises:
        SettingsError: the method needs what is not given.
        IncompleteError, ModelError: the writer does not answer; as `Scribe.write`.
        MismatchError: the folder was begun with other settings.
    """
    s = given.settings
    check_given(s.clean, has_label, None)
    kept = {key: asdict(s)[key] for key in ("wanted", "max_tokens", "temperature", "top_p", "asks", "n_tries", "clean")}
    asked = {"method": name, "rng_seed": s.rng_seed, **kept, **cap._asdict()}
    known = dict(parents) | {"writer": writer.identity, "shown": fingerprint(given.shown)}
    with locked(out):
        artifact = Artifact(out, STAGE, asked, known, may_hold=[path.name for path in out.glob("ledger.sqlite*")])
        if artifact.manifest is not None:
            return artifact.manifest
        desk = _Desk(given, Scribe(writer, s), cap, seen, has_label)
        reason = desk.run(method, lambda: desk.tell(name, progress))
        return desk.keep(artifact, reason)


def messages_of(anchor: Sequence[Sample], form: str) -> tuple[str, ...]:
    """What a prompt shows of samples: the first message of the user, of a question without its choices."""
    texts = (next((m.content for m in sample.messages if m.role == "user"), "") for sample in anchor)
    return tuple(bare(text) if form == "ab" else text for text in texts if text)


class _Desk:
    """Where drafts are decided on."""

    def __init__(self, given: Given, scribe: Scribe, cap: Cap, seen: Seen, has_label: HasLabel | None) -> None:
        s = given.settings
        self.given, self.scribe, self.cap, self.has_label = given, scribe, cap, has_label
        self.known = (seen, seen.nothing(s.clean))
        """What is there already: before, and accepted."""
        languages = {other_language(text) for text in given.shown} or {""}
        self.samples = SampleWriter(scribe, s.wanted, s.clean, languages, s.n_tries)
        self.form = s.wanted.form
        self.rows: list[dict[str, Any]] = []
        self.costs: list[dict[str, Any]] = []
        self.rejected: list[dict[str, Any]] = []

    def run(self, method: Method, told: Callable[[], None]) -> str:
        """All waves; why there are no more."""
        waves, accepted, in_vain = method(self.given, self.scribe), None, 0
        while len(self.rows) < self.cap.n:
            told()
            try:
                drafts = next(waves) if accepted is None else waves.send(accepted)
            except StopIteration:
                return NO_MORE
            accepted = self._decide(drafts)
            in_vain = 0 if any(accepted) else in_vain + 1
            if self._is_spent() or in_vain == IN_VAIN:
                told()
                return NO_TOKENS if self._is_spent() else NOTHING_NEW
        told()
        return ALL_THERE

    def keep(self, artifact: Artifact, reason: str) -> dict[str, Any]:
        """Write everything down, and the manifest with why there is no more."""
        for file, rows in {SAMPLES: self.rows, COSTS: self.costs, REJECTED: self.rejected}.items():
            write_jsonl(artifact.folder / file, rows)
        n_rejected = Counter(row["reason"] for row in self.rejected)
        return artifact.finish(
            n_accepted=len(self.rows), n_rejected=dict(n_rejected.most_common()), **self.scribe.spent,
            n_failed_calls=self.scribe.n_failed, stop_reason=reason, notes=self.scribe.notes,
        )  # fmt: skip

    def tell(self, name: str, progress: Progress) -> None:
        """How far it is to where the method stops."""
        if self.cap.written_tokens is None:
            progress(f"samples by {name}", min(len(self.rows), self.cap.n), self.cap.n)
        else:
            spent = self.scribe.spent["written_tokens"]
            progress(f"tokens by {name}", min(spent, self.cap.written_tokens), self.cap.written_tokens)

    def _is_spent(self) -> bool:
        most = self.cap.written_tokens
        return most is not None and self.scribe.spent["written_tokens"] >= most

    def _decide(self, drafts: Sequence[Draft]) -> list[str]:
        """Complete drafts, and decide on them in their order; of each its message, empty where it is not accepted."""
        written = [self._begun(draft) for draft in drafts]
        self.samples.complete(written)
        samples = [sample.sample(self.form) for sample in written]
        rows = [w.row or to_row(sample, self.form) for w, sample in zip(written, samples, strict=True)]
        self._check_labels(written, samples)
        spent, accepted = dict(self.scribe.spent), [""] * len(written)
        kept = list[tuple[str, dict[str, Any]]]()
        for n, (sample, one, row) in enumerate(zip(samples, written, rows, strict=True)):
            reason = one.reason or next((why for k in self.known if (why := k.has(sample.sample_id, sample.text))), "")
            if reason:
                self.rejected.append({"text": sample.text, "reason": reason, "fault_at": one.fault_at})
            else:
                self.known[1].add(sample.sample_id, sample.text)
                kept.append((sample.sample_id, row))
                accepted[n] = one.turns[0].content
        for sample_id, row in kept[: self.cap.n - len(self.rows)]:
            self.rows.append(row)
            self.costs.append({"sample_id": sample_id, **spent, OF_WAVE: len(kept)})
        return accepted

    def _begun(self, draft: Draft) -> Written:
        at_hand = {"assistant": draft.reply, "worse": draft.worse}
        label = self.given.settings.wanted.label
        sample = Written(
            self.scribe.request(), label, at_hand={part: r for part, r in at_hand.items() if r is not None}
        )
        self.samples.take_message(sample, draft.message, draft.shown)
        if draft.reason and not draft.message.error:
            sample.reason = draft.reason
        return sample

    def _check_labels(self, written: Sequence[Written], samples: Sequence[Sample]) -> None:
        """Drop what has another label than it was written with."""
        if self.has_label is None:
            return
        sound = [
            i for i, (one, sample) in enumerate(zip(written, samples, strict=True))
            if not one.reason and not any(known.has(sample.sample_id, sample.text) for known in self.known)
        ]  # fmt: skip
        if sound:
            fits = self.has_label([samples[i] for i in sound], [written[i].label for i in sound])
            for index, fit in zip(sound, fits, strict=True):
                written[index].reason = "" if fit else OTHER_LABEL
