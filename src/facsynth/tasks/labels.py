"""Which label a message has, by a logistic head on a frozen model's final states, trained on labelled ones.

Before: `model.final` computes the states. After: `label_check` compares what was written with what it was written as.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from facsynth.bins import Doubles, Floats
from facsynth.errors import InputError
from facsynth.tasks.toxicity import N_FOLDS, head_search

ABOVE_CHANCE, DEVIATIONS = 0.1, 3.0
"""Balanced accuracy above that of a guess, and in standard deviations of a guess, under which a head knows nothing."""


class LabelHead(NamedTuple):
    """A linear head: the label with the largest weights · state + bias."""

    names: tuple[str, ...]
    counts: tuple[int, ...]
    """Of each, the samples that it was trained on."""
    weights: Doubles
    """[n_labels, d]"""
    bias: Doubles
    """[n_labels]"""
    balanced_accuracy: float
    """On samples left out in training, the mean over labels of the share that is told right; of the best penalty."""

    def names_of(self, states: Floats) -> list[str]:
        """The label of each state of [n, d]."""
        best = (states @ self.weights.T + self.bias).argmax(axis=1)
        return [self.names[index] for index in best.tolist()]


def open_search(counts: Mapping[str, int]) -> Any:
    """`head_search` for labels of which there are enough.

    Args:
        counts: samples of each label.

    Raises:
        InputError, ModelError: as `fit_label_head`, but for how good the head is.
    """
    if len(counts) < 2 or min(counts.values()) < N_FOLDS:
        told = ", ".join(f"{n} {name}" for name, n in sorted(counts.items())) or "none"
        raise InputError(
            f"labels are checked where there are two or more, each of {N_FOLDS} samples or more; there are {told}\n"
            "Label more of it, or leave accept.check_label out."
        )
    return head_search("balanced_accuracy", 0)


def fit_label_head(states: Floats, labels: Sequence[str]) -> LabelHead:
    """A head that counts every label the same, however frequent; its penalty is chosen over `N_FOLDS` folds.

    Args:
        states: [n, d], final states.
        labels: [n]

    Raises:
        InputError: one label alone, fewer samples of one than folds, or a head that is hardly better than a guess.
        ModelError: scikit-learn is not installed.
    """
    counts = Counter(labels)
    search = open_search(counts).fit(states, [*labels])
    chance = 1 / len(counts)
    deviation = chance * np.sqrt(sum(chance * (1 - chance) / n for n in counts.values()))
    if search.best_score_ < chance + max(ABOVE_CHANCE, DEVIATIONS * deviation):
        raise InputError(
            f"a head on the anchor cannot tell its labels apart: balanced accuracy {search.best_score_:.2f}, "
            f"a guess has {chance:.2f}\nSee whether the labels are right, label more, or leave accept.check_label out."
        )
    scaler, logistic = (step for _, step in search.best_estimator_.steps)
    weights, bias = logistic.coef_, logistic.intercept_
    if len(counts) == 2:  # one row then, of the second label
        weights, bias = np.vstack([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    weights = weights / scaler.scale_
    names = tuple(logistic.classes_.tolist())
    numbers = tuple(counts[name] for name in names)
    return LabelHead(names, numbers, weights, bias - weights @ scaler.mean_, float(search.best_score_))
