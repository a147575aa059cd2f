"""Log-probabilities: against cross-entropy of one text at a time, whatever the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import tiny
from facsynth.model.fluency import mean_log_probs


def test_each_text_has_the_mean_of_its_own_tokens_whatever_stands_beside_it(tmp_path: Path) -> None:
    backbone = tiny.backbone(tiny.save_model(tmp_path / "model", n_blocks=2, width=32))
    rng = np.random.default_rng(0)
    ids = [rng.integers(5, 60, n).astype(np.int32) for n in (3, 17, 9, 30, 2)]
    content = [np.concatenate([[False], rng.random(len(row) - 1) < 0.7]) for row in ids]
    for mask in content:
        mask[-1] = True
    found = mean_log_probs(backbone, ids, content)
    for row, mask, value in zip(ids, content, found, strict=True):
        logits = backbone.model(input_ids=torch.from_numpy(row).long()[None]).logits[0].float().detach()
        losses = torch.nn.functional.cross_entropy(logits[:-1], torch.from_numpy(row[1:]).long(), reduction="none")
        np.testing.assert_allclose(value, -losses[torch.from_numpy(mask[1:])].mean().numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mean_log_probs(backbone, ids[::-1], content[::-1])[::-1], found, rtol=1e-4)
