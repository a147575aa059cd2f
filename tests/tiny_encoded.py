"""Feature spaces and corpora to encode into small shards; what came of it, row by row and pass by pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tiny
from facsynth.features.encode import EncodeSettings, FeatureSpace
from facsynth.features.encoded import Encoded
from facsynth.model.backbone import Backbone
from facsynth.records import Message, Sample
from facsynth.text.corpus import Corpus

SHARD = 4


def space_of(backbone: Backbone, **settings: Any) -> FeatureSpace:
    return FeatureSpace(backbone, tiny.random_sae(), EncodeSettings(**{"form": "chat"} | settings))


def corpus_of(samples: list[Sample], name: str = "corpus") -> Corpus:
    return Corpus.of(samples, name=name, form="chat")


def special(index: int = 0) -> Sample:
    return Sample((Message("user", "<|im_end|>" * (index + 1)), Message("assistant", "</s>")))


def rows(found: Encoded) -> list[dict[str, Any]]:
    return [row for table in found.shards() for row in table.to_pylist()]


@contextmanager
def counted(backbone: Backbone) -> Iterator[list[int]]:
    """Sequences a forward pass, for each pass."""
    passes: list[int] = []
    first = backbone.model.base_model.layers[0]
    handle = first.register_forward_pre_hook(lambda module, inputs: passes.append(len(inputs[0])))
    yield passes
    handle.remove()
