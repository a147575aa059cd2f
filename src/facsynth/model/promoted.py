"""The tokens that a feature's direction makes likelier: its decoder row, seen through the unembedding.

Before: `backbone` and `sae`. After: the sheet of features. Blocks between hook point and head are passed over, so early
hook points say little.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from facsynth.model.backbone import Backbone
from facsynth.model.sae import Sae

FINAL_NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f")
"""What the norm before the head is called, in Llama and most others, Phi, NeoX and GPT-2."""
BLOCK = 128
"""Features at a time: each takes a row of logits."""


@torch.inference_mode()
def promoted_tokens(
    backbone: Backbone, sae: Sae, feature_ids: Sequence[int], n_tokens: int = 5
) -> dict[int, list[str]]:
    """For each feature the tokens with the highest logits of its direction, each word once.

    The final norm is applied to the direction; its length and the norm's bias have no part in the order.

    Returns:
        Nothing for a model without a head.
    """
    head = backbone.model.get_output_embeddings()
    if head is None:
        return {}
    norm = next((m for name, m in backbone.model.get_decoder().named_children() if name in FINAL_NORMS), None)
    found: dict[int, list[str]] = {}
    for start in range(0, len(feature_ids), BLOCK):
        ids = list(feature_ids[start : start + BLOCK])
        rows = sae.W_dec[ids].to(head.weight.device, head.weight.dtype)
        seen = rows if norm is None else norm(rows) - norm(torch.zeros_like(rows))
        top = (seen @ head.weight.T).topk(4 * n_tokens, dim=-1).indices
        for feature, tokens in zip(ids, top.tolist(), strict=True):
            words = (backbone.tokenizer.decode([token]).strip() for token in tokens)
            found[feature] = list(dict.fromkeys(word for word in words if word))[:n_tokens]
    return found
