"""Prove a finished run: its accepted samples, encoded again, must be what its files say of them.

After `pipeline`. First the files must fit each other (nothing is measured for that), then every text is encoded
alone in float32, in the space it was accepted in.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from facsynth.assemble import open_space
from facsynth.errors import InputError, MismatchError
from facsynth.features.encode import FeatureSpace
from facsynth.features.spans import span_text
from facsynth.records import Measurement, Progress, Sample, no_progress
from facsynth.report.shapes import AFTER, TARGETS, read_object
from facsynth.settings import load_settings
from facsynth.store import RESTORE, read_json, read_jsonl
from facsynth.synthesis.verify import Verification, verify
from facsynth.text.forms import to_sample
from facsynth.text.layouts import RowError

VERIFY_SAMPLES = 256
PROVED_BY = {"feature": int, "threshold": float, "activation": float, "text_sha256": str}
"""What `verify` needs of each row of provenance.jsonl."""


def verify_run(out: Path, cache: Path, progress: Progress = no_progress) -> Verification:
    """Encode the accepted samples of a run again, in float32, and compare with their provenance.

    A row of samples.jsonl that is no sample any more is a changed text.

    Raises:
        InputError: the folder holds no finished run, or rows were added, removed or broken since.
        MismatchError: thresholds, model, SAE or reading of texts are not those that the samples were accepted with.
    """
    if not (out / "manifest.json").exists():
        finish = f"facsynth synthesize {shlex.quote(str(out))}"
        raise InputError(f"{out} holds no accepted samples to verify\nFinish it with: {finish}")
    provenance, rows = read_accepted(out)
    settings = load_settings(out / "facsynth.yaml")
    space = open_space(settings, cache, dtype="float32")
    _check_space(out, space)
    samples = [sample_of(row, settings.data.form) for row in rows]
    decide = measurer(space)
    measured: list[Measurement | None] = []
    for start in range(0, len(samples), VERIFY_SAMPLES):
        progress("verifying", start, len(samples))
        part = samples[start : start + VERIFY_SAMPLES]
        found = iter(decide([sample for sample in part if sample]))
        measured += [next(found) if sample else None for sample in part]
    progress("verifying", len(samples), len(samples))
    return verify(samples, provenance, measured)


def read_accepted(out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of provenance.jsonl and of samples.jsonl of a finished run, as many as were accepted.

    Raises:
        InputError: rows were added, removed or broken since.
        MismatchError: a threshold is not the one its feature had from the first.
    """
    for name in ("samples.jsonl", "provenance.jsonl"):
        if not (out / name).exists():
            raise InputError(f"{out / name} is not there\n{RESTORE}")
    provenance, rows = read_jsonl(out / "provenance.jsonl"), read_jsonl(out / "samples.jsonl")
    _check_rows(out, provenance, len(rows))
    return provenance, rows


def measurer(space: FeatureSpace) -> Callable[[Sequence[Sample]], list[Measurement | None]]:
    """What decides on texts: pooled activations in `space`, and the span that ends at a position."""

    def measure_samples(samples: Sequence[Sample]) -> list[Measurement | None]:
        pooled = space.pool(samples)
        found: dict[str, Measurement] = {}
        for index, (sample_id, tokens) in enumerate(zip(pooled.sample_ids, pooled.tokens, strict=True)):
            ids, roles = tokens.ids.tolist(), tokens.role.tolist()
            span = partial(span_text, ids, roles, space.backbone.tokenizer)
            found[sample_id] = Measurement(pooled.maxima(index), span)
        return [found.get(sample.sample_id) for sample in samples]

    return measure_samples


def sample_of(row: Mapping[str, Any], form: str) -> Sample | None:
    """What the row says now; None where nothing is left to read."""
    try:
        return to_sample(row, form).sample
    except RowError:
        return None


def _check_rows(out: Path, provenance: Sequence[Mapping[str, Any]], n_samples: int) -> None:
    """As many rows as were accepted, each whole, each with the threshold its feature had from the first."""
    n_accepted = read_json(out / "manifest.json", "n_accepted")["n_accepted"]
    for name, n_found in (("samples.jsonl", n_samples), ("provenance.jsonl", len(provenance))):
        if n_found != n_accepted:
            raise InputError(
                f"{out / name} holds {n_found} rows, but the run accepted {n_accepted} samples\n"
                "Rows were added or removed; restore the files, or run the synthesis again in a new folder."
            )
    attempted = read_object(out / "targets.json", TARGETS)["attempted"]
    thresholds = {t["feature_id"]: t["threshold"] for t in attempted}
    for number, row in enumerate(provenance, start=1):
        where = f"{out / 'provenance.jsonl'}, row {number}"
        for key, kind in PROVED_BY.items():
            value = row.get(key)
            if not isinstance(value, kind) or (isinstance(value, float) and not math.isfinite(value)):
                found = f"{key} is {row[key]!r}" if key in row else f"there is no {key}"
                raise InputError(f"{where}: {found}\nIt was changed by something else; restore it.")
        if row["threshold"] != thresholds.get(row["feature"]):
            raise MismatchError(
                f"{where}: the threshold of feature {row['feature']} is {row['threshold']}, in targets.json "
                f"{thresholds.get(row['feature'], 'it is not there')}\nOne of them was changed; restore it."
            )


def _check_space(out: Path, space: FeatureSpace) -> None:
    recorded = read_object(out / "coverage" / "after.json", AFTER)["fingerprints"]
    for key, here in space.identity.items():
        if recorded.get(key) != here:
            raise MismatchError(
                f"the samples of {out} were accepted with another {key}\n"
                f"  recorded  {str(recorded.get(key))[:64]}\n  here      {here[:64]}\n"
                "Give back the model, SAE and settings of the run."
            )
