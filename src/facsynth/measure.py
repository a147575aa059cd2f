"""One seed set against one anchor: thresholds, relevance, targets, coverage and its scale, in this order.

Before: two encoded corpora. After: the plan, and `outcome`, which writes the figures down.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facsynth.bins import Floats, Ints
from facsynth.blocks import EMBEDDED
from facsynth.coverage.coverage import (
    Coverage,
    Targets,
    UnderRepresented,
    coverage,
    no_targets,
    saturation_warning,
    under_represented,
)
from facsynth.coverage.intervals import coverage_interval, drawn_from
from facsynth.coverage.richness import Richness, richness
from facsynth.coverage.threshold import Threshold
from facsynth.errors import InputError, SettingsError
from facsynth.features.encoded import Encoded
from facsynth.meaning.relevance import Relevance
from facsynth.profile import Profile
from facsynth.records import Interval
from facsynth.scale import Other, Scale, aims_of, at_other_thresholds, scale_of
from facsynth.settings import RunSettings
from facsynth.store import read_jsonl


@dataclass(frozen=True, eq=False)
class Measured:
    """Everything that is known about a seed set before anything is written."""

    thresholds: Floats
    """[d_sae], fixed for the whole run."""
    relevance: Relevance
    targets: Targets
    coverage: Coverage
    under: UnderRepresented
    scale: Scale | None
    """None where the anchor is too small to be halved."""
    interval: Interval | None
    """95 %; None under 4 samples, and where nothing is covered: then there is nothing to estimate a spread from."""
    source: Richness
    """What the seed set says of the source that it comes from."""
    others: Sequence[Other]
    """The same at other thresholds."""
    notes: tuple[str, ...]
    """What a reader should know before trusting the figure."""


def _interval(seed_set: Encoded, aims: Targets, thresholds: Floats, covered: Coverage) -> Interval | None:
    firing = seed_set.profile.firing_samples(thresholds)[aims.feature_ids]
    rows = seed_set.incidence(aims.feature_ids, thresholds)
    return coverage_interval(drawn_from(rows, firing, min_support=covered.min_support))


@dataclass(frozen=True, eq=False)
class Judged:
    """The features that a judge holds relevant."""

    feature_ids: Ints
    """Sorted."""
    n_unjudged: int
    """That could not be explained or judged: not relevant."""
    n_changed: int = 0
    """Whose verdict was changed after samples were begun; it does not count."""


def candidates(anchor: Profile, background: Profile | None, settings: RunSettings) -> tuple[list[int], Floats]:
    """The features that a judge is asked about, and the thresholds: active in the anchor, and told by contrast if so
    asked. None that never fires is among them.
    """
    check_background(background, settings)
    thresholds, _, aims = aims_of(anchor, background, settings)
    return aims.feature_ids.tolist(), thresholds


def measure(
    anchor: Encoded,
    seed_set: Encoded,
    background: Profile | None,
    settings: RunSettings,
    judged: Judged | None = None,
) -> Measured:
    """Measure a seed set.

    Args:
        anchor: what the data should reach.
        seed_set: the data.
        background: what relevance is contrasted with and thresholds refer to.
        settings: threshold, relevance and supports.
        judged: what a judge holds relevant, where it decides.

    Raises:
        SettingsError: contrast without a background.
        InputError: no targets.
        MismatchError: the two come from different spaces.
    """
    asked = settings.coverage
    check_background(background, settings)
    ids = None if judged is None else judged.feature_ids
    thresholds, relevance, aims = aims_of(anchor.profile, background, settings, ids)
    if not len(aims.feature_ids):
        raise _nothing_judged(judged) if judged is not None else no_targets(aims, settings.data.limit)
    covered = coverage(seed_set.profile, aims, thresholds, asked.min_support)
    scale = scale_of(anchor, seed_set, background, aims, thresholds, settings, ids)
    return Measured(
        thresholds=thresholds,
        relevance=relevance,
        targets=aims,
        coverage=covered,
        under=under_represented(seed_set.profile, anchor.profile, aims, thresholds, min_support=asked.min_support),
        scale=scale,
        interval=_interval(seed_set, aims, thresholds, covered),
        source=richness(seed_set.profile.firing_samples(thresholds)[aims.feature_ids], seed_set.profile.n_samples),
        others=at_other_thresholds(anchor.profile, background, settings, ids),
        notes=(
            *_notes_on_scale(anchor, relevance, aims, thresholds, background, asked.min_support),
            *(() if scale else ("the anchor is too small to be halved: no ceiling, and nothing at equal tokens",)),
            *_notes_on_verdicts(judged),
            *_notes_on_codes(anchor.profile, seed_set.profile, settings),
            *_notes_on_sets(anchor, seed_set),
        ),
    )  # fmt: skip


def _nothing_judged(judged: Judged) -> InputError:
    return InputError(
        f"there are no target features: the judge holds none relevant ({judged.n_unjudged} could not be judged)\n"
        "Look at meaning/features.csv and meaning/failures.jsonl, and correct verdicts there; let more verdicts count "
        "(coverage.counts); or ask a larger model (judge.endpoint)."
    )


def check_background(background: Profile | Path | None, settings: RunSettings) -> None:
    """Refuse contrast without a background, or without a place to read one from, which is known before any work.

    Raises:
        SettingsError: there is none; saying how to make one.
        InputError: a folder was named that is not there.
    """
    if background is None and "contrast" in settings.coverage.relevance:
        raise SettingsError(
            "relevance by contrast needs a background, and this SAE has none\n"
            "Take every feature for a first look: coverage.relevance: all (--relevance all). Or encode broad texts and "
            f"name their folder: coverage.background (--background)\n  {_encode_command(settings, 'runs/broad')}"
        )
    if isinstance(background, Path) and not background.exists():
        raise InputError(
            f"the background {background} is not there: no such folder\n"
            "Name the folder of an encoded corpus: coverage.background (--background). This makes one of broad texts:\n"
            f"  {_encode_command(settings, str(background))}"
        )


def _encode_command(settings: RunSettings, out: str) -> str:
    """The command that encodes broad texts with the model and the SAE of these settings."""
    model, sae = settings.model, settings.sae
    said = {"--model": model.path, "--sae": sae.path, "--sae-k": sae.k, "--hook-point": model.hook_point}
    said |= {"--chat-template-from": model.chat_template_from, "--codes": None if sae.codes == "native" else sae.codes}
    said |= {"--compat": sae.compat or None}
    words = [word for name, value in said.items() if value not in (None, EMBEDDED) for word in (name, str(value))]
    return shlex.join(["facsynth", "encode", "broad.jsonl", *words, "-o", out])


def _notes_on_scale(  # noqa: PLR0917 -- private, called once
    anchor: Encoded,
    relevance: Relevance,
    aims: Targets,
    thresholds: Floats,
    background: Profile | None,
    min_support: int,
) -> Iterator[str]:
    if saturation_warning(anchor.profile, aims, thresholds, min_support):
        yield "a tenth of the anchor already covers nearly all targets: coverage tells sets hardly apart"
    if relevance.method == "all":
        yield "every feature the anchor fires counts as relevant: most of them are words and syntax"
    if relevance.dropped_share >= 0.005:
        yield f"{relevance.dropped_share:.0%} of the anchor are of lengths the background lacks: not contrasted"
    if background is None:
        yield "thresholds refer to the anchor itself: no background"


def _notes_on_verdicts(judged: Judged | None) -> Iterator[str]:
    if judged is not None and judged.n_unjudged:
        yield f"features that could not be explained or judged, and count as not relevant: {judged.n_unjudged}"
    if judged is not None and judged.n_changed:
        yield f"verdicts that were changed after samples were begun, and count in a new folder only: {judged.n_changed}"


def _notes_on_codes(anchor: Profile, seed_set: Profile, settings: RunSettings) -> Iterator[str]:
    """Features that fire in every sample say nothing of one; above 0.0, relu codes have many of them."""
    if settings.sae.codes != "relu" or Threshold.parse(settings.coverage.threshold) != Threshold(0.0):
        return
    always = [
        float((part.firing_samples(np.zeros(part.d_sae, np.float32)) == part.n_samples).mean())
        for part in (anchor, seed_set)
    ]
    yield (
        f"relu codes above 0.0: {always[0]:.1%} of all features are always active, in every sample of the anchor "
        f"(seed set {always[1]:.1%}), and tell no sets apart"
    )


def _notes_on_sets(anchor: Encoded, seed_set: Encoded) -> Iterator[str]:
    shared = set(anchor.ids()) & set(seed_set.ids())
    if shared:
        yield f"{len(shared)} samples of the seed set are in the anchor too"
    yield from notes_on_rows("anchor", anchor)
    yield from notes_on_rows("seed set", seed_set)


def notes_on_rows(name: str, part: Encoded) -> Iterator[str]:
    """What became of the rows of a corpus that are not encoded as they stand."""
    failures = part.folder / "failures.jsonl"
    if n_failures := part.manifest["n_failures"]:
        first = read_jsonl(failures)[0]
        told = f"the first is {first['where']}: {first['reason'].splitlines()[0]}"
        yield f"{name}: rows that could not be used: {n_failures}, all in {failures}; {told}"
    for key, what in (
        ("n_cut", "samples that were cut at max_tokens"),
        ("n_repaired", "samples that had broken characters taken out"),
    ):
        if part.manifest[key]:
            yield f"{name}: {what}: {part.manifest[key]}"
