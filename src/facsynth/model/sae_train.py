"""Train a TopK or BatchTopK SAE from a corpus.

Before: `text.corpus` and `text.template`. After: `model.sae_formats` opens what is written here. SAELens' trainer is
not used: it packs documents and knows no content mask, so template text and the first position's huge norm would be
trained on, and its CPU step is dense in float32 (ours: `model.trainer`).

Activations stream through a shuffle buffer, chunk by chunk. Chunks are kept on disk between epochs up to a stated
size and are computed again beyond it. Attention sinks (`model.chunks`) are dropped and counted, for training and for
measuring. A checkpoint is written between buffers; the same command goes on from it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facsynth.errors import InputError
from facsynth.model.chunks import Chunks
from facsynth.model.sae import Reconstruction, reconstruction
from facsynth.model.sae_formats import load_sae
from facsynth.model.sae_saelens import save_sae
from facsynth.model.trainer import TopKTrainer, TrainSettings
from facsynth.records import Progress, no_progress

RECENT_TOKENS = 1_000_000


@dataclass(frozen=True)
class Trained:
    """What a training run ended with, measured on held-out chunks with the weights as saved."""

    folder: Path
    held_out: Reconstruction
    dead_share_train: float
    """Share of features that did not fire in the last 1,000,000 tokens of training (or all, if fewer). The one of
    `held_out` counts rare features as dead where the held-out text is short."""
    n_tokens_seen: int
    n_sink_tokens: int
    """Distinct content tokens left out of training and measuring, as attention sinks."""

    @property
    def figures(self) -> dict[str, Any]:
        """For manifest and config: flat, without the folder."""
        mine = {"dead_share_train", "n_tokens_seen", "n_sink_tokens"}
        return asdict(self.held_out) | {name: getattr(self, name) for name in sorted(mine)}


def train_sae(
    train: Chunks,
    held_out: Chunks,
    out: Path,
    settings: TrainSettings,
    *,
    hook_point: str,
    model_name: str,
    metadata: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
    save_dtype: torch.dtype = torch.float32,
    progress: Progress = no_progress,
) -> Trained:
    """Train, checkpoint, measure on held-out text, and save as a SAELens folder.

    Args:
        train: activations to train on, by chunk.
        held_out: activations to measure on, by chunk.
        out: gets `checkpoint.safetensors`, then `cfg.json` and `sae_weights.safetensors`.
        settings: what the result depends on.
        hook_point: written into the config.
        model_name: written into the config.
        metadata: more keys for the config, where the figures go too.
        dtype: of the encoder's product while training.
        save_dtype: of the weights on disk; the figures are of these.
        progress: called after every buffer with the loss in the text.

    Raises:
        InputError: too few tokens for one batch.
    """
    trainer, n_train_sinks = _train(train, out / "checkpoint.safetensors", settings, dtype, progress)
    sae = trainer.sae(hook_point=hook_point, model_name=model_name)
    save_sae(sae, out, metadata=metadata, dtype=save_dtype)
    n_sinks = torch.zeros(held_out.n_chunks, dtype=torch.int64)
    measured = reconstruction(load_sae(out), (_rows(held_out, chunk, n_sinks) for chunk in range(held_out.n_chunks)))
    n_seen = trainer.step * settings.batch_tokens
    silent = trainer.since_fired >= min(RECENT_TOKENS, n_seen)
    trained = Trained(out, measured, float(silent.float().mean()), n_seen, n_train_sinks + int(n_sinks.sum()))
    save_sae(sae, out, metadata={**metadata, **trained.figures}, dtype=save_dtype)
    return trained


def _train(
    train: Chunks, checkpoint: Path, settings: TrainSettings, dtype: torch.dtype, progress: Progress
) -> tuple[TopKTrainer, int]:
    """The trained weights, and how many rows of the chunks that were read are sinks."""
    groups_done, n_sinks = 0, torch.zeros(train.n_chunks, dtype=torch.int64)
    if checkpoint.exists():
        trainer, state = TopKTrainer.load(checkpoint, settings, dtype=dtype)
        groups_done, n_sinks = int(state["groups_done"]), state["n_sinks"]
    else:
        trainer = TopKTrainer(*mean_and_scale(train.without_sinks(0)[0]), settings, dtype=dtype)
    groups = itertools.islice(shuffled_groups(train.n_chunks, settings), groups_done, None)
    while trainer.step * settings.batch_tokens < settings.n_tokens:
        rows = torch.cat([_rows(train, chunk, n_sinks) for chunk in next(groups)])
        n_batches = len(rows) // settings.batch_tokens  # what is left over comes again in the next epoch
        generator = torch.Generator().manual_seed(settings.rng_seed + trainer.step)
        loss = math.nan
        for batch in torch.randperm(len(rows), generator=generator).split(settings.batch_tokens)[:n_batches]:
            loss = trainer.update(rows[batch])
            if trainer.step * settings.batch_tokens >= settings.n_tokens:
                break
        groups_done += 1
        if not trainer.step and groups_done * settings.buffer_chunks >= train.n_chunks:
            raise InputError(
                f"the corpora give fewer tokens than one batch of {settings.batch_tokens}\n"
                "Give more text, or set a smaller batch_tokens."
            )
        trainer.save(checkpoint, groups_done=torch.tensor(groups_done), n_sinks=n_sinks)
        n_dead = int((trainer.since_fired > settings.dead_after_tokens).sum())
        n_seen = min(trainer.step * settings.batch_tokens, settings.n_tokens)
        progress(f"training the SAE: loss {loss:.3f}, {n_dead} dead", n_seen, settings.n_tokens)
    return trainer, int(n_sinks.sum())


def _rows(chunks: Chunks, index: int, n_sinks: torch.Tensor) -> torch.Tensor:
    rows, n_sinks[index] = chunks.without_sinks(index)
    return rows


def mean_and_scale(activations: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Mean [d_in], and the factor that gives the centred activations a mean square norm of d_in."""
    x = activations.float()
    mean = x.mean(0)
    return mean, float((x.shape[1] / (x - mean).square().sum(1).mean()).sqrt())


def shuffled_groups(n_chunks: int, settings: TrainSettings) -> Iterator[list[int]]:
    """Chunks to mix in the buffer together, epoch after epoch, without end; a function of `rng_seed`."""
    for epoch in itertools.count():
        order = np.random.default_rng([settings.rng_seed, epoch]).permutation(n_chunks).tolist()
        for start in range(0, n_chunks, settings.buffer_chunks):
            yield order[start : start + settings.buffer_chunks]
