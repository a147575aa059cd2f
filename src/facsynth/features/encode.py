"""Samples in, pooled codes out: the stage that everything else measures with.

Before: `text.corpus`. Inside: `text.template`, `model.backbone`, `model.sae`. After: `features.spans`, `coverage`.

g_i(x) = max over the content tokens of sample x of latent i's activation (arXiv 2602.10388, section 5.1 and
appendix D), with its position. An encoded corpus is a folder of Parquet shards, one row a sample, and a profile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from facsynth.errors import InputError, SettingsError
from facsynth.features.pool import Entries, pool_codes, pool_dense, sort_entries
from facsynth.model.backbone import Backbone
from facsynth.model.batching import batches
from facsynth.model.memory import is_out_of_memory
from facsynth.model.prefix import shared_prefix
from facsynth.model.sae import CODES, Sae
from facsynth.records import Failure, Progress, Sample, no_progress
from facsynth.store import fingerprint
from facsynth.text.compat import fac_tokens
from facsynth.text.forms import check_compat, form_roles
from facsynth.text.template import Template, Tokens

SHARED_WEIGHT = 8
"""A shared token is not run with each sequence, but its keys and values lie beside each: it counts as an eighth."""


@dataclass(frozen=True)
class EncodeSettings:
    """What codes depend on, besides model, SAE and template."""

    form: str = "message"
    """Which part of a row is encoded."""
    codes: str = "native"
    """native: as the SAE was trained; relu: every positive pre-activation."""
    max_tokens: int = 4096
    """Longer samples are cut at a message boundary and counted."""
    compat: Literal["", "fac"] = ""
    """fac: read texts as the paper's released scripts do, see `text.compat`; needs the codes `relu`."""

    def __post_init__(self) -> None:
        form_roles(self.form)
        if self.codes not in CODES:
            raise SettingsError(f"there are no codes {self.codes!r}\nKnown codes: {', '.join(CODES)}.")
        check_compat(self.compat, self.codes)
        if self.max_tokens < 2:
            raise SettingsError(f"max_tokens is {self.max_tokens}\nThe first position never counts: give at least 2.")


@dataclass(frozen=True)
class Read:
    """Samples as token ids."""

    sample_ids: list[str]
    tokens: list[Tokens]
    failures: list[Failure]
    """Samples without content; they are in neither list above."""


@dataclass(frozen=True)
class Pooled:
    """Pooled codes of some samples."""

    sample_ids: list[str]
    tokens: list[Tokens]
    entries: Entries
    failures: list[Failure]
    """Samples that could not be encoded; they are in neither list above."""

    def maxima(self, index: int) -> dict[int, tuple[float, int]]:
        """By feature: (activation, position) of one sample, over all roles."""
        best: dict[int, tuple[float, int]] = {}
        first, last = np.searchsorted(self.entries.sample, [index, index + 1])
        for row in range(first, last):
            feature, activation = int(self.entries.feature[row]), float(self.entries.activation[row])
            if activation > best.get(feature, (0.0, 0))[0]:
                best[feature] = (activation, int(self.entries.position[row]))
        return best


