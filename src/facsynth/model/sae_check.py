"""Whether an SAE fits the activations it is given: pure arithmetic on a few hundred tokens, and what may be wrong.

Before: `model.sae`, `model.sites`. After: `features.check` brings the tokens. The bounds are measured, on the SAE that
ships (SmolLM2-135M-Instruct, layers.14, topk, explained variance 0.88 declared) and 256 to 1,024 content tokens of ten
corpora; the figures are in docs/LOG.md, and `pytest -m slow tests/test_check.py` measures again:
- at its own block 0.80 to 0.92, of chats in languages it was not trained on 0.69;
- read wrongly: the output of the block's MLP -2.8 and of its attention -7.1, the coordinates of another model -1.2,
  random weights -0.5, b_dec not subtracted -0.6, activations times 4 or more -0.0 and less, divided by 4 or more -1.9;
- its topk read as ReLU: 0.73, at 163 latents a token instead of 32;
- at the block before it leaves 1.12 to 1.73 times as much unexplained as at its own, at the block after 1.29 to 2.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from facsynth.model.chunks import without_sinks
from facsynth.model.input_norm import CENTRED
from facsynth.model.sae import Declared, Reconstruction, Sae, reconstruction

FITS, DOUBTFUL, REFUSED = "fits", "doubtful", "does not fit"
EXPLAINED_DOUBTFUL = 0.5
"""Explained variance below which an SAE is doubted, whatever it declares; below 0 it is refused."""
LOSS_DOUBTFUL = 2.0
"""Times the declared FVU. A base model's SAE on its chat sibling stays below it, or is warned about."""
L0_DOUBTFUL, L0_REFUSED = 3.0, 10.0
"""Times the declared L0, or its fraction for the first: that of a ReLU or jumprelu SAE moves with the texts."""
PLACE, CONVENTION, CERTAIN = 0.95, 0.75, 0.5
"""Share of the FVU that another place, or another convention, may leave at most to be named; and to refuse this one."""
WORTH_NAMING, MARGIN = 0.25, 0.01
"""Explained variance that it must reach besides (of two readings that fit nothing neither is right), and by how much it
must be higher (two that lose nothing are both right)."""
BLOCK = 128
"""Tokens encoded at once: read as ReLU, half of all latents may fire."""
SCALES = tuple(2.0**power for power in range(-8, 9) if power)
TOP_K = (8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Reading:
    """Another way to read the same SAE, measured on the same tokens."""

    what: str
    """As in "at layers.15"."""
    advice: str
    explained: float
    """Variance explained this way."""
    instead_of: float
    """Variance explained as it was asked to be read."""
    convincing: float
    """PLACE or CONVENTION."""

    @property
    def left(self) -> float:
        """FVU this way, as a share of the FVU as asked."""
        return (1 - self.explained) / (1 - self.instead_of) if self.instead_of < 1 else 1.0


@dataclass(frozen=True)
class Verdict:
    """What the figures mean."""

    word: str
    """fits, doubtful, or does not fit."""
    reasons: tuple[str, ...] = ()
    """What is wrong, gravest first; empty where it fits."""
    better: Reading | None = None
    """The reading that fits, where this one does not."""


def fit(sae: Sae, activations: torch.Tensor, scale: float = 1.0) -> Reconstruction:
    """`reconstruction` of [n, d_in] activations times `scale`, attention sinks left out; FVU does not depend on units.

    Raises:
        ModelError: no tokens.
    """
    counted, _ = without_sinks(activations.to(sae.W_enc.device))
    return reconstruction(sae, (block.float() * scale for block in counted.split(BLOCK)))


def places(sae: Sae, at: Mapping[str, torch.Tensor], here: float) -> list[Reading]:
    """What the SAE explains of activations at other hook points; `here`: at the asked one, of the same tokens."""
    return [
        Reading(
            f"at {name}", "set model.hook_point (--hook-point), or its config where that says otherwise",
            fit(sae, x).explained_variance, here, PLACE,
        )
        for name, x in at.items()
    ]  # fmt: skip


def as_topk(sae: Sae, activations: torch.Tensor, here: float) -> list[Reading]:
    """A ReLU SAE read as topk ones: trimming helps only what was trained so. `here`: untrimmed, of the same tokens."""
    return [
        Reading(
            f"as topk with k = {k}", "its config lacks that: get it, or set sae.k (--sae-k)",
            fit(replace(sae, architecture="topk", k=k), activations).explained_variance, here, CONVENTION,
        )
        for k in TOP_K if sae.architecture == "standard" and k <= sae.d_sae
    ]  # fmt: skip


def conventions(sae: Sae, activations: torch.Tensor, here: float) -> list[Reading]:
    """The SAE with b_dec subtracted or not, and with its input scaled. `here`: as asked, of the same tokens."""
    flipped = fit(replace(sae, centred=not sae.centred), activations).explained_variance
    found = [
        Reading(
            f"with b_dec {'not ' * sae.centred}subtracted from the input",
            "its config, or without one its format, says otherwise: get both again",
            flipped, here, CONVENTION,
        )
    ]  # fmt: skip
    if sae.input_norm not in {"none", CENTRED}:
        return found
    usual = sae.d_in**0.5 / float(activations.float().norm(dim=1).mean())  # to a mean norm of sqrt(d)
    return found + [
        Reading(
            f"on activations times {scale:.3g}", "it was trained on scaled ones: get the file with that folded in",
            fit(sae, activations, scale).explained_variance, here, CONVENTION,
        )
        for scale in (usual, *SCALES)
    ]  # fmt: skip


def judge(found: Reconstruction, declared: Declared, readings: Sequence[Reading]) -> Verdict:
    """What figures and other readings say.

    Refused: explained variance ≤ 0; more than 10 times the declared L0; another reading leaves less than half of what
    this one does. Doubtful: explained variance < 0.5; more than twice the declared FVU; L0 off by more than 3 times;
    another place leaves less than 0.95, another convention less than 0.75 of what this one does.
    That SAE and model have different names is never a reason: a base model's SAE on its chat sibling is usual.
    """
    better = best(readings)
    grave = list(_grave(found, declared, better))
    reasons = grave + list(_doubts(found, declared, better, grave))
    word = REFUSED if grave else DOUBTFUL if reasons else FITS
    return Verdict(word, tuple(reasons), better)


def best(readings: Iterable[Reading]) -> Reading | None:
    """The reading that explains most, where it is worth naming."""
    worth = [
        r for r in readings
        if r.explained >= max(WORTH_NAMING, r.instead_of + MARGIN) and r.left < r.convincing
    ]  # fmt: skip
    return min(worth, key=lambda r: r.left, default=None)


def _grave(found: Reconstruction, declared: Declared, better: Reading | None) -> Iterator[str]:
    if not found.explained_variance > 0:
        yield f"explained variance {found.explained_variance:.2f}: it rebuilds activations worse than their mean does"
    if declared.l0 and found.l0 > L0_REFUSED * declared.l0:
        yield f"{found.l0:.0f} latents fire a token, {declared.l0:.0f} are declared"
    if better and better.left < CERTAIN:
        yield _told(better)


def _doubts(found: Reconstruction, declared: Declared, better: Reading | None, grave: Sequence[str]) -> Iterator[str]:
    explained, said = found.explained_variance, declared.explained_variance
    if explained > 0 and said is not None and found.fvu > LOSS_DOUBTFUL * (1 - said):
        yield f"explained variance {explained:.2f}, declared {said:.2f}: it loses more than twice as much"
    elif 0 < explained < EXPLAINED_DOUBTFUL:
        yield f"explained variance {explained:.2f}: it loses more than half"
    ratio = found.l0 / declared.l0 if declared.l0 else 1.0
    if not 1 / L0_DOUBTFUL <= ratio <= L0_DOUBTFUL and ratio <= L0_REFUSED:
        yield f"{found.l0:.1f} latents fire a token, {declared.l0:.1f} are declared"
    if better and _told(better) not in grave:
        yield _told(better)


def _told(better: Reading) -> str:
    does = "fits" if better.explained >= EXPLAINED_DOUBTFUL else "explains more"
    return f"it {does} {better.what} ({better.explained:.2f} instead of {better.instead_of:.2f}): {better.advice}"
