"""What a model makes of a whole text: its last state at the last token, where a reply would begin.

Before: `text.template` gives token ids. After: heads of `tasks` are trained on these states, computed once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from facsynth.bins import Floats
from facsynth.errors import ModelError
from facsynth.model.backbone import Backbone
from facsynth.model.batching import batches, pad
from facsynth.records import Progress, no_progress


@torch.inference_mode()
def final_states(backbone: Backbone, ids: Sequence[npt.NDArray[np.int32]], progress: Progress = no_progress) -> Floats:
    """float32[n, d_model]: the output of the decoder, after its last norm, at the last token of each sequence.

    Args:
        backbone: the model; where it is hooked does not matter.
        ids: token ids, one array [n_tokens] a sequence, none empty.
        progress: told the sequences that are done.

    Raises:
        ModelError: a sequence is longer than the model knows, or a state is not finite.
    """
    lengths = [len(row) for row in ids]
    if max(lengths, default=0) > backbone.max_positions:
        raise ModelError(
            f"a text of {max(lengths)} tokens is longer than {backbone.name} knows positions for "
            f"({backbone.max_positions})\nCut it to that."
        )
    found, done = np.empty((len(ids), backbone.d_model), np.float32), 0
    for batch in batches(lengths, backbone.token_budget):
        padded, _, _ = pad([ids[index] for index in batch], side="right")
        states = backbone.outputs(padded, [backbone.decoder])[0].last_hidden_state
        last = torch.tensor([lengths[index] - 1 for index in batch])
        found[batch] = states[torch.arange(len(batch)), last].float().cpu().numpy()
        done += len(batch)
        progress("reading", done, len(ids))
    if not np.isfinite(found).all():
        raise ModelError(f"{backbone.name} gives NaN or infinity in {backbone.dtype}\nTry float32 or bfloat16.")
    return found
