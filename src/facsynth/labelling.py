"""What a feature's samples are to be labelled: as the anchor samples that fire it are.

Before: an anchor whose rows have labels that the task knows. After: `planning` writes it into targets.json.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from facsynth.bins import Floats
from facsynth.errors import InputError
from facsynth.features.encoded import Encoded
from facsynth.incidence import joined
from facsynth.text.corpus import Corpus
from facsynth.text.labels import Label, name_of

OFTEN, FEWEST = 2.0, 3
"""Times as frequent, and samples, that make a feature one of a rare label."""


def read_labels(anchor: Corpus, names: Sequence[str]) -> dict[str, Label]:
    """The labels of an anchor's samples by their ids, as its rows spell them; samples without one are left out.

    Args:
        anchor: its rows.
        names: of the labels that the task knows.

    Raises:
        InputError: a label that is none of them.
    """
    found: dict[str, Label] = {}
    for sample, row in anchor.rows():
        label = row().get("label")
        if label is None or not str(label).strip():
            continue
        if name_of(label, names) is None:
            raise InputError(
                f"{sample.where or anchor.name}: the label {label!r} is none of the task's: {', '.join(names)}\n"
                "Give a task file of yours whose labels are those of the anchor, or rename the field."
            )
        found[sample.sample_id] = label
    return found


def labels_of_features(
    anchor: Encoded, labels: Mapping[str, Label], feature_ids: Sequence[int], thresholds: Floats
) -> dict[int, Label]:
    """Of each feature what its samples are to be labelled, by the anchor samples that fire it.

    The label that most of them have; but one that is `OFTEN` times as frequent among them as in the whole anchor, where
    there is one, so that a rare label has features too. Of two that are even the rarer one. Features that no labelled
    sample fires are left out.

    Args:
        anchor: encoded.
        labels: of its samples, by their ids.
        feature_ids: which features.
        thresholds: float32[d_sae], above which a feature fires.
    """
    in_order = np.array(sorted(set(feature_ids)), np.int64)
    firing, of = joined(anchor.incidence(in_order, thresholds)), {int(i, 16): label for i, label in labels.items()}
    found: dict[int, Counter[Label]] = {int(feature): Counter() for feature in in_order}
    for sample, column in zip(firing.sample.tolist(), firing.column.tolist(), strict=True):
        label = of.get(int(firing.ids[sample]))
        if label is not None:
            found[int(in_order[column])][label] += 1
    n_all = Counter(labels.values())
    return {feature: usual_label(own, n_all) for feature, own in found.items() if own}


def usual_label(firing: Mapping[Label, int], everywhere: Mapping[Label, int]) -> Label:
    """One of the labels of the samples that fire a feature, as `labels_of_features` says; both by number of samples."""

    def times(label: Label) -> float:
        """How often the label is found here for once in the whole anchor."""
        return firing[label] * sum(everywhere.values()) / (sum(firing.values()) * everywhere[label])

    often = [label for label in firing if times(label) >= OFTEN and firing[label] >= FEWEST]
    if often:
        return max(often, key=lambda label: (times(label), str(label)))
    return max(firing, key=lambda label: (firing[label], -everywhere[label], str(label)))
