"""How strongly each token of a text fires a feature: for a reader's eyes.

Before: `features.encoded`. After: the report shades tokens by it. Nothing is decided on these figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from facsynth.features.encode import FeatureSpace
from facsynth.features.encoded import Encoded

BEFORE, AFTER = 160, 80
"""Content tokens around the one that fires most."""
AT_ONCE = 32
"""Texts of a forward pass."""


class Shaded(NamedTuple):
    """A text, or the part of it around the token that fires most."""

    feature: int
    sample_id: str
    tokens: list[tuple[str, float]]
    """(text, activation), content tokens only, a blank line before a further message's first; put together, the texts
    are the sample's.
    """


class _Row(NamedTuple):
    feature: int
    sample_id: str
    ids: npt.NDArray[np.int32]
    roles: npt.NDArray[np.uint8]

    @property
    def content(self) -> npt.NDArray[np.bool_]:
        return self.roles > 0


def shade(encoded: Encoded, space: FeatureSpace, wanted: Sequence[tuple[int, str]]) -> list[Shaded]:
    """Activations at every content token, of samples that were encoded.

    Args:
        encoded: where the samples are.
        space: theirs.
        wanted: (feature, sample id); those that are not there are passed over.
    """
    rows = _found(encoded, wanted)
    rows.sort(key=lambda row: len(row.ids))
    shaded = []
    for start in range(0, len(rows), AT_ONCE):
        part = rows[start : start + AT_ONCE]
        activations = space.backbone.activations([row.ids for row in part], [row.content for row in part])
        codes, first = space.sae.encode(activations, space.settings.codes), 0
        token, feature, act = (column.cpu().numpy() for column in (codes.token, codes.feature, codes.act))
        for row in part:
            n = int(row.content.sum())
            inside = (feature == row.feature) & (token >= first) & (token < first + n)
            values = np.zeros(n)
            values[token[inside] - first] = act[inside]
            shaded.append(Shaded(row.feature, row.sample_id, _window(row, values, space.backbone.tokenizer)))
            first += n
    order = {pair: n for n, pair in enumerate(wanted)}
    return sorted(shaded, key=lambda one: order[one.feature, one.sample_id])


def _found(encoded: Encoded, wanted: Sequence[tuple[int, str]]) -> list[_Row]:
    features: dict[str, list[int]] = {}
    for feature, sample_id in wanted:
        features.setdefault(sample_id, []).append(feature)
    rows = []
    for table in encoded.shards(["sample_id", "token_ids", "token_role"]):
        for place, sample_id in enumerate(table["sample_id"].to_pylist()):
            if sample_id not in features:
                continue
            ids, roles = (table[name][place].values.to_numpy() for name in ("token_ids", "token_role"))
            rows += [_Row(feature, sample_id, ids.copy(), roles.copy()) for feature in features.pop(sample_id)]
    return rows


def _window(row: _Row, values: npt.NDArray[np.float64], tokenizer: Any) -> list[tuple[str, float]]:
    """The tokens around the highest one, each as what it adds to the text."""
    places, peak = np.flatnonzero(row.content), int(values.argmax())
    ids, roles = row.ids[places], row.roles[places]
    # Between messages lie the tokens of the template; a single one that lies inside of a message is no end of it.
    is_first = np.r_[False, (np.diff(places) > 2) | (np.diff(roles.astype(int)) != 0)]
    start, end = max(0, peak - BEFORE), min(len(ids), peak + AFTER)
    tokens: list[tuple[str, float]] = []
    begun, settled = start, ""
    for stop in range(start, end):
        if is_first[stop] and stop > start:
            begun, settled = stop, ""
        text = tokenizer.decode(ids[begun : stop + 1], clean_up_tokenization_spaces=False)
        is_part = (
            text.endswith("\ufffd") and stop + 1 < end and not is_first[stop + 1]
        )  # of a letter that the next token completes
        added, settled = ("", settled) if is_part else (text[len(settled) :], text)
        if stop == begun and begun > start:
            added = f"\n\n{added}"
        tokens.append((added, round(float(values[stop]), 4)))
    return tokens
