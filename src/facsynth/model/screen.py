"""The latents that fire, of wide SAEs too, without an array over all features and without a sort.

Before: `model.sae` hands in a block of tokens. Features are gone through block by block; of each, what may fire is
kept, and at the end what does. For bfloat16 activations the products are bfloat16, with a bound of what rounding can
do: what lies within it of the limit is computed again in float32. So codes are those of float32 products, at up to
three times the speed where bfloat16 is fast and few latents fire (docs/LOG.md); where many do, float32 comes first.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

Firing = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""(token [nnz], feature [nnz], act [nnz] > 0), sorted by token, then feature."""
FEATURE_BLOCK = 8192
"""[1024, 8192] in float32 is 34 MB, what the caches of a CPU hold; larger blocks gain nothing on a GPU."""
N_GROUPS = 256
ROUNDING = 1.05 * 2.0**-9
"""Of bfloat16, relative, with room for the float32 sums."""
OFTEN = 1 / 64
"""Where a larger share of latents may fire, to compute those again takes longer than a float32 product of all."""
N_PROBED = 32
"""Tokens that tell this share, in the first block of features: a hundredth of the time."""


class Products(NamedTuple):
    """x W + bias, in the dtype of W."""

    W: torch.Tensor
    """[d_in, d_sae]"""
    bias: torch.Tensor
    """[d_sae]"""
    error_per_norm: float = 0.0
    """How far a product can be from its float32 value, per unit of a token's norm; 0: it is that value."""
    error: float = 0.0
    """And beside that, whatever the token."""

    @staticmethod
    def rough(W: torch.Tensor, bias: torch.Tensor) -> Products:
        """In bfloat16: a weight is off by half a unit in its last place, and so are bias and result."""
        norm = float(torch.linalg.vector_norm(W, dim=0).max())
        return Products(W.bfloat16(), bias.bfloat16(), ROUNDING * norm, ROUNDING * float(bias.abs().max()))

    def blocks(self, x: torch.Tensor, size: int = 0) -> Iterator[tuple[int, torch.Tensor]]:
        """(first feature, [n, up to `size`, else FEATURE_BLOCK]), block by block."""
        x, size = x.to(self.W.dtype), size or FEATURE_BLOCK
        for first in range(0, self.W.shape[1], size):
            part = slice(first, first + size)
            yield first, torch.addmm(self.bias[part], x, self.W[:, part])

    def slack(self, x: torch.Tensor) -> torch.Tensor:
        """[n] float32: the bound of the error, but for the rounding of the result."""
        return torch.linalg.vector_norm(x, dim=1, dtype=torch.float32) * self.error_per_norm + self.error


def k_largest(exact: Products, rough: Products, x: torch.Tensor, k: int) -> Firing:
    """The k largest pre-activations of each token, those above 0 of them.

    Source: TopK, arXiv 2406.04093, with the ReLU that sparsify and SAELens have.
    """
    slack = rough.slack(x)
    bound = torch.zeros(len(x), device=x.device)
    found = []
    for first, pre in rough.blocks(x):
        low = at_most_kth(pre, k).float()
        error = slack + ROUNDING * low.abs()
        bound = torch.maximum(bound, low - error)  # the k-th largest of all is no lower, in float32
        token, feature = _where(pre >= _rounded_down(bound - error, pre.dtype)[:, None])
        found.append((token, feature + first, pre[token, feature]))
    token, feature, act = _exact(exact, rough, x, found)
    return _largest_of(token, feature, act, k, len(x))


def above_limits(exact: Products, rough: Products, x: torch.Tensor, limits: torch.Tensor) -> Firing:
    """Every latent above its limit [d_sae], at least 0, strictly.

    Source: JumpReLU, arXiv 2407.14435; with 0 it is ReLU.
    """
    if rough is not exact and _fire_often(rough, x, limits):
        rough = exact
    slack = rough.slack(x)
    found = []
    for first, pre in rough.blocks(x):
        token, feature = _where(_reaching(pre, limits[first : first + FEATURE_BLOCK], slack))
        found.append((token, feature + first, pre[token, feature]))
    token, feature, act = _exact(exact, rough, x, found)
    if rough is exact:
        return token, feature, act
    fires = act > limits[feature]
    return token[fires], feature[fires], act[fires]


