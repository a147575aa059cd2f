"""What the self-check of an SAE leads to: nothing, notes, or a refusal; once for each feature space and data.

Before: `assemble` opens the parts, `features.check` measures them. After: `pipeline`, and the commands that encode and
that compare SAEs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from facsynth.assemble import hook_point_for, join_space, open_any_sae, open_backbone
from facsynth.errors import FacsynthError, InputError, ModelError
from facsynth.features.check import FEWEST_TOKENS, Checked, check_space
from facsynth.features.encode import FeatureSpace
from facsynth.model.backbone import Backbone
from facsynth.model.sae_check import REFUSED
from facsynth.records import Progress, Sample, no_progress
from facsynth.settings import RunSettings
from facsynth.store import fingerprint, read_json, write_json

VERSION = 1
"""Raised by a change of bounds or of what is measured: verdicts that were kept are then found anew."""
UNOPENED, UNCHECKED = "cannot be opened", "not checked"
EMPTY: Mapping[str, Any] = {
    "format": None, "architecture": None, "hook_point": None, "d_sae": None, "k": None, "declared": {}, "notes": [],
    "explained_variance": None, "l0": None, "dead_share": None, "n_tokens": 0, "n_sinks": 0,
}  # fmt: skip
"""What a row has of which nothing is known."""
NOTHING_FITS = "No other block, part of a block, scale or convention fits either: it is probably another model's."


def check_before_measuring(
    space: FeatureSpace,
    samples: Iterable[Sample],
    settings: RunSettings,
    cache: Path,
    progress: Progress = no_progress,
    *,
    data: Sequence[str],
) -> tuple[str, ...]:
    """Notes on an SAE that fits badly; none on one that fits, or where there are too few tokens to tell.

    Args:
        space: about to be measured in.
        samples: the data; read only where no verdict on it is kept.
        settings: `sae.check` decides what is done about an SAE that does not fit.
        cache: where verdicts are kept. One that refuses is kept too, but found anew before it is acted on.
        progress: told when it begins.
        data: fingerprints of the data, since the figures of a verdict are those of its texts.

    Raises:
        ModelError: it does not fit, and `sae.check` is refuse.
    """
    if settings.sae.check == "off":
        return ()
    kept = cache / "checks" / f"{_key(space, data)}.json"
    record = _read(kept)
    if record is None or (record["verdict"] == REFUSED and settings.sae.check == "refuse"):
        progress("checking the SAE", 0, None)
        checked = check_space(space, samples)
        if checked is None:
            return ()
        record = _figures(checked)
        write_json(kept, record)
        if checked.verdict.word == REFUSED and settings.sae.check == "refuse":
            raise ModelError(refusal(space, checked, settings))
    return tuple(f"SAE: {record['verdict']}: {reason}" for reason in record["reasons"])


def check_saes(
    asked: Sequence[RunSettings], samples: Iterable[Sample], cache: Path, progress: Progress = no_progress
) -> list[dict[str, Any]]:
    """Several SAEs on the same texts, each with what its file declares; the model is loaded once.

    Args:
        asked: settings that differ in nothing but the SAE.
        samples: of their form.
        cache: for hashes.
        progress: told of each SAE.

    Returns:
        A row each, as `facsynth check --json` prints it. An SAE that cannot be opened is one of the verdict `cannot be
        opened`, and why.

    Raises:
        FacsynthError: what keeps all of them from being measured, as a model that cannot be loaded.
    """
    rows: list[dict[str, Any]] = []
    errors: list[FacsynthError] = []
    hooked = _Model(cache)
    for number, settings in enumerate(asked):
        progress("checking", number, len(asked))
        try:
            row = _check_one(settings, samples, cache, hooked)
        except FacsynthError as err:
            errors.append(err)
            row = {"verdict": UNOPENED, "reasons": str(err).splitlines()}
        rows.append({"sae": settings.sae.path, **EMPTY, **row})
    progress("checking", len(asked), len(asked))
    if len(errors) == len(asked) and len(set(map(str, errors))) == 1:
        raise errors[0]
    return rows


class _Model:
    """The model of several SAEs, loaded for the first that can be opened."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._loaded: Backbone | None = None

    def at(self, hook_point: str, settings: RunSettings) -> Backbone:
        """Hooked there."""
        if self._loaded is None:
            self._loaded = open_backbone(settings, hook_point, self._cache)
        return self._loaded.hooked_at(hook_point)


def _check_one(settings: RunSettings, samples: Iterable[Sample], cache: Path, model: _Model) -> dict[str, Any]:
    """The SAE's row; a function of its own, so that only one SAE is held."""
    opened = open_any_sae(
        settings.sae.path, cache, settings.model.device, k=settings.sae.k, hook_point=settings.model.hook_point or ""
    )
    sae = opened.sae
    hook_point = hook_point_for(sae, settings)
    checked = check_space(join_space(model.at(hook_point, settings), sae, settings), samples)
    row = {
        "format": opened.format,
        "architecture": sae.architecture,
        "hook_point": hook_point,
        "d_sae": sae.d_sae,
        "k": sae.k or None,
        "declared": {
            "model": sae.declared.model_name, "l0": sae.declared.l0 or sae.declared.k,
            "explained_variance": sae.declared.explained_variance,
        },
        "notes": list(sae.notes),
    }  # fmt: skip
    few = {"verdict": UNCHECKED, "reasons": [f"the data has fewer than {FEWEST_TOKENS} content tokens"]}
    return row | (_figures(checked) if checked else few)


def _figures(checked: Checked) -> dict[str, Any]:
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


def _key(space: FeatureSpace, data: Sequence[str]) -> str:
    """Of what a verdict depends on: the SAE is checked with its own codes, whatever is measured."""
    parts = {name: value for name, value in space.identity.items() if name not in {"codes", "max_tokens", "compat"}}
    return fingerprint([VERSION, parts, list(data)])


def _read(path: Path) -> dict[str, Any] | None:
    """A verdict that was kept; None where there is none, or a damaged one."""
    try:
        record = read_json(path, "verdict", "reasons")
    except InputError:
        return None
    reasons = record["reasons"]
    return record if isinstance(reasons, list) and all(isinstance(reason, str) for reason in reasons) else None
