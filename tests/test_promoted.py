"""Promoted tokens: those whose unembedding points where the direction does, in every family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tiny
from facsynth.model.promoted import promoted_tokens
from tiny import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_a_direction_along_an_unembedding_row_promotes_its_token(family: str, tmp_path: Path) -> None:
    backbone = tiny.backbone(tiny.save_model(tmp_path, family))
    head = backbone.model.get_output_embeddings().weight
    words = [i for i in range(len(backbone.tokenizer)) if backbone.tokenizer.decode([i]).strip().isalpha()][40:44]
    sae = tiny.random_sae()
    with torch.no_grad():
        sae.W_dec[: len(words)] = head[words].float() * torch.tensor([[1.0], [5.0], [0.1], [2.0]])
    found = promoted_tokens(backbone, sae, range(len(words)))
    for feature, word in enumerate(words):
        assert found[feature][0] == backbone.tokenizer.decode([word]).strip()
        assert len(found[feature]) == len(set(found[feature])) <= 5
