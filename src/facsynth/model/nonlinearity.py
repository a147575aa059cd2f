"""Which pre-activations of a block fire, one function a rule. `model.sae` holds the loop over blocks.

Every function takes pre_acts [n, d_sae] and gives (token [nnz], feature [nnz], act [nnz] > 0), sorted by token, then
feature.
"""

from __future__ import annotations

import torch

Firing = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def above(pre: torch.Tensor, limit: torch.Tensor | float) -> Firing:
    """Every latent above its limit, strictly; `limit` is a number or [d_sae], at least 0 everywhere.

    Source: JumpReLU, arXiv 2407.14435; with 0 it is ReLU.
    """
    token, feature = (pre > limit).nonzero(as_tuple=True)
    return token, feature, pre[token, feature]


def largest(pre: torch.Tensor, k: int) -> Firing:
    """The k largest of each token, those above 0 of them.

    Source: TopK, arXiv 2406.04093, with the ReLU that sparsify and SAELens have.
    """
    act, feature = pre.topk(k, dim=1, sorted=False)
    feature, order = feature.sort(dim=1)
    return _positive(feature, act.gather(1, order))


def group_maxima(pre: torch.Tensor, k: int) -> Firing:
    """The largest of each of k groups of neighbouring latents, those above 0 of them.

    Source: `groupmax` of EleutherAI/sparsify, fused_encoder.py.
    """
    act, within = pre.unflatten(1, (k, -1)).max(dim=2)
    return _positive(within + torch.arange(0, pre.shape[1], pre.shape[1] // k, device=pre.device), act)


def _positive(feature: torch.Tensor, act: torch.Tensor) -> Firing:
    token = torch.arange(len(act), device=act.device)[:, None].expand_as(feature)
    fires = act > 0
    return token[fires], feature[fires], act[fires]
