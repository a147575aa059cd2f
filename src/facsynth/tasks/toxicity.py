"""Toxicity detection downstream: a head on a frozen model's final states, trained on labelled messages; AUPRC.

Before: `model.final` computes the states, once. After: `evaluating` writes the figures down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from facsynth.bins import Doubles, Floats
from facsynth.errors import InputError, missing_extra
from facsynth.tasks.resample import Metric

N_FOLDS = 5
STRENGTHS = np.geomspace(1e-5, 1.0, 11)
"""Inverse strengths of the penalty that are tried, from strong to weak, on states of unit variance."""
Labels = npt.NDArray[np.bool_]


def check_both_kinds(labels: Labels, name: str, *, fewest: int = 1) -> None:
    """Refuse data of one label, or with fewer of a label than `fewest`.

    Raises:
        InputError: saying how many there are of each.
    """
    n_wanted = int(labels.sum())
    n_others = len(labels) - n_wanted
    if min(n_wanted, n_others) < fewest:
        raise InputError(
            f"{name} has {n_wanted} positive and {n_others} other samples, and {fewest} of each are needed\n"
            "Labels are read from the field `label`: 1 or 0, true or false, or words (--label names the positive one)."
        )


def head_scores(train: Floats, labels: Labels, test: Floats, seeds: Sequence[int]) -> Doubles:
    """[n_seeds, n_test], the probability of the label, by a logistic head.

    The strength of its penalty is chosen by average precision over `N_FOLDS` folds, which the seed draws: a head itself
    has one best solution, and no seed.

    Args:
        train: [n, d], final states.
        labels: [n]
        test: [n_test, d]
        seeds: of the folds.

    Raises:
        ModelError: scikit-learn is not installed.
    """
    found = [
        head_search("average_precision", rng_seed).fit(train, labels).predict_proba(test)[:, 1] for rng_seed in seeds
    ]
    return np.array(found, np.float64).reshape(len(seeds), len(test))


def head_search(scoring: str, rng_seed: int) -> Any:
    """scikit-learn's search, still to be fitted, for the penalty of a logistic head that counts every label the same.

    Args:
        scoring: what is best over `N_FOLDS` folds, by scikit-learn's name.
        rng_seed: draws the folds.

    Raises:
        ModelError: scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415  (an extra)
        from sklearn.model_selection import GridSearchCV, StratifiedKFold  # noqa: PLC0415
        from sklearn.pipeline import make_pipeline  # noqa: PLC0415
        from sklearn.preprocessing import StandardScaler  # noqa: PLC0415
    except ImportError as err:
        raise missing_extra("scikit-learn", "downstream") from err
    head = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2_000))
    folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=rng_seed)
    return GridSearchCV(head, {"logisticregression__C": STRENGTHS}, scoring=scoring, cv=folds)


def metric(items: Sequence[Mapping[str, Any]]) -> Metric:
    """Average precision on test items by their `label`, Σ (R_k - R_k-1) P_k over distinct scores; as scikit-learn's.

    No number where none or all of the drawn are positive.
    """
    labels = np.array([item["label"] for item in items], np.float64)

    def auprc(scores: Doubles, counts: Doubles) -> Doubles:
        order = np.argsort(-scores, kind="stable")
        ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))
        drawn = counts[:, order]
        n_found = (drawn * labels[order]).cumsum(axis=1)[:, ends]
        n_taken = drawn.cumsum(axis=1)[:, ends]
        n_positive = n_found[:, -1]
        gains = np.diff(n_found, axis=1, prepend=0.0) / np.maximum(n_positive, 1)[:, None]
        found = (gains * n_found / np.maximum(n_taken, 1)).sum(axis=1)
        return np.asarray(np.where((n_positive > 0) & (n_positive < n_taken[:, -1]), found, np.nan))

    return auprc
