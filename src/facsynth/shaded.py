"""`shading.jsonl`: of attempted features a text of the anchor and an accepted one, token by token; for the report.

Before: `pipeline` has encoded what was accepted. After: `report`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from facsynth.features.encode import FeatureSpace
from facsynth.features.encoded import Encoded
from facsynth.features.shading import shade
from facsynth.synthesis.requests import FeatureTask

MOST = 40
"""Features, in the order of the plan: each costs two texts to encode."""


def shading_rows(
    tasks: Sequence[FeatureTask], anchor: Encoded, accepted: Sequence[Encoded], exact: FeatureSpace
) -> Iterator[dict[str, Any]]:
    """Of each feature its highest text in either, as rows of the file."""
    for source, encoded in (("anchor", anchor), *(("accepted", part) for part in accepted)):
        wanted = [
            (task.feature_id, top[0].sample_id)
            for task in tasks[:MOST]
            if (top := encoded.profile.top_samples(task.feature_id))
        ]
        for one in shade(encoded, exact, wanted):
            yield {"feature": one.feature, "source": source, "sample_id": one.sample_id, "tokens": one.tokens}