def _fire_often(rough: Products, x: torch.Tensor, limits: torch.Tensor) -> bool:
    few = x[:: max(1, len(x) // N_PROBED)]
    _, pre = next(rough.blocks(few))
    return float(_reaching(pre, limits[:FEATURE_BLOCK], rough.slack(few)).float().mean()) > OFTEN


def _reaching(pre: torch.Tensor, limit: torch.Tensor, slack: torch.Tensor) -> torch.Tensor:
    """[n, block]: which products may be above their limit [block] in float32; of float32 ones, which are."""
    return pre > (limit if pre.dtype == torch.float32 else limit * (1 - ROUNDING) - slack[:, None])


def group_maxima(exact: Products, x: torch.Tensor, k: int) -> Firing:
    """The largest of each of k groups of neighbouring latents, those above 0 of them.

    Source: `groupmax` of EleutherAI/sparsify, fused_encoder.py.
    """
    width = exact.W.shape[1] // k
    found = []
    for first, pre in exact.blocks(x, max(1, FEATURE_BLOCK // width) * width):
        act, within = pre.unflatten(1, (-1, width)).max(dim=2)
        token, group = _where(act > 0)
        found.append((token, first + group * width + within[token, group], act[token, group]))
    return _exact(exact, exact, x, found)


def at_most_kth(pre: torch.Tensor, k: int) -> torch.Tensor:
    """[n]: for each row a value that at least k of its entries reach; -inf where it has fewer than k entries.

    The k-th largest of the maxima of 256 groups: a tenth of the time of `topk`, and for 8,192 entries and k of 32 only
    two more than k reach it.
    """
    n, d = pre.shape
    if k > d:
        return torch.full((n,), -torch.inf, device=pre.device, dtype=pre.dtype)
    if d % N_GROUPS == 0 and 4 * k <= N_GROUPS:
        pre = pre.view(n, d // N_GROUPS, N_GROUPS).amax(1)
    return pre.topk(k, dim=1, sorted=False).values.amin(1)


def _exact(exact: Products, rough: Products, x: torch.Tensor, found: list[Firing]) -> Firing:
    """(token, feature, float32 pre-activation) of what was found, sorted by token, then feature."""
    token, feature, act = _in_order(found, len(x))
    return token, feature, act if rough is exact else _sampled(exact, x, token, feature)


def _in_order(found: list[Firing], n_tokens: int) -> Firing:
    """What each block of features gave, sorted by token, as one, sorted by token, then feature: counted, not sorted."""
    if len(found) == 1:
        return found[0]
    counts = torch.stack([torch.bincount(token, minlength=n_tokens) for token, _, _ in found])
    total = counts.sum(0)
    starts = total.cumsum(0) - total + counts.cumsum(0) - counts  # [block, token]: where its first one goes
    shifts = starts - (counts.cumsum(1) - counts)
    token = torch.repeat_interleave(torch.arange(n_tokens, device=total.device), total)
    feature, act = torch.empty_like(token), found[0][2].new_empty(len(token))
    for shift, (rows, columns, values) in zip(shifts, found, strict=True):
        places = torch.arange(len(rows), device=rows.device) + shift[rows]
        feature[places], act[places] = columns, values
    return token, feature, act


def _sampled(exact: Products, x: torch.Tensor, token: torch.Tensor, feature: torch.Tensor) -> torch.Tensor:
    """[nnz]: single entries of the float32 product."""
    ends = torch.bincount(token, minlength=len(x)).cumsum(0)
    rows = torch.cat([ends.new_zeros(1), ends])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "sparse CSR is in beta state"
        empty = torch.zeros(len(feature), device=x.device)
        pattern = torch.sparse_csr_tensor(rows, feature, empty, (len(x), exact.W.shape[1]))
        product: torch.Tensor = torch.sparse.sampled_addmm(pattern, x.float(), exact.W, beta=0.0).values()
    return product + exact.bias[feature]


def _largest_of(token: torch.Tensor, feature: torch.Tensor, act: torch.Tensor, k: int, n_tokens: int) -> Firing:
    """The k largest of each token among sorted candidates, those above 0 of them."""
    counts = torch.bincount(token, minlength=n_tokens)
    within = torch.arange(len(token), device=token.device) - (counts.cumsum(0) - counts)[token]
    table = torch.full((n_tokens, max(int(counts.max()), k) if n_tokens else k), -torch.inf, device=act.device)
    table[token, within] = act
    kept = torch.zeros_like(table, dtype=torch.bool)
    kept.scatter_(1, table.topk(k, dim=1, sorted=False).indices, value=True)
    fires = kept[token, within] & (act > 0)
    return token[fires], feature[fires], act[fires]


def can_screen(device: torch.device) -> bool:
    """Whether single entries of a product can be had there."""
    return device.type == "cuda" or torch.backends.mkl.is_available()


def _where(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column of every True, in order. On a CPU by numpy: torch takes seven times as long."""
    if mask.is_cuda:
        rows, columns = mask.nonzero(as_tuple=True)
        return rows, columns
    flat = torch.from_numpy(np.flatnonzero(mask.numpy()))
    return flat // mask.shape[1], flat % mask.shape[1]


def _rounded_down(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return values if dtype == torch.float32 else (values - values.abs() * 2.0**-8).to(dtype)
