"""Other places of a model that an SAE could have been trained at, and their activations in one pass.

Before: `model.backbone`. After: `model.sae_check`, which tells a wrong hook point by what fits better.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from facsynth.errors import SettingsError
from facsynth.model.backbone import Backbone, hooked_module
from facsynth.model.batching import padded_and_kept

NUMBERED = re.compile(r"(.*?)(\d+)((?:\.[A-Za-z_]\w*)*)")
"""A module of a block: what stands before the block's number, the number, and the way inside the block."""


def beside(model: Any, hook_point: str) -> list[str]:
    """The same place one block earlier and one later, where there is one; none for a place outside the blocks."""
    found = NUMBERED.fullmatch(hook_point)
    if found is None:
        return []
    stem, number, inside = found[1], int(found[2]), found[3]
    near = (f"{stem}{n}{inside}" for n in (number - 1, number + 1) if n >= 0)
    return [name for name in near if _is_there(model, name)]


def elsewhere(model: Any, hook_point: str) -> list[str]:
    """Every other block, the same place in every other block, and the other parts of the block that it names."""
    found = NUMBERED.fullmatch(hook_point)
    if found is None:
        return []
    stem, number, inside = found.groups()
    names = [f"{block}{tail}" for block in _blocks(model, stem) for tail in dict.fromkeys(("", inside))]
    block = f"{stem}{number}"
    names += [f"{block}.{name}" for name, _ in hooked_module(model, block).named_children()]
    return [name for name in dict.fromkeys(names) if name != hook_point and _is_there(model, name)]


@torch.inference_mode()
def activations_at(
    backbone: Backbone,
    hook_points: Sequence[str],
    ids: Sequence[npt.NDArray[np.int32]],
    keep: Sequence[npt.NDArray[np.bool_]],
) -> dict[str, torch.Tensor]:
    """`Backbone.activations` at several hook points, on the CPU; one that gives none of the model's width has none."""
    padded, kept = padded_and_kept(ids, keep)
    outputs = backbone.outputs(padded, [hooked_module(backbone.model, name) for name in hook_points])
    shape = (*padded.shape, backbone.d_model)
    found = {
        name: output[kept.to(output.device)].cpu()
        for name, output in zip(hook_points, outputs, strict=True)
        if getattr(output, "shape", None) == shape
    }
    return {name: x for name, x in found.items() if bool(torch.isfinite(x.sum(dtype=torch.float32)))}


def _blocks(model: Any, stem: str) -> Iterator[str]:
    for number in count():
        if not _is_there(model, f"{stem}{number}"):
            return
        yield f"{stem}{number}"


def _is_there(model: Any, name: str) -> bool:
    try:
        hooked_module(model, name)
    except SettingsError:
        return False
    return True
