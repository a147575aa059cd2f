"""How the scripts that the paper released read a text, to compare with figures made by them: `sae.compat: fac`.

Before: `text.corpus`. After: `features.encode`, with dense codes (they never cut to the k largest). Kept: the whole
rendering counts from the 32nd token on, whatever its role, and 512 tokens are read. Not kept, for they are faults: a
second BOS, activations of the text before where one fails, spans without the token that fires, special tokens.
"""

from __future__ import annotations

import numpy as np

from facsynth.errors import InputError
from facsynth.records import Sample
from facsynth.text.template import Template, Tokens

SKIPPED_TOKENS = 31
"""Llama 3.1's header with its default system turn; of other templates it cuts content, or keeps some of the header."""
MAX_TOKENS = 512


def fac_tokens(template: Template, sample: Sample) -> Tokens:
    """One sample as the released scripts cut it; every token that counts has role 1.

    Raises:
        InputError: the template refuses the sample, or it has no token from the 32nd on.
    """
    ids = np.array(template.rendered_ids(sample.messages), np.int32)
    cut, ids = len(ids) > MAX_TOKENS, ids[:MAX_TOKENS]
    role = np.ones(len(ids), np.uint8)
    role[:SKIPPED_TOKENS] = 0
    role[np.isin(ids, template.special_ids)] = 0
    if not role.any():
        raise InputError(f"sample {sample.sample_id} has no token past the first {SKIPPED_TOKENS} that count as header")
    return Tokens(ids, role, cut=cut)
