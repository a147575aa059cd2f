"""What a feature's samples are to be labelled: as the anchor samples that fire it are.

Before: an anchor whose rows have labels that the task knows. After: `planning` writes it into targets.json.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import hypergeom

from facsynth.bins import Floats
from facsynth.errors import InputError
from facsynth.features.encoded import Encoded
from facsynth.incidence import joined
from facsynth.text.corpus import Corpus
from facsynth.text.labels import Label, name_of
from facsynth.text.layouts import RowError

OFTEN, LEVEL = 2.0, 0.01
"""Times as frequent, and by chance as seldom, as makes a feature one of a rare label."""


def read_labels(anchor: Corpus, names: Sequence[str]) -> dict[str, Label]:
    """The labels of an anchor's samples by their ids, each as most of its rows spell it; samples without are left out.

    Args:
        anchor: its rows.
        names: of the labels that the task knows.

    Raises:
        InputError: a label that is none of them.
    """
    found: dict[str, str] = {}
    spelt = Counter[tuple[str, Label]]()
    for sample, row in anchor.rows():
        try:
            label = row().get("label")
        except RowError:  # its other turns are no texts
            continue
        if label is None or not str(label).strip():
            continue
        if (name := name_of(label, names)) is None:
            raise InputError(
                f"{sample.where or anchor.name}: the label {label!r} is none of the task's: {', '.join(names)}\n"
                "Give a task file of yours whose labels are those of the anchor, or rename the field."
            )
        found[sample.sample_id] = name
        spelt[name, label] += 1
    spelling = {name: label for (name, label), _ in reversed(spelt.most_common())}
    return {sample_id: spelling[name] for sample_id, name in found.items()}


def labels_of_features(
    anchor: Encoded, labels: Mapping[str, Label], feature_ids: Sequence[int], thresholds: Floats
) -> dict[int, Label]:
    """Of each feature what its samples are to be labelled, by the anchor samples that fire it.

    The label that most of them have; but one that is `OFTEN` times as frequent among them as in the whole anchor, and
    not by chance, where there is one: so a rare label has features too. Of two that are even the rarer one. Features
    that no labelled sample fires are left out.

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
    n_firing, n_all = sum(firing.values()), sum(everywhere.values())

    def times(label: Label) -> float:
        """How often the label is found here for once in the whole anchor."""
        return firing[label] * n_all / (n_firing * everywhere[label])

    def by_chance(label: Label) -> float:
        """Probability of so many among as many samples of the anchor, drawn at random."""
        return float(hypergeom.sf(firing[label] - 1, n_all, everywhere[label], n_firing))

    often = [label for label in firing if times(label) >= OFTEN and by_chance(label) <= LEVEL]
    if often:
        return max(often, key=lambda label: (times(label), str(label)))
    return max(firing, key=lambda label: (firing[label], -everywhere[label], str(label)))
