"""What travels between this process and the actors on Ray: facts about a feature space, pooled shards, errors.

Before: `features.encode` and `features.shards`. After: `features.ray`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import torch
import transformers

from facsynth import __version__, errors
from facsynth.errors import FacsynthError, ModelError
from facsynth.features.encode import FeatureSpace
from facsynth.records import Failure


@dataclass(frozen=True)
class SpaceFacts:
    """What a node found its feature space to be; what of it is written down, without the model."""

    identity: Mapping[str, str]
    """As of `FeatureSpace`, and so are the next three."""
    precision: str
    d_sae: int
    form: str
    versions: Mapping[str, str]
    """Of the packages that codes depend on."""
    node: str
    notes: tuple[str, ...]
    """On its SAE."""

    @classmethod
    def of(cls, space: FeatureSpace, node: str, notes: Sequence[str] = ()) -> SpaceFacts:
        """Of a space that was opened on `node`."""
        versions = {"facsynth": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
        return cls(
            dict(space.identity), space.precision, space.d_sae, space.form, versions, node, (*space.sae.notes, *notes)
        )

    def check(self, other: SpaceFacts) -> None:
        """Refuse the space of another node that is not the same.

        Raises:
            ModelError: naming both nodes and the first difference.
        """
        mine, others = self._flat(), other._flat()
        for key in mine:
            if mine[key] != others.get(key):
                raise ModelError(
                    f"two nodes of the Ray cluster differ in {key}\n"
                    f"  {self.node}  {mine[key]}\n  {other.node}  {others.get(key, 'none')}\n"
                    "Install the same packages and files on both, and name the precision with --dtype."
                )

    def _flat(self) -> dict[str, str]:
        versions = {f"version of {name}": version for name, version in self.versions.items()}
        return {"precision": self.precision, "d_sae": str(self.d_sae), **versions, **self.identity}


class Result(NamedTuple):
    """What comes back for a shard."""

    number: int
    table: pa.Table
    failures: list[Failure]


def packed(err: FacsynthError) -> str:
    """An error as text; as an exception it would arrive as a traceback of Ray's."""
    return json.dumps({"kind": type(err).__name__, "message": str(err)})


def unpacked(text: str) -> FacsynthError:
    """The same kind with the same message."""
    found = json.loads(text)
    kind: type[FacsynthError] = getattr(errors, found["kind"])
    return kind(found["message"])
