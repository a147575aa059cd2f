"""What is measured: the embedded model, the SAE that ships (or a random one of its shape), the example anchor."""

from __future__ import annotations

from pathlib import Path

import torch
from figures import SkippedError

from facsynth.assemble import embedded_sae_folder
from facsynth.cli.console import cache_folder
from facsynth.demo import example_file
from facsynth.errors import ModelError
from facsynth.features.encode import EncodeSettings, FeatureSpace
from facsynth.model.backbone import load_backbone
from facsynth.model.embedded import embedded_model
from facsynth.model.sae import Sae
from facsynth.model.sae_formats import load_sae
from facsynth.records import Sample
from facsynth.text.corpus import read_corpus

HOOK_POINT = "layers.14"


def open_embedded(dtype: str = "auto") -> FeatureSpace:
    """Model and SAE as `facsynth coverage` opens them.

    Raises:
        SkippedError: the embedded model is not installed.
    """
    cache = cache_folder()
    try:
        folder = embedded_model(cache)
    except ModelError as err:
        raise SkippedError(str(err).splitlines()[0]) from err
    sae = shipped_sae() or random_sae(576, 8192, 32)
    backbone = load_backbone(folder, hook_point=sae.hook_point, dtype=dtype, cache=cache)
    return FeatureSpace(backbone, sae, EncodeSettings())


def shipped_sae() -> Sae | None:
    """None where none ships."""
    folder = embedded_sae_folder()
    return load_sae(folder, fingerprint="shipped") if (folder / "sae_weights.safetensors").exists() else None


def random_sae(d_in: int, d_sae: int, k: int, hook_point: str = HOOK_POINT) -> Sae:
    """A TopK SAE with random weights."""
    rng = torch.Generator().manual_seed(0)
    W_enc = torch.randn((d_in, d_sae), generator=rng) / d_in**0.5
    return Sae(
        W_enc, 0.1 * torch.randn(d_sae, generator=rng), W_enc.T.contiguous(), torch.zeros(d_in),
        architecture="topk", hook_point=hook_point, model_name="random", k=k, fingerprint="random",
    )  # fmt: skip


def anchor_samples(n: int) -> list[Sample]:
    """The first `n` messages of the example anchor."""
    return list(read_corpus(Path(example_file("anchor.jsonl")), limit=n))
