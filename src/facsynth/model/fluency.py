"""How likely a model finds a text: what tells a written text from gibberish that only steering could want.

Before: texts as tokens. After: `synthesis` rejects candidates that the model, unsteered, finds less likely than nearly
all of the anchor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from facsynth.bins import Floats
from facsynth.model.backbone import Backbone
from facsynth.model.batching import batches, padded_and_kept


@torch.inference_mode()
def mean_log_probs(
    backbone: Backbone, ids: Sequence[npt.NDArray[np.int32]], content: Sequence[npt.NDArray[np.bool_]]
) -> Floats:
    """Mean log-probability of the content tokens of each sequence, each given all that is before it.

    Args:
        backbone: the model, unsteered.
        ids: token ids, one array [n_tokens] a sequence.
        content: which of them count, same shapes; never the first.

    Returns:
        float32[n_sequences], in nats a token.
    """
    found = np.zeros(len(ids), np.float32)
    for batch in batches([len(row) for row in ids], backbone.token_budget):
        padded, kept = padded_and_kept([ids[i] for i in batch], [content[i] for i in batch])
        padded, kept = padded.to(backbone.device), kept.to(backbone.device)
        # Padding stands on the right, where a causal model never looks from a real token.
        logits = backbone.model(input_ids=padded, use_cache=False).logits[:, :-1][kept[:, 1:]].float()
        told = logits.gather(1, padded[:, 1:][kept[:, 1:]][:, None])[:, 0] - logits.logsumexp(dim=1)
        counts = kept[:, 1:].sum(dim=1)
        rows = torch.repeat_interleave(torch.arange(len(batch), device=told.device), counts)
        sums = torch.zeros(len(batch), device=told.device).index_add_(0, rows, told)
        found[batch] = (sums / counts.clamp(min=1)).cpu().numpy()
    return found
