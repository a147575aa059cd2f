"""The self-check of a feature space: does its SAE rebuild what its model does on a few hundred content tokens?

Before: `features.encode`. Inside: `model.sae_check`, where the bounds are. Places beside the hook point are always
measured, one more block's work; everything else only where the SAE does not simply fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch

from facsynth.errors import InputError
from facsynth.features.encode import FeatureSpace
from facsynth.model.batching import batches
from facsynth.model.chunks import without_sinks
from facsynth.model.sae import Reconstruction
from facsynth.model.sae_check import FITS, Verdict, as_topk, conventions, fit, judge, places
from facsynth.model.sites import activations_at, beside, elsewhere
from facsynth.records import Sample
from facsynth.text.template import Tokens

N_TOKENS, SAMPLE_TOKENS = 512, 256
"""Content tokens that are measured, and the longest piece of one sample."""
N_DIAGNOSED = 128
"""Content tokens on which every other reading is tried."""
FEWEST_TOKENS = 64
"""Fewer decide nothing: the mean of so few is too near to each of them."""


@dataclass(frozen=True)
class Checked:
    """What was measured, and what it means."""

    found: Reconstruction
    n_sinks: int
    """Tokens left out: activations over ten times the median norm."""
    verdict: Verdict


def check_space(space: FeatureSpace, samples: Iterable[Sample]) -> Checked | None:
    """Measure the SAE's own codes, whatever the space's are; None where there are too few content tokens.

    Args:
        space: model and SAE.
        samples: of its form; their first 512 content tokens are taken.
    """
    tokens = _first(space, samples)
    if _n_content(tokens) < FEWEST_TOKENS:
        return None
    sae, model, hook_point = space.sae, space.backbone.model, space.backbone.hook_point
    asked, others = _activations(space, tokens, beside(model, hook_point))
    found, n_sinks = fit(sae, asked), without_sinks(asked)[1]
    here = found.explained_variance
    readings = [*places(sae, others, here), *as_topk(sae, asked, here)]
    verdict = judge(found, sae.declared, readings)
    if verdict.word != FITS:
        few = [t for number, t in enumerate(tokens) if _n_content(tokens[:number]) < N_DIAGNOSED]
        asked, others = _activations(space, few, elsewhere(model, hook_point))
        here = fit(sae, asked).explained_variance
        readings += [*places(sae, others, here), *conventions(sae, asked, here)]
        verdict = judge(found, sae.declared, readings)
    return Checked(found, n_sinks, verdict)


def _first(space: FeatureSpace, samples: Iterable[Sample]) -> list[Tokens]:
    """The first samples that can be read, until there are enough content tokens."""
    found: list[Tokens] = []
    for sample in samples:
        with suppress(InputError):
            found.append(space.template.tokenize(sample, space.roles, min(SAMPLE_TOKENS, space.settings.max_tokens)))
        if _n_content(found) >= N_TOKENS:
            break
    return found


def _n_content(tokens: Sequence[Tokens]) -> int:
    return sum(int(t.content.sum()) for t in tokens)


def _activations(
    space: FeatureSpace, tokens: Sequence[Tokens], others: Sequence[str]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """[content tokens, d_model] at the hook point, and by name at those others that have such; the same tokens."""
    backbone = space.backbone
    parts = [
        activations_at(backbone, [backbone.hook_point, *others], [tokens[i].ids for i in batch],
                       [tokens[i].content for i in batch])
        for batch in batches([len(t.ids) for t in tokens], backbone.token_budget)
    ]  # fmt: skip
    shared = set(parts[0]).intersection(*parts)
    if backbone.hook_point not in shared:
        backbone.activations([t.ids for t in tokens], [t.content for t in tokens])  # which says what is wrong there
    at = {name: torch.cat([part[name] for part in parts]) for name in shared}
    return at.pop(backbone.hook_point), {name: at[name] for name in others if name in at}