class FeatureSpace:
    """A model, an SAE at one of its hook points, and how samples are read: what gives activations their meaning."""

    def __init__(self, backbone: Backbone, sae: Sae, settings: EncodeSettings) -> None:
        """Put the parts together.

        Raises:
            ModelError: the SAE's width is not the model's.
            SettingsError: the backbone is hooked elsewhere than the SAE was trained.
        """
        sae.check_model(backbone.d_model, backbone.name)
        if sae.hook_point and not backbone.is_hooked_at(sae.hook_point):
            raise SettingsError(
                f"the SAE was trained at {sae.hook_point}, the model is hooked at {backbone.hook_point}\n"
                f"Use --hook-point {sae.hook_point}."
            )
        self.backbone, self.sae, self.settings = backbone, sae, settings
        self.template = Template(backbone.tokenizer)
        self.roles = form_roles(settings.form)

    @property
    def identity(self) -> Mapping[str, str]:
        """What two sets must share to be compared. The precision is not in it: see `fingerprint`."""
        return {
            "model": self.backbone.fingerprint,
            "sae": self.sae.fingerprint,
            "hook_point": self.backbone.hook_point,
            "template": self.template.fingerprint,
            "codes": self.settings.codes,
            "form": self.settings.form,
            "max_tokens": str(self.settings.max_tokens),
            **({"compat": self.settings.compat} if self.settings.compat else {}),
        }

    @property
    def precision(self) -> str:
        """Of the model's products, as torch calls it."""
        return str(self.backbone.dtype)

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.sae.d_sae

    @property
    def form(self) -> str:
        """Which part of a row is encoded."""
        return self.settings.form

    @property
    def fingerprint(self) -> str:
        """Of everything that the codes of a sample depend on, the precision included."""
        return fingerprint({**self.identity, "dtype": self.precision})

    def pool(
        self, samples: Sequence[Sample], token_budget: int | None = None, progress: Progress = no_progress
    ) -> Pooled:
        """Encode samples: `read`, then `pool_read`."""
        return self.pool_read(self.read(samples), token_budget, progress)

    def read(self, samples: Sequence[Sample]) -> Read:
        """Tokenise samples of the space's form; one without content is a failure."""
        ids, tokens, failures = [], [], []
        for sample in samples:
            try:
                tokens.append(self._tokens(sample))
                ids.append(sample.sample_id)
            except InputError as err:
                failures.append(Failure(sample.where or sample.sample_id, str(err), sample.text[:200]))
        return Read(ids, tokens, failures)

    def pool_read(self, read: Read, token_budget: int | None = None, progress: Progress = no_progress) -> Pooled:
        """Encode what was read; batches are made by length, so samples should be many.

        Args:
            read: a sample too large for the memory becomes a failure.
            token_budget: padded tokens a forward pass; None takes what suits the device.
            progress: told after every pass.
        """
        tokens, n_done = read.tokens, len(read.failures)
        parts, too_large, n = [], set[int](), len(read.tokens) + len(read.failures)
        shared = shared_prefix([t.ids for t in tokens], [t.content for t in tokens])
        lengths = [len(t.ids) - shared + shared // SHARED_WEIGHT for t in tokens]
        for batch in batches(lengths, token_budget or self.backbone.token_budget):
            for part in self._fitting(batch, tokens, shared):
                parts += [part] if isinstance(part, Entries) else []
                too_large |= {part} if isinstance(part, int) else set()
            n_done += len(batch)
            progress("encoding", n_done, n)
        return _without(Pooled(read.sample_ids, tokens, sort_entries(parts), read.failures), too_large)

    def _tokens(self, sample: Sample) -> Tokens:
        if self.settings.compat:
            return fac_tokens(self.template, sample)
        return self.template.tokenize(sample, self.roles, self.settings.max_tokens)

    def _fitting(self, batch: list[int], tokens: Sequence[Tokens], shared: int) -> Iterator[Entries | int]:
        """The codes of a batch, in halves of halves where it does not fit the memory; the index of what never fits."""
        try:
            yield self._pool_batch(batch, [tokens[i] for i in batch], shared)
            return
        except (MemoryError, RuntimeError) as err:
            if not is_out_of_memory(err):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(batch) == 1:
            yield batch[0]
        else:
            yield from self._fitting(batch[: len(batch) // 2], tokens, shared)
            yield from self._fitting(batch[len(batch) // 2 :], tokens, shared)

    def _pool_batch(self, indices: list[int], tokens: list[Tokens], shared: int) -> Entries:
        activations = self.backbone.activations([t.ids for t in tokens], [t.content for t in tokens], shared)
        counts = [int(t.content.sum()) for t in tokens]
        sample = np.repeat(np.array(indices), counts)
        position = np.concatenate([np.flatnonzero(t.content) for t in tokens])
        role = np.concatenate([t.role[t.content] for t in tokens])
        if self.settings.codes == "relu":
            return pool_dense(self.sae, activations, sample, role, position)
        return pool_codes(self.sae.encode(activations), sample, role, position)


def _without(pooled: Pooled, too_large: set[int]) -> Pooled:
    """The samples that did fit; the others are failures."""
    if not too_large:
        return pooled
    kept = [index for index in range(len(pooled.tokens)) if index not in too_large]
    failures = [
        Failure(pooled.sample_ids[i], f"out of memory: {len(pooled.tokens[i].ids)} tokens at once; lower max_tokens")
        for i in sorted(too_large)
    ]
    entries = pooled.entries._replace(sample=np.searchsorted(np.array(kept), pooled.entries.sample).astype(np.int64))
    return Pooled(
        [pooled.sample_ids[i] for i in kept], [pooled.tokens[i] for i in kept], entries, [*pooled.failures, *failures]
    )
