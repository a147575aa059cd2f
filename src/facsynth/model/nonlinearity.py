"""Which pre-activations of a block fire, one function a rule; those of TopK and JumpReLU are in `model.screen`.

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
