"""Activations of a corpus's content tokens, in chunks of mixed documents: what an SAE is trained on.

Before: `text.corpus`, `text.template`, `model.backbone`. After: `model.sae_train`. Documents are never packed:
each runs alone, so no token sees another document.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from facsynth.errors import InputError, SettingsError
from facsynth.model.backbone import Backbone
from facsynth.model.batching import batches
from facsynth.records import Failure, Sample
from facsynth.text.template import Template, Tokens


@dataclass(frozen=True)
class HarvestSettings:
    """How a corpus becomes training activations."""

    max_tokens: int = 512
    """Longer plain texts are cut into pieces of this length; longer chats lose their end."""
    held_out: float = 0.02
    """Share of every file that is only measured on, whole samples, chosen by their id."""
    chunk_tokens: int = 32_768
    """Content tokens a chunk."""
    rng_seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise SettingsError(
                f"held_out is {self.held_out}\n"
                "Give a share above 0 and below 1: without samples held out there is nothing to measure the SAE on."
            )
        if self.max_tokens < 2 or self.chunk_tokens < 1:
            raise SettingsError(
                f"max_tokens is {self.max_tokens}, chunk_tokens {self.chunk_tokens}\nGive at least 2, and at least 1."
            )


@dataclass(frozen=True)
class Harvest:
    """Tokenised documents, split and shuffled."""

    train: list[list[Tokens]]
    """Documents by chunk."""
    held_out: list[list[Tokens]]
    n_samples: int
    failures: list[Failure]


def harvest(
    corpora: Iterable[tuple[Iterable[Sample], Collection[str]]], template: Template, settings: HarvestSettings
) -> Harvest:
    """Tokenise every corpus, hold out a share of each, and mix the rest.

    Args:
        corpora: samples, and the roles whose messages are content. Equal samples count once, over all corpora.
        template: of the model.
        settings: lengths, shares and `rng_seed`.
    """
    parts: tuple[list[Tokens], list[Tokens]] = ([], [])
    failures: list[Failure] = []
    seen: set[str] = set()
    for samples, roles in corpora:
        fresh = {sample.sample_id: sample for sample in samples if sample.sample_id not in seen}
        seen |= fresh.keys()
        n_held_out = math.ceil(len(fresh) * settings.held_out)
        for rank, sample_id in enumerate(sorted(fresh)):
            try:
                parts[rank < n_held_out].extend(_documents(fresh[sample_id], template, roles, settings.max_tokens))
            except InputError as err:
                failures.append(Failure(sample_id, str(err)))
    rng = np.random.default_rng(settings.rng_seed)
    train, held_out = ([documents[i] for i in rng.permutation(len(documents))] for documents in parts)
    return Harvest(
        list(_chunks(train, settings.chunk_tokens)), list(_chunks(held_out, settings.chunk_tokens)), len(seen), failures
    )


def chunk_activations(documents: Sequence[Tokens], backbone: Backbone, token_budget: int | None = None) -> torch.Tensor:
    """[content tokens, d_model] of one chunk, in the backbone's dtype."""
    parts = [
        backbone.activations([documents[i].ids for i in batch], [documents[i].content for i in batch])
        for batch in batches([len(document.ids) for document in documents], token_budget or backbone.token_budget)
    ]
    return torch.cat(parts).cpu()


def _documents(sample: Sample, template: Template, roles: Collection[str], max_tokens: int) -> Iterator[Tokens]:
    if sample.messages[0].role != "text":
        yield template.tokenize(sample, roles, max_tokens)
        return
    whole = template.tokenize(sample, roles, max_tokens=1 << 30)
    first = 0 if template.tokenizer.bos_token_id is None else 1  # a BOS is repeated before every piece
    for start in range(first, len(whole.ids), max_tokens - first):
        piece = slice(start, start + max_tokens - first)
        role = np.concatenate([whole.role[:first], whole.role[piece]])
        role[:1] = 0
        if role.any():
            yield Tokens(np.concatenate([whole.ids[:first], whole.ids[piece]]), role)


def _chunks(documents: Iterable[Tokens], chunk_tokens: int) -> Iterator[list[Tokens]]:
    chunk: list[Tokens] = []
    size = 0
    for document in documents:
        chunk.append(document)
        size += int(document.content.sum())
        if size >= chunk_tokens:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
