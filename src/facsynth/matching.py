"""Cross-model transfer: which features of one space have a counterpart in another, and what that carries over.

Before: one corpus encoded in two spaces, or two runs with one anchor. After: `match.json` and `pairs.jsonl`; of a run,
its explanations and what it misses in the other space's ids, for a run there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from facsynth.bins import Ids, Ints
from facsynth.coverage.coverage import rarefied, targets
from facsynth.coverage.plan import plan_text, read_plan
from facsynth.coverage.threshold import Threshold, feature_thresholds
from facsynth.errors import InputError, MismatchError
from facsynth.features.encoded import Encoded
from facsynth.features.match import Matches, match
from facsynth.features.shards import CODES, content_tokens, entries_of, over_roles
from facsynth.lock import locked
from facsynth.meaning.sheet import SHEET, Note, read_notes, write_notes
from facsynth.profile import check_same_space
from facsynth.records import Progress, no_progress
from facsynth.report.shapes import AFTER, BEFORE, is_count, list_of, read_object
from facsynth.store import Artifact, file_sha256, read_json, read_jsonl, write_json, write_jsonl, write_text

STAGE, RECORD, PAIRS = "match", "match.json", "pairs.jsonl"
CARRIED = "carried"
"""Folder that a run in B's space can be begun from."""
BEFORE_FILE, AFTER_FILE = Path("coverage", "before.json"), Path("coverage", "after.json")
PLAN, PROVENANCE = Path("plan.csv"), Path("provenance.jsonl")
"""Of a run."""
N_SHUFFLES = 5
FEWEST = 50
"""Samples that both must have: fewer correlate at random."""


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two spaces, with what a run found in it."""

    place: Path
    encoded: Encoded
    before: Mapping[str, Any] | None
    """`coverage/before.json` of a run; None of a corpus alone."""

    @classmethod
    def open(cls, place: Path) -> Side:
        """A folder of `facsynth encode`, or a run, whose anchor is taken.

        Raises:
            InputError: it is neither, or not finished.
        """
        plan = place / "plan.json"
        if plan.is_file() and read_json(plan).get("stage") == "run":
            shape = {**BEFORE, "covered": list_of(is_count)}
            before = read_object(place / BEFORE_FILE, shape)
            return cls(place, Encoded.open(place / "features" / "anchor"), before)
        return cls(place, Encoded.open(place), None)

    @property
    def missing(self) -> Ints:
        """Sorted ids of what the seed set lacks; none of a corpus alone."""
        return np.array(self.before["missing"] if self.before else [], np.int64)

    @property
    def targets(self) -> Ints | None:
        """Sorted ids of the run's target features; None of a corpus alone."""
        return np.union1d(self.missing, np.array(self.before["covered"], np.int64)) if self.before else None

    def parents(self, name: str, *files: Path) -> dict[str, str]:
        """Fingerprints of what is read of it; `files` are those of a run, as far as they are there."""
        there = [file for file in (BEFORE_FILE, *files) if self.before and (self.place / file).exists()]
        found = {f"{name} {file}": file_sha256(self.place / file) for file in there}
        return {name: str(self.encoded.manifest["fingerprint"]), **found}


