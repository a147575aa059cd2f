"""The other ways of getting a sample's maxima: the recipe of the paper's scripts, and SAELens. Dense results."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from figures import CheckError

from facsynth.features.encode import FeatureSpace
from facsynth.features.encoded import Encoded
from facsynth.features.shards import entries_of
from facsynth.model.sae import Sae
from facsynth.model.sae_saelens import save_sae
from facsynth.records import Sample

Dense = npt.NDArray[np.float32]
"""[n_samples, d_sae], maxima over content tokens."""
BATCH = 16
"""Texts a pass where SAELens encodes, in the order they come."""


@torch.inference_mode()
def released(samples: Sequence[Sample], space: FeatureSpace, *, n_kept: int, stop: bool = False) -> Dense:
    """One text a pass, every hidden state and the logits, a full sort of the codes, a decode, then the maximum.

    Args:
        samples: the texts.
        space: of the same parts as ours.
        n_kept: codes kept of the sorted ones; the scripts keep all d_sae.
        stop: stop at the hook, as the scripts do by an exception.
    """
    backbone, sae = space.backbone, space.sae
    block = int(backbone.hook_point.rpartition(".")[2])
    maxima = []
    for sample in samples:
        tokens = space.template.tokenize(sample, space.roles, space.settings.max_tokens)
        if stop:
            x = backbone.activations([tokens.ids], [np.ones_like(tokens.content)])
        else:
            ids = torch.from_numpy(tokens.ids).long()[None]
            x = backbone.model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states[block + 1][0]
        pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
        value, feature = pre.topk(sae.d_sae, dim=1)
        acts = torch.zeros_like(pre).scatter_(1, feature[:, :n_kept], value[:, :n_kept].relu())
        error = (acts @ sae.W_dec + sae.b_dec - x).square().mean()
        maxima.append(acts[torch.from_numpy(tokens.content)].amax(0) + 0 * error)
    return torch.stack(maxima).numpy()


def open_saelens(sae: Sae) -> Any | None:
    """The same SAE as an object of SAELens, through its own loader; None where SAELens is not installed."""
    if importlib.util.find_spec("sae_lens") is None:
        return None
    import sae_lens  # noqa: PLC0415  (not installed everywhere, and seconds to load)

    with tempfile.TemporaryDirectory() as folder:
        save_sae(sae, Path(folder), metadata={})
        return sae_lens.SAE.load_from_disk(folder, device="cpu")


@torch.inference_mode()
def dense_maxima(encode: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, counts: Sequence[int]) -> Dense:
    """Encode all tokens to a dense array, then the maximum of each sample's."""
    return torch.stack([part.amax(0) for part in encode(x).split(list(counts))]).numpy()


def with_saelens(samples: Sequence[Sample], space: FeatureSpace, theirs: Any) -> Dense:
    """The model stopped at the hook, padded batches in the order of the texts, SAELens' dense encode, the maximum."""
    parts = []
    for start in range(0, len(samples), BATCH):
        chosen = samples[start : start + BATCH]
        tokens = [space.template.tokenize(s, space.roles, space.settings.max_tokens) for s in chosen]
        x = space.backbone.activations([t.ids for t in tokens], [t.content for t in tokens])
        parts.append(dense_maxima(theirs.encode, x, [int(t.content.sum()) for t in tokens]))
    return np.concatenate(parts)


def dense_of(encoded: Encoded) -> Dense:
    """What we left on disk, as a dense array."""
    parts = []
    for shard in encoded.shards():
        entries = entries_of(shard)
        parts.append(np.zeros((len(shard), encoded.profile.d_sae), np.float32))
        parts[-1][entries.sample, entries.feature] = entries.activation
    return np.concatenate(parts)


def disagreement(ours: Dense, theirs: Dense) -> float:
    """Share of the pairs active in either that are not within 1e-3 of each other."""
    either = (ours > 0) | (theirs > 0)
    a, b = ours[either], theirs[either]
    near = np.abs(a - b) <= 1e-3 * np.maximum(a, b) + 1e-4 * np.median(np.maximum(a, b))
    return float(1 - near.mean())


def check_equal(what: str, ours: Dense, theirs: Dense, allowed: float = 1e-3) -> None:
    """Refuse to time ways that do not give the same.

    A few pairs may differ: sums in another order change which of two near equals is the k-th code of a token.
    """
    share = disagreement(ours, theirs)
    if ours.shape != theirs.shape or not (ours > 0).any() or share > allowed:
        raise CheckError(f"{what}: {share:.2%} of the active pairs differ, shapes {ours.shape} and {theirs.shape}")
