"""What the per-sample form takes on disk, and what encoding again costs when 1 % of the corpus has changed."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

from figures import REPEATS, CheckError, Row, interleaved
from parts import anchor_samples, open_embedded

from facsynth.features.encoded import Encoded, encode, settings_of
from facsynth.features.reuse import Known
from facsynth.records import Message, Sample
from facsynth.text.corpus import Corpus


def rows(quick: bool) -> list[Row]:
    """Gigabytes for 10M content tokens, and the share of the cost."""
    samples = _varied(anchor_samples(24 if quick else 500), 1 if quick else 4)
    space, numbers = open_embedded(), itertools.count()
    n_changed = max(1, round(len(samples) / 100))
    step = len(samples) // n_changed
    changed = [Sample((Message("user", f"{s.text} Thanks!"),)) if i % step == 0 else s for i, s in enumerate(samples)]
    with tempfile.TemporaryDirectory() as folder:
        first = encode(Corpus.of(samples), space, Path(folder, "first"))

        def again(reuse: list[Path]) -> Encoded:
            known = Known(reuse, settings_of(space))
            return encode(Corpus.of(changed), space, Path(folder, str(next(numbers))), known=known)

        _check(first, again([first.folder]), {s.sample_id for s in samples} & {s.sample_id for s in changed})
        ways = {"all": lambda: again([]), "reused": lambda: again([first.folder])}
        seconds = {"all": interleaved({"all": ways["all"]}, 1)["all"]}
        seconds |= interleaved({"reused": ways["reused"]}, 1 if quick else REPEATS)
        n_bytes = sum(path.stat().st_size for path in first.folder.glob("shards/*.parquet"))
    gigabytes = n_bytes * 1e7 / first.profile.n_tokens / 1e9
    share = n_changed / len(samples)
    return [
        Row("disk for 10M content tokens", "GB", (gigabytes,), at_most=0.5,
            note=f"disk: from {first.profile.n_tokens} content tokens in {len(samples)} samples"),
        Row(f"encoding again with {share:.1%} changed", "s", tuple(seconds["reused"]), "encoding all",
            tuple(seconds["all"]), at_most=0.03),
    ]  # fmt: skip


def _varied(samples: Sequence[Sample], times: int) -> list[Sample]:
    """Each sample, and again with another ending."""
    endings = ("", " Please be brief.", " Answer in one sentence.", " Thank you.")[:times]
    return [Sample((Message("user", sample.text + ending),)) for ending in endings for sample in samples]


def _check(first: Encoded, again: Encoded, kept: set[str]) -> None:
    """Samples that did not change have the rows they had."""
    before, after = ({r["sample_id"]: r for shard in e.shards() for r in shard.to_pylist()} for e in (first, again))
    if len(before) != len(after) or any(before[sample_id] != after[sample_id] for sample_id in kept):
        raise CheckError("encoding again: samples that did not change are not what they were")
