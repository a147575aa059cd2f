"""Which label a message has, by a logistic head on a frozen model's final states, trained on labelled ones.

Before: `model.final` computes the states. After: `label_check` compares what was written with what it was written as.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from facsynth.bins import Doubles, Floats
from facsynth.errors import InputError, missing_extra
from facsynth.tasks.toxicity import N_FOLDS, STRENGTHS

LEAST_ABOVE_CHANCE = 0.1
"""Balanced accuracy above that of a guess, under which a head knows nothing of the labels."""


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
    """On samples that were left out in training: the mean over labels of the share that is told right."""

    def names_of(self, states: Floats) -> list[str]:
        """The label of each state of [n, d]."""
        best = (states @ self.weights.T + self.bias).argmax(axis=1)
        return [self.names[index] for index in best.tolist()]


def fit_label_head(states: Floats, labels: Sequence[str]) -> LabelHead:
    """A head that counts every label the same, however frequent; its penalty is chosen over `N_FOLDS` folds.

    Args:
        states: [n, d], final states.
        labels: [n]

    Raises:
        InputError: fewer samples of a label than folds, or a head is hardly better than a guess.
        ModelError: scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415  (an extra)
        from sklearn.model_selection import GridSearchCV, StratifiedKFold  # noqa: PLC0415
        from sklearn.pipeline import make_pipeline  # noqa: PLC0415
        from sklearn.preprocessing import StandardScaler  # noqa: PLC0415
    except ImportError as err:
        raise missing_extra("scikit-learn", "downstream") from err
    counts = Counter(labels)
    if len(counts) < 2 or min(counts.values()) < N_FOLDS:
        told = ", ".join(f"{n} {name}" for name, n in sorted(counts.items())) or "none"
        raise InputError(
            f"labels can be checked where the anchor has {N_FOLDS} samples or more of two at least; it has {told}\n"
            "Label more of it, or leave accept.check_label out."
        )
    head = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2_000))
    folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=0)
    grid = {"logisticregression__C": STRENGTHS}
    search = GridSearchCV(head, grid, scoring="balanced_accuracy", cv=folds).fit(states, [*labels])
    scaler, logistic = (step for _, step in search.best_estimator_.steps)
    if search.best_score_ < 1 / len(counts) + LEAST_ABOVE_CHANCE:
        raise InputError(
            f"a head on the anchor cannot tell its labels apart: balanced accuracy {search.best_score_:.2f}, "
            f"a guess has {1 / len(counts):.2f}\nSee whether the labels are right, or leave accept.check_label out."
        )
    weights, bias = logistic.coef_, logistic.intercept_
    if len(counts) == 2:  # one row then, of the second label
        weights, bias = np.vstack([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    weights = weights / scaler.scale_
    names = tuple(logistic.classes_.tolist())
    numbers = tuple(counts[name] for name in names)
    return LabelHead(names, numbers, weights, bias - weights @ scaler.mean_, float(search.best_score_))
