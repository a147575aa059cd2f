"""`train-sae`: corpora in, an SAE with its figures out.

Before: `text.corpus`. Inside: `features.harvest` tokenises and splits, `model.sae_train` trains. After: any stage
that wants an SAE.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from facsynth.errors import InputError
from facsynth.features.harvest import Harvest, HarvestSettings, chunk_activations, harvest
from facsynth.model.backbone import Backbone
from facsynth.model.chunks import Chunks
from facsynth.model.sae import Reconstruction
from facsynth.model.sae_formats import load_sae
from facsynth.model.sae_train import Trained, train_sae
from facsynth.model.trainer import TrainSettings
from facsynth.records import Progress, no_progress
from facsynth.store import Artifact, write_jsonl
from facsynth.text.corpus import Corpus
from facsynth.text.forms import form_roles
from facsynth.text.template import Template, Tokens


@dataclass(frozen=True)
class Recipe:
    """Everything a trained SAE depends on, besides model and corpora."""

    harvest: HarvestSettings = field(default_factory=HarvestSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    save_dtype: str = "float32"
    """Of the weights on disk: float32 or float16."""


def train_on_corpora(
    corpora: Sequence[Corpus],
    backbone: Backbone,
    out: Path,
    recipe: Recipe,
    *,
    keep_gb: float = 8.0,
    progress: Progress = no_progress,
) -> Trained:
    """Train an SAE for `backbone` at its hook point, and measure it on held-out samples.

    Args:
        corpora: read in their forms; a share of each is held out.
        backbone: its dtype is that of the activations.
        out: artifact folder; the same call goes on where it stopped.
        recipe: what the result depends on.
        keep_gb: most disk that activations may take between epochs; more are computed again.
        progress: told of chunks and buffers.

    Raises:
        InputError: nothing to train on, nothing held out, or fewer tokens than one batch.
        MismatchError: the folder was begun with another recipe, model or corpus.
    """
    artifact = _begin(corpora, backbone, out, recipe)
    if artifact.manifest is not None:
        return _trained(out, artifact.manifest)
    progress("tokenising", 0, None)
    parts = _split(corpora, backbone, recipe)
    n_distinct = sum(int(document.content.sum()) for chunk in parts.train for document in chunk)
    trained = train_sae(
        _chunks(out / "activations" / "train", parts.train, backbone, keep_gb, progress),
        _chunks(out / "activations" / "held_out", parts.held_out, backbone, keep_gb / 10, progress),
        out,
        recipe.train,
        hook_point=backbone.hook_point,
        model_name=backbone.name,
        metadata={"n_distinct_tokens": n_distinct, "corpora": [Path(corpus.name).name for corpus in corpora]},
        dtype=backbone.dtype,
        save_dtype=getattr(torch, recipe.save_dtype),
        progress=progress,
    )
    load_sae(out).check_model(backbone.d_model, backbone.name)
    failures = [*(failure for corpus in corpora for failure in corpus.failures), *parts.failures]
    write_jsonl(out / "corpora.failures.jsonl", [asdict(failure) for failure in failures])
    artifact.finish(**trained.figures, n_distinct_tokens=n_distinct, n_samples=parts.n_samples)
    shutil.rmtree(out / "activations", ignore_errors=True)  # gigabytes that nobody needs any more
    (out / "checkpoint.safetensors").unlink(missing_ok=True)
    return trained


def _begin(corpora: Sequence[Corpus], backbone: Backbone, out: Path, recipe: Recipe) -> Artifact:
    parents = {f"{n:02d} {Path(c.name).name}": c.fingerprint for n, c in enumerate(corpora)}
    settings = asdict(recipe) | {"hook_point": backbone.hook_point, "dtype": str(backbone.dtype)}
    return Artifact(out, "train-sae", settings, parents | {"model": backbone.fingerprint})


def _split(corpora: Sequence[Corpus], backbone: Backbone, recipe: Recipe) -> Harvest:
    """What is trained on and what is held out, neither of them empty."""
    read = [(corpus, form_roles(corpus.form)) for corpus in corpora]
    parts = harvest(read, Template(backbone.tokenizer), recipe.harvest)
    if not parts.train or not parts.held_out:
        raise InputError("the corpora are too small to train on and hold a share out\nGive more text.")
    return parts


def _chunks(
    folder: Path, documents: Sequence[list[Tokens]], backbone: Backbone, keep_gb: float, progress: Progress
) -> Chunks:
    def compute(index: int) -> torch.Tensor:
        progress(f"{folder.name}: activations of chunk", index, len(documents))
        return chunk_activations(documents[index], backbone)

    return Chunks(folder, compute, len(documents), keep_gb)


def _trained(out: Path, manifest: dict[str, Any]) -> Trained:
    held_out = Reconstruction(**{key.name: manifest[key.name] for key in fields(Reconstruction)})
    own = {key: manifest[key] for key in ("dead_share_train", "n_tokens_seen", "n_sink_tokens")}
    return Trained(out, held_out, **own)
