"""Latent activations of tokens to the maximum of each sample, role and feature.

Before: `model.sae` encodes the tokens of a batch. After: `features.encode` gathers batches. Sparse codes are sorted;
dense ones (`relu`) are reduced block by block, so that no array over all tokens and features is ever whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from facsynth.model.sae import BLOCK_TOKENS, Codes, Sae


class Entries(NamedTuple):
    """One entry for each (sample, role, feature) that fires; [n_entries] each, sorted by those three."""

    sample: npt.NDArray[np.int64]
    """Index of the sample."""
    role: npt.NDArray[np.uint8]
    """As in `Tokens.role`."""
    feature: npt.NDArray[np.int64]
    activation: npt.NDArray[np.float32]
    """Maximum over the content tokens of that role."""
    position: npt.NDArray[np.int32]
    """Where, as index into the encoded sequence; the first one of equals."""
    n_firing: npt.NDArray[np.int32]
    """On how many content tokens."""

    def take(self, order: npt.NDArray[np.int64]) -> Entries:
        """The entries at these places, in this order."""
        return Entries(
            self.sample[order], self.role[order], self.feature[order],
            self.activation[order], self.position[order], self.n_firing[order],
        )  # fmt: skip


NOWHERE = 1 << 40
"""Behind every position."""
NO_ENTRIES = Entries(
    np.zeros(0, np.int64), np.zeros(0, np.uint8), np.zeros(0, np.int64),
    np.zeros(0, np.float32), np.zeros(0, np.int32), np.zeros(0, np.int32),
)  # fmt: skip


def pool_codes(
    codes: Codes, sample: npt.NDArray[np.int64], role: npt.NDArray[np.uint8], position: npt.NDArray[np.int64]
) -> Entries:
    """Maximum over tokens of each (sample, role, feature).

    Args:
        codes: of n tokens.
        sample: [n], which sample each token belongs to.
        role: [n], and which role.
        position: [n], and its place in the encoded sequence.
    """
    device = codes.act.device
    of_token = torch.from_numpy(sample.astype(np.int64) << 40 | role.astype(np.int64) << 32).to(device)
    key, inverse, n_firing = torch.unique(
        of_token[codes.token] | codes.feature, return_inverse=True, return_counts=True
    )
    best = torch.zeros(len(key), device=device).scatter_reduce_(0, inverse, codes.act.float(), "amax")
    at = torch.from_numpy(position.astype(np.int64)).to(device)[codes.token]
    at = torch.where(codes.act == best[inverse], at, NOWHERE)
    first = torch.full_like(key, NOWHERE).scatter_reduce_(0, inverse, at, "amin")
    keys = key.cpu().numpy()
    return Entries(
        sample=keys >> 40,
        role=(keys >> 32 & 0xFF).astype(np.uint8),
        feature=keys & 0xFFFFFFFF,
        activation=best.cpu().numpy(),
        position=first.cpu().numpy().astype(np.int32),
        n_firing=n_firing.cpu().numpy().astype(np.int32),
    )


def pool_dense(
    sae: Sae,
    activations: torch.Tensor,
    sample: npt.NDArray[np.int64],
    role: npt.NDArray[np.uint8],
    position: npt.NDArray[np.int64],
) -> Entries:
    """As `pool_codes` of `relu` codes, from [n, d_in] activations: a maximum over rows, and no list of all codes."""
    order = np.lexsort((position, role, sample))
    sample, role, position = sample[order], role[order], position[order]
    x = activations[torch.from_numpy(order).to(activations.device)]
    parts = []
    for groups in _groups(sample, role):
        start = groups[0][0]
        for first, pre in sae.dense_blocks(x[start : groups[-1][1]]):
            for a, b in groups:
                value, where = pre[a - start : b - start].max(dim=0)
                n_firing = (pre[a - start : b - start] > 0).sum(dim=0)
                feature = (value > 0).nonzero().squeeze(1)
                of_group = np.ones(len(feature), np.int64)
                parts.append(
                    Entries(
                        sample=of_group * sample[a],
                        role=(of_group * role[a]).astype(np.uint8),
                        feature=feature.cpu().numpy() + first,
                        activation=value[feature].cpu().numpy(),
                        position=position[a + where[feature].cpu().numpy()].astype(np.int32),
                        n_firing=n_firing[feature].cpu().numpy().astype(np.int32),
                    )
                )
    return sort_entries(parts)


def _groups(sample: npt.NDArray[np.int64], role: npt.NDArray[np.uint8]) -> Iterator[list[tuple[int, int]]]:
    """Runs of equal (sample, role) as (from, to), some of them at a time: as many as make `BLOCK_TOKENS`."""
    changes = np.flatnonzero((sample[1:] != sample[:-1]) | (role[1:] != role[:-1])) + 1
    edges = [0, *changes.tolist(), len(sample)] if len(sample) else []
    groups: list[tuple[int, int]] = []
    for a, b in itertools.pairwise(edges):
        if groups and b - groups[0][0] > BLOCK_TOKENS:
            yield groups
            groups = []
        groups.append((a, b))
    if groups:
        yield groups


def sort_entries(parts: Sequence[Entries]) -> Entries:
    """Entries of several batches as one, sorted by sample, role and feature."""
    if not parts:
        return NO_ENTRIES
    sample, role, feature, activation, position, n_firing = (
        np.concatenate([part[column] for part in parts]) for column in range(6)
    )
    joined = Entries(sample, role, feature, activation, position, n_firing)
    return joined.take(np.lexsort((joined.feature, joined.role, joined.sample)))
