"""Projected gradients: against the gradients of the weights themselves, whatever the batch and the family."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from facsynth.model.backbone import Backbone
from facsynth.model.gradients import LAYERS, SIDE, loss_gradients, signs


def slowly(backbone: Backbone, row: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """By the gradient of every weight of one text."""
    layers = [m for m in backbone.model.base_model.modules() if type(m).__name__ in LAYERS]
    for layer in layers:
        layer.weight.requires_grad_(True)
    tokens = torch.from_numpy(row).long()
    logits = backbone.model(input_ids=tokens[None]).logits[0].float()
    losses = torch.nn.functional.cross_entropy(logits[:-1], tokens[1:], reduction="none")
    losses[torch.from_numpy(mask[1:])].mean().backward()
    found = torch.zeros(SIDE, SIDE)
    for index, layer in enumerate(layers):
        gradient = layer.weight.grad if type(layer).__name__ == "Linear" else layer.weight.grad.T
        one, other = (signs(n, 2 * index + k, gradient.device) for k, n in enumerate(gradient.shape))
        found += one.T @ gradient @ other
        layer.weight.grad = None
        layer.weight.requires_grad_(False)
    return found.flatten().numpy()


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "gpt_neox"])
def test_a_text_has_the_projected_gradient_of_its_weights(family: str, tmp_path: Path) -> None:
    backbone = tiny.backbone(tiny.save_model(tmp_path / "model", family, n_blocks=2))
    rng = np.random.default_rng(0)
    ids = [rng.integers(5, 60, n).astype(np.int32) for n in (3, 17, 9)]
    content = [np.concatenate([[False], rng.random(len(row) - 1) < 0.7]) for row in ids]
    for mask in content:
        mask[-1] = True
    found = loss_gradients(backbone, ids, content)
    assert found.shape == (3, SIDE * SIDE)
    for row, mask, value in zip(ids, content, found, strict=True):
        theirs = slowly(backbone, row, mask)
        np.testing.assert_allclose(value, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())
    assert not any(p.requires_grad for p in backbone.model.parameters())
    again = loss_gradients(backbone, ids[:1], content[:1])
    np.testing.assert_allclose(again[0], found[0], rtol=1e-3, atol=1e-4 * np.abs(found[0]).max())


def test_signs_keep_inner_products_on_average() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 400))
    drawn = [signs(400, n, torch.device("cpu")).numpy() for n in range(60)]
    assert {*np.unique(drawn[0] * SIDE**0.5).round(6)} == {-1, 1}
    products = [float((x @ s) @ (y @ s)) for s in drawn]
    assert abs(np.mean(products) - x @ y) < 4 * np.std(products) / 60**0.5
