"""What the self-check of an SAE leads to: nothing, notes, or a refusal; once for each model, SAE, hook and template.

Before: `assemble` opens the parts, `features.check` measures them. After: `pipeline` and the commands that encode.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from facsynth.errors import InputError, ModelError
from facsynth.features.check import Checked, check_space
from facsynth.features.encode import FeatureSpace
from facsynth.model.sae_check import REFUSED
from facsynth.records import Progress, Sample, no_progress
from facsynth.settings import RunSettings
from facsynth.store import fingerprint, read_json, write_json

VERSION = 1
"""Raised by a change of bounds or of what is measured: verdicts that were kept are then found anew."""
NOTHING_FITS = "No other block, part of a block, scale or convention fits either: it is probably another model's."


def check_before_measuring(
    space: FeatureSpace, samples: Iterable[Sample], settings: RunSettings, cache: Path, progress: Progress = no_progress
) -> tuple[str, ...]:
    """Notes on an SAE that fits badly; none on one that fits, or where there are too few tokens to tell.

    Args:
        space: about to be measured in.
        samples: the data; read only where no verdict is kept.
        settings: `sae.check` decides what is done about an SAE that does not fit.
        cache: where verdicts are kept. One that refuses is kept too, but found anew before it is acted on.
        progress: told when it begins.

    Raises:
        ModelError: it does not fit, and `sae.check` is refuse.
    """
    if settings.sae.check == "off":
        return ()
    kept = cache / "checks" / f"{_key(space)}.json"
    record = _read(kept)
    if record is None or (record["verdict"] == REFUSED and settings.sae.check == "refuse"):
        progress("checking the SAE", 0, None)
        checked = check_space(space, samples)
        if checked is None:
            return ()
        record = figures(checked)
        write_json(kept, record)
        if checked.verdict.word == REFUSED and settings.sae.check == "refuse":
            raise ModelError(refusal(space, checked, settings))
    return tuple(f"SAE: {record['verdict']}: {reason}" for reason in record["reasons"])


def figures(checked: Checked) -> dict[str, Any]:
    """What was found, for JSON; null where a figure is not finite."""
    found = checked.found
    return {
        "verdict": checked.verdict.word,
        "reasons": list(checked.verdict.reasons),
        "explained_variance": found.explained_variance if math.isfinite(found.fvu) else None,
        "l0": found.l0,
        "dead_share": found.dead_share,
        "n_tokens": found.n_tokens,
        "n_sinks": checked.n_sinks,
    }


def refusal(space: FeatureSpace, checked: Checked, settings: RunSettings) -> str:
    """The message: what was put together, what was found, what fits better, and how to go on all the same."""
    sae, found = space.sae, checked.found
    kind = f"{sae.architecture} of {sae.d_sae} features" + (f", trained on {sae.model_name}" if sae.model_name else "")
    return "\n".join([
        "the SAE does not fit the model",
        f"  SAE    {settings.sae.path}: {kind}",
        f"  model  {settings.model.path} at {space.backbone.hook_point}, {found.n_tokens} content tokens of the data",
        *checked.verdict.reasons,
        *([] if checked.verdict.better else [NOTHING_FITS]),
        "Measure with it all the same: sae.check: warn (--sae-check warn).",
    ])  # fmt: skip


def _key(space: FeatureSpace) -> str:
    """Of what a verdict depends on, but for the texts: the SAE is checked with its own codes, whatever is measured."""
    parts = {name: value for name, value in space.identity.items() if name not in {"codes", "max_tokens", "compat"}}
    return fingerprint([VERSION, parts])


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path, "verdict", "reasons")
    except InputError:  # none yet, or a damaged one
        return None
