"""Does what coverage and other measures say of a set agree with what a model learns from it?

Before: the cells of an experiment and their figures. After: `table.json`. Measured are the samples alone, at each
budget of samples; ranks are compared at the largest budget between methods and within them, and at all budgets given
method and budget.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from facsynth import diversity
from facsynth.assemble import open_background, open_space, read_data
from facsynth.bins import Ids
from facsynth.errors import InputError
from facsynth.experimenting.cells import Bench
from facsynth.filling import encode_part
from facsynth.incidence import Incidence, joined
from facsynth.scale import aims_of
from facsynth.tasks.correlation import Correlation, between, partial, within
from facsynth.tasks.resample import holm
from facsynth.text.corpus import Corpus
from facsynth.text.forms import to_sample
from facsynth.variety import encoder_if_there

COVERAGE, PER_TOKEN = "coverage", "covered_per_1000_tokens"
FEWEST_METHODS = 10
"""For a ranking of measures."""


def measures(bench: Bench, figures: Mapping[tuple[str, int, int], float]) -> list[dict[str, Any]]:
    """Of each method, budget and seed, its task figure and all measures of its samples.

    Args:
        bench: of the experiment.
        figures: task figures, by method, budget and seed; those without samples are left out.
    """
    first = next(iter(bench.settings.methods))
    asked = bench.run_of(first, bench.settings.seeds[0])
    space = open_space(asked, bench.cache)
    anchor = encode_part(
        read_data(asked.data, "anchor"), space, bench.out / "features" / "anchor", bench.cache, bench.progress
    )
    thresholds, _, aims = aims_of(anchor.profile, open_background(asked, space), asked)
    (encode, _), rows = encoder_if_there("embedded"), []
    sets = dict.fromkeys((method, rng_seed) for method, _, rng_seed in figures)
    for n_measured, (method, rng_seed) in enumerate(sets):
        bench.progress("measuring samples", n_measured, len(sets))
        made = bench.make(method, rng_seed).rows
        samples = [to_sample(row, asked.data.form).sample for row in made]
        if not samples:
            continue
        corpus = Corpus.of(samples, form=asked.data.form)
        folder = bench.out / "features" / f"{method}-{rng_seed}"
        encoded = encode_part(corpus, space, folder, bench.cache, bench.progress)
        fired = joined(encoded.incidence(aims.feature_ids, thresholds))
        vectors = encode([sample.text for sample in samples[: bench.settings.budgets[-1]]]) if encode else None
        for budget in (budget for m, budget, s in figures if (m, s) == (method, rng_seed)):
            kept = samples[:budget]
            ids = np.array([int(sample.sample_id, 16) for sample in kept], np.uint64)
            told = _coverage(fired, ids, len(aims.feature_ids))
            told |= diversity.of_words([sample.text for sample in kept], ids)
            told |= diversity.of_vectors(vectors[:budget]) if vectors is not None else {}
            point = {"method": method, "budget": budget, "rng_seed": rng_seed}
            rows.append(point | {"task": figures[method, budget, rng_seed], "measures": told})
    bench.progress("measuring samples", len(sets), len(sets))
    return rows


def _coverage(fired: Incidence, ids: Ids, n_target: int) -> dict[str, float | None]:
    """Target features that any of these samples fires; there are too few to ask for more of them, as of a seed set."""
    found = fired.where(np.isin(fired.ids, ids))
    n_covered, n_tokens = int((found.counts(n_target) > 0).sum()), int(found.n_tokens.sum())
    return {COVERAGE: n_covered / n_target, PER_TOKEN: 1000 * n_covered / max(n_tokens, 1)}


def correlations(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of each measure: between methods, within methods, and over all points given method and budget, with Holm over the
    measures. What cannot be correlated is None. Methods without samples for some seed are left out.
    """
    n_points = Counter(row["method"] for row in rows)
    partly = [name for name, n in n_points.items() if n < max(n_points.values())]
    rows = [row for row in rows if row["method"] not in partly]
    names = (
        [name for name in rows[0]["measures"] if all(row["measures"][name] is not None for row in rows)] if rows else []
    )
    largest = [row for row in rows if row["budget"] == max(row["budget"] for row in rows)] if rows else []
    methods = list(dict.fromkeys(row["method"] for row in largest))
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for kind in ("between", "within", "partial"):
        told = {name: _of(kind, name, rows if kind == "partial" else largest, methods) for name in names}
        known = {name: one for name, one in told.items() if one is not None}
        adjusted = dict(zip(known, holm([one.p for one in known.values()]), strict=True))
        for name in names:
            found[name][kind] = {**known[name]._asdict(), "p_holm": adjusted[name]} if name in known else None
    notes = [f"{name} has no samples for some seeds and is left out" for name in partly]
    if len(methods) < FEWEST_METHODS:
        notes.append(f"{len(methods)} methods, fewer than {FEWEST_METHODS}: no ranking of measures is claimed")
    return {"measures": found, "n_methods": len(methods), "notes": notes}


def _of(kind: str, name: str, rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> Correlation | None:
    measure, task = [row["measures"][name] for row in rows], [row["task"] for row in rows]
    method, of_seed = [row["method"] for row in rows], [row["rng_seed"] for row in rows]
    try:
        if kind == "between":
            means = [[float(np.mean([v for v, m in zip(values, method, strict=True) if m == one])) for one in methods]
                     for values in (measure, task)]  # fmt: skip
            return between(*means)
        if kind == "within":
            return within(measure, task, method, of_seed)
        return partial(measure, task, method, [row["budget"] for row in rows], of_seed)
    except InputError:
        return None