def match_spaces(
    a: Path,
    b: Path,
    out: Path,
    *,
    accepted: Path | None = None,
    min_support: int = 5,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Pair the features of two spaces on the samples that both have encoded, and carry a run's findings over.

    Args:
        a: folder of an encoded corpus, or of a run.
        b: the same corpus, or a run with the same anchor, in another space.
        out: folder of the result; the same call changes nothing.
        accepted: samples made for `a`, encoded in the space of `b`: do they fire the counterparts of what `a` missed?
        min_support: samples that must fire a feature, or it is not paired.
        progress: told of the pairing.

    Returns:
        `match.json`.

    Raises:
        InputError: a folder holds neither, or `accepted` is given and `a` is no run.
        MismatchError: they have too few samples in common, or `accepted` is of another space than `b`, or holds what
            `a` did not accept.
    """
    sides = Side.open(a), Side.open(b)
    written = None if accepted is None else _open_accepted(accepted, sides)
    parents = sides[0].parents("a", SHEET) | sides[1].parents("b", PLAN)
    if written is not None:
        parents |= sides[0].parents("a", AFTER_FILE) | {"accepted": str(written.manifest["fingerprint"])}
    asked = {"min_support": min_support, "n_shuffles": N_SHUFFLES}
    with locked(out):
        artifact = Artifact(out, STAGE, asked, parents)
        if artifact.manifest is None:
            matrix_a, matrix_b, n_tokens = _joined(*sides)
            found = match(
                matrix_a, matrix_b, n_tokens, min_support=min_support, n_shuffles=N_SHUFFLES, progress=progress
            )
            counterparts = found.counterparts
            record = {**asked, **_figures(found, sides, counterparts), "n_samples": len(n_tokens)}
            record["accepted"] = None if written is None else _fired(written, sides, counterparts)
            record["names"] = {"a": str(a), "b": str(b)}
            _carry(sides, counterparts, out / CARRIED)
            write_jsonl(out / PAIRS, _pairs(found, sides[0]))
            write_json(out / RECORD, record)
            artifact.finish(n_pairs=len(found.feature_a))
        return read_json(out / RECORD, "counterparts", "groups")


def _open_accepted(folder: Path, sides: tuple[Side, Side]) -> Encoded:
    if sides[0].before is None:
        raise InputError(
            f"{sides[0].place} is no run, so no samples were made for what it misses\n"
            "Name the folder of a run first, or leave out --accepted."
        )
    found = Encoded.open(folder)
    names = (str(sides[1].place), str(folder))
    check_same_space(sides[1].encoded.profile.identity, found.profile.identity, names)
    ids = {sample_id for table in found.shards(["sample_id"]) for sample_id in table["sample_id"].to_pylist()}
    n_foreign = len(ids - {row["sample_id"] for row in read_jsonl(sides[0].place / PROVENANCE)})
    if n_foreign:
        raise MismatchError(
            f"{folder} is not of what {sides[0].place} accepted: {n_foreign:,} of its {len(ids):,} samples are not\n"
            "Encode the samples.jsonl of that run in the space of B, with the same --form."
        )
    return found


def _joined(a: Side, b: Side) -> tuple[csr_array, csr_array, Ints]:
    """Pooled activations of the samples that both have, by id, and their content tokens in A.

    Raises:
        MismatchError: they are too few.
    """
    (ids_a, of_a, n_tokens), (ids_b, of_b, _) = _activations(a.encoded), _activations(b.encoded)
    shared, rows_a, rows_b = np.intersect1d(ids_a, ids_b, return_indices=True)
    if (n := min(len(ids_a), len(ids_b))) < FEWEST:
        raise MismatchError(f"{n} samples are too few to pair features by: {FEWEST} are needed\nEncode more of them.")
    if len(shared) < FEWEST:
        raise MismatchError(
            f"{a.place} and {b.place} are not of one corpus: {len(shared)} samples are in both, {FEWEST} are needed\n"
            f"  {a.place}  {len(ids_a):,} samples\n  {b.place}  {len(ids_b):,} samples\n"
            "Encode the same file in both spaces, with the same --form."
        )
    return of_a[rows_a], of_b[rows_b], n_tokens[rows_a]


def _activations(encoded: Encoded) -> tuple[Ids, csr_array, Ints]:
    """Sample ids, pooled activations [n_samples, d_sae], content tokens."""
    ids, tokens, parts = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], []
    for table in encoded.shards(["sample_id", "token_role", *CODES]):
        ids.append(np.array([int(sample_id, 16) for sample_id in table["sample_id"].to_pylist()], np.uint64))
        tokens.append(content_tokens(table))
        parts.append(over_roles(entries_of(table)))
    starts = np.cumsum([0, *(len(one) for one in ids[1:])])
    sample = [part.sample + start for part, start in zip(parts, starts, strict=False)]
    values = np.concatenate([part.activation for part in parts])
    places = np.concatenate(sample), np.concatenate([part.feature for part in parts])
    shape = int(starts[-1]), encoded.profile.d_sae
    return np.concatenate(ids), csr_array((values, places), shape=shape), np.concatenate(tokens)


def _figures(found: Matches, sides: tuple[Side, Side], counterparts: Mapping[int, int]) -> dict[str, Any]:
    """Counts and shares; those of targets and missing features where a run says which they are."""
    a, b = sides
    asked = found.eligible_a if a.targets is None else a.targets
    kept = found.is_counterpart
    figures = {
        "n_features": {"a": a.encoded.profile.d_sae, "b": b.encoded.profile.d_sae},
        "n_eligible": {"a": len(found.eligible_a), "b": len(found.eligible_b)},
        "n_mutual": len(kept),
        "n_counterparts": len(counterparts),
        "correlation": float(np.median(found.correlation[kept])) if kept.any() else None,
        "null": float(np.median(found.null[kept])) if kept.any() else None,
        "groups": [group._asdict() for group in found.groups],
        "of": "features with support" if a.targets is None else "targets",
        "counterparts": _share(asked, counterparts, found),
        "missing": None,
    }
    if a.before is not None:
        carried = np.array(sorted(counterparts[i] for i in a.missing.tolist() if i in counterparts), np.int64)
        lacked = np.intersect1d(carried, b.missing).tolist() if b.before is not None else None
        figures["missing"] = _share(a.missing, counterparts, found) | {"in_b": carried.tolist(), "missing_in_b": lacked}
    return figures


def _share(asked: Ints, counterparts: Mapping[int, int], found: Matches) -> dict[str, Any]:
    """How many of the features asked about have a counterpart, and how many are too rare to be paired."""
    n = sum(i in counterparts for i in asked.tolist())
    return {
        "n": len(asked), "n_with_counterpart": n, "share": n / len(asked) if len(asked) else None,
        "n_too_rare": len(np.setdiff1d(asked, found.eligible_a)),
    }  # fmt: skip


def _fired(written: Encoded, sides: tuple[Side, Side], counterparts: Mapping[int, int]) -> dict[str, Any]:
    """Which counterparts of A's missing features the samples made for A fire in B, and how many as many samples of the
    corpus would. Thresholds are those of A by name, found on B's corpus.
    """
    a, b = sides
    assert a.before is not None, "checked when it was opened"
    corpus, support = b.encoded.profile, int(a.before["min_support"])
    thresholds = feature_thresholds(Threshold.parse(a.before["threshold"]), corpus)
    fires = written.profile.firing_samples(thresholds) >= support
    pairs = [(i, counterparts[i]) for i in a.missing.tolist() if i in counterparts]
    aims = targets(corpus, thresholds, [j for _, j in pairs], anchor_support=0)
    n_drawn = min(written.profile.n_samples, corpus.n_samples)
    found = {
        "threshold": a.before["threshold"], "n_samples": written.profile.n_samples, "n": len(pairs),
        "n_fired": sum(bool(fires[j]) for _, j in pairs),
        "chance": rarefied(corpus, aims, thresholds, n_drawn, support) if pairs else None,
        "recovered": None,
    }  # fmt: skip
    after = a.place / AFTER_FILE
    if after.exists():
        left = set(read_object(after, AFTER)["missing"])
        recovered = [j for i, j in pairs if i not in left]
        found["recovered"] = {"n": len(recovered), "n_fired": sum(bool(fires[j]) for j in recovered)}
    return found


def _pairs(found: Matches, a: Side) -> Iterable[dict[str, Any]]:
    """All mutual nearest neighbours, with what speaks for them; of a run, whether A misses the feature."""
    missing = None if a.before is None else set(a.missing.tolist())
    columns = (
        found.feature_a, found.feature_b, found.correlation, found.support_a, found.support_b, found.null,
        found.q_values, found.is_counterpart,
    )  # fmt: skip
    names = ("feature_a", "feature_b", "correlation", "support_a", "support_b", "null", "q", "counterpart")
    for row in zip(*(column.tolist() for column in columns), strict=True):
        cells = dict(zip(names, row, strict=True))
        yield cells if missing is None else cells | {"missing": cells["feature_a"] in missing}


def _carry(sides: tuple[Side, Side], counterparts: Mapping[int, int], out: Path) -> None:
    """What a run in B's space can be begun from: A's explanations; where B is a run too, those rows of its plan that
    are counterparts of what A misses, all others not kept.
    """
    a, b = sides
    if a.before is None:
        return
    told = {counterparts[i]: note for i, note in read_notes(a.place / SHEET).items() if i in counterparts}
    explained = {j: note for j, note in told.items() if note.explanation}
    if explained:
        write_notes(out / SHEET, (Note(j, note.explanation, note.explained_by) for j, note in explained.items()))
    if b.before is not None:
        wanted = {counterparts[i] for i in a.missing.tolist() if i in counterparts}
        rows = read_plan(b.place / PLAN, {*b.before["missing"], *b.before["under"]})
        kept = [
            replace(row, explanation=row.explanation or explained.get(row.feature_id, Note(0)).explanation)
            if row.feature_id in wanted
            else replace(row, keep=False, why=row.why or "no counterpart of a feature that the other run misses")
            for row in rows
        ]
        write_text(out / PLAN, plan_text(kept))
