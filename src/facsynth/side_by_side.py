"""The figures of a comparison: every set beside the others, and each further one against the first.

Before: `comparing` has encoded the sets. After: it writes them down.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import chain, combinations
from pathlib import Path
from typing import Any, NamedTuple

from facsynth.bins import Doubles, Floats
from facsynth.coverage.compare import Differences, differences, only_in
from facsynth.coverage.coverage import Coverage, Targets, coverage, no_targets, rarefied
from facsynth.coverage.intervals import Drawn, coverage_interval, difference_interval, drawn_from, enough
from facsynth.features.encode import FeatureSpace
from facsynth.features.encoded import Encoded
from facsynth.features.spans import best_spans
from facsynth.measure import notes_on_rows
from facsynth.profile import Profile, check_same_space
from facsynth.records import Interval, Span
from facsynth.scale import aims_of, at_other_thresholds, curve_of, token_cover, value_at
from facsynth.settings import RunSettings

SMALL = 4
"""A set of so many times fewer tokens than the next is noted, where there are more than two."""
N_SHOWN, N_SPANS = 200, 3
"""Features of a pair that are shown with spans, and how many of each."""


class _Ruler(NamedTuple):
    """What all sets are measured with."""

    aims: Targets
    thresholds: Floats
    min_support: int
    n_samples: int
    """Of the set with the fewest, at which all are compared."""
    n_tokens: int


class _Set(NamedTuple):
    name: str
    samples: Encoded
    covered: Coverage
    cover: Doubles
    """As `rarefaction.covered_at`."""
    drawn: Drawn
    """All of it."""
    at_samples: Drawn
    """The part of it that has as many samples as the smallest set."""
    at_tokens: Drawn
    """The part that has as many tokens."""

    @property
    def profile(self) -> Profile:
        return self.samples.profile


def side_by_side(
    sets: Mapping[str, Encoded], anchor: Encoded, background: Profile | None, space: FeatureSpace,
    settings: RunSettings,
) -> dict[str, Any]:  # fmt: skip
    """Measure sets against one anchor, and tell them apart.

    Args:
        sets: by name, two or more; the first is what the others are compared with.
        anchor: what all should reach.
        background: what relevance is contrasted with and thresholds refer to.
        space: of all of them.
        settings: threshold, relevance and supports.

    Returns:
        `sets`: of each its coverage with its interval, at as many samples and as many tokens as the smallest has, and
        its curves; `pairs`: of each further set the difference to the first, with paired intervals, the features that
        only one covers, and those that one fires more often (`coverage.compare`).

    Raises:
        MismatchError: sets of different feature spaces.
        InputError: no targets.
    """
    for name, one in sets.items():
        check_same_space(anchor.profile.identity, one.profile.identity, ("the anchor", name))
    thresholds, relevance, aims = aims_of(anchor.profile, background, settings)
    if not len(aims.feature_ids):
        raise no_targets(aims, settings.data.limit)
    n_samples, n_tokens = (min(getattr(one.profile, key) for one in sets.values()) for key in ("n_samples", "n_tokens"))
    ruler = _Ruler(aims, thresholds, settings.coverage.min_support, n_samples, n_tokens)
    found = [_measured(name, one, ruler) for name, one in sets.items()]
    others = at_other_thresholds(anchor.profile, background, settings)
    by_threshold = [
        [coverage(one.profile, o.targets, o.thresholds, ruler.min_support).value for o in others] for one in found
    ]
    return {
        "sets": [_figures(one, ruler) | {"thresholds": row} for one, row in zip(found, by_threshold, strict=True)],
        "thresholds": [[other.threshold, len(other.targets.feature_ids)] for other in others],
        "pairs": [_pair(found[0], other, ruler, space.backbone.tokenizer) for other in found[1:]],
        "n_target": len(aims.feature_ids), "n_thin": aims.n_thin, "n_samples": n_samples, "n_tokens": n_tokens,
        "threshold": settings.coverage.threshold, "relevance": relevance.method, "codes": settings.sae.codes,
        "form": settings.data.form, "min_support": ruler.min_support, "fingerprints": dict(space.identity),
        "names": {
            "model": space.backbone.name, "sae": settings.sae.path, "hook_point": space.backbone.hook_point,
            "anchor": ", ".join(Path(source).name for source in settings.data.anchor),
        },
        "notes": [*_small(sets), *_shared(sets, anchor), *chain(*(notes_on_rows(*one) for one in sets.items()))],
    }  # fmt: skip


def _measured(name: str, samples: Encoded, ruler: _Ruler) -> _Set:
    aims, thresholds, support = ruler.aims, ruler.thresholds, ruler.min_support
    profile = samples.profile
    firing = profile.firing_samples(thresholds)[aims.feature_ids]

    def drawn(share: float) -> Drawn:
        rows = samples.incidence(aims.feature_ids, thresholds)
        kept = enough(profile.n_samples, share)
        return drawn_from(rows, firing, share=share, kept=kept, min_support=support)

    whole = drawn(1.0)
    shares = ruler.n_samples / profile.n_samples, ruler.n_tokens / profile.n_tokens
    return _Set(
        name, samples, coverage(profile, aims, thresholds, support), token_cover([samples], aims, thresholds, support),
        whole, *(whole if share == 1 else drawn(share) for share in shares),
    )  # fmt: skip


def _figures(one: _Set, ruler: _Ruler) -> dict[str, Any]:
    aims = ruler.aims, ruler.thresholds, ruler.min_support
    return {
        "name": one.name, "n_samples": one.profile.n_samples, "n_tokens": one.profile.n_tokens,
        "value": one.covered.value, "n_covered": len(one.covered.covered),
        "ci95": _ends(coverage_interval(one.drawn)),
        "at_equal_samples": _at_samples(one, ruler), "at_equal_tokens": _at_tokens(one, ruler),
        "curve": curve_of(one.profile, one.cover, *aims)._asdict(),
    }  # fmt: skip


def _at_samples(one: _Set, ruler: _Ruler) -> float:
    return rarefied(one.profile, ruler.aims, ruler.thresholds, ruler.n_samples, ruler.min_support)


def _at_tokens(one: _Set, ruler: _Ruler) -> float | None:
    """None where so many tokens are less than one of its samples."""
    return value_at(one.profile, one.cover, ruler.n_tokens)


def _pair(first: _Set, other: _Set, ruler: _Ruler, tokenizer: Any) -> dict[str, Any]:
    """The other less the first, and what only one of them fires, or one more than the other."""
    by_samples = _at_samples(other, ruler) - _at_samples(first, ruler)
    of_samples = difference_interval(by_samples, other.at_samples, first.at_samples)
    a, b = _at_tokens(other, ruler), _at_tokens(first, ruler)
    by_tokens, of_tokens = None, None
    if a is not None and b is not None:
        by_tokens = a - b
        of_tokens = difference_interval(by_tokens, other.at_tokens, first.at_tokens, at_tokens=True)
    told = differences(first.profile, other.profile, ruler.aims.feature_ids, ruler.thresholds)
    return {
        "first": first.name, "other": other.name,
        "at_equal_samples": {"value": by_samples, "ci95": _ends(of_samples)},
        "at_equal_tokens": {"value": by_tokens, "ci95": _ends(of_tokens)},
        "only_first": only_in(first.covered, other.covered).tolist(),
        "only_other": only_in(other.covered, first.covered).tolist(),
        "n_tested": told.n_tested, "compared": list(told.compared),
        "differences": _rows(told, first, other, tokenizer),
    }  # fmt: skip


def _rows(told: Differences, first: _Set, other: _Set, tokenizer: Any) -> list[dict[str, Any]]:
    """Features that one set fires more often, with the best spans of the one that does."""
    ids, in_first = told.feature_ids.tolist(), (told.log_odds > 0).tolist()
    spans: dict[int, list[Span]] = {}
    for one, side in ((first, True), (other, False)):
        shown = [i for i, is_first in zip(ids[:N_SHOWN], in_first, strict=False) if is_first == side]
        spans.update(best_spans(one.samples, tokenizer, shown, n_spans=N_SPANS))
    columns = zip(ids, told.rates.tolist(), told.log_odds.tolist(), told.q_values.tolist(), strict=True)
    rows = []
    for i, rates, odds, q in columns:
        best, *more = (asdict(span) for span in spans[i]) if spans.get(i) else (None,)
        rows.append({"feature": i, "rates": rates, "log_odds": odds, "q": q, "span": best, "more": more})
    return rows


def _ends(found: Interval | None) -> list[float] | None:
    return None if found is None else [found.low, found.high]


def _shared(sets: Mapping[str, Encoded], anchor: Encoded) -> Iterator[str]:
    """Samples that two sets hold, or a set and the anchor."""
    ids = {name: [*one.ids()] for name, one in sets.items()}
    for a, b in combinations(ids, 2):
        if n := sum(map(set(ids[b]).__contains__, ids[a])):
            yield f"{n:,} samples of {a} are in {b} too: they tell the two apart in nothing"
    of_anchor = set(anchor.ids())
    for name, known in ids.items():
        if n := sum(map(of_anchor.__contains__, known)):
            yield f"{n:,} of the {len(known):,} samples of {name} are in the anchor too: they cover what it fires"


def _small(sets: Mapping[str, Encoded]) -> Iterator[str]:
    """A set that all others are cut down to, where they could be compared at far more."""
    (_, fewest), (n, name), *_ = sorted((one.profile.n_tokens, name) for name, one in sets.items())
    least = min(one.profile.n_tokens for one in sets.values())
    if len(sets) > 2 and least * SMALL < n:
        yield f"all are compared at the {least:,} tokens of {fewest}; without it, at the {n:,} of {name}"
