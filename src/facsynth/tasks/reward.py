"""Reward modelling downstream: a Bradley-Terry head on a frozen model's final states, trained on pairs; accuracy.

Before: `model.final` computes the states, once. After: `evaluating` writes the figures down. Of RewardBench's subsets
the figure is the mean over its sections, each the mean over its subsets by their numbers of prompts
(github.com/allenai/reward-bench, rewardbench/constants.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from facsynth.bins import Doubles, Floats
from facsynth.errors import InputError, missing_extra
from facsynth.tasks.resample import Metric, mean_metric

N_FOLDS = 5
FEWEST = 2 * N_FOLDS
"""Pairs that a head is trained on."""
STRENGTHS = np.geomspace(1e-6, 1.0, 13)
"""Inverse strengths of the penalty that are tried, from strong to weak, on differences of unit mean square."""
SECTIONS: Mapping[str, Mapping[str, int]] = {
    "Chat": {
        "alpacaeval-easy": 100, "alpacaeval-length": 95, "alpacaeval-hard": 95, "mt-bench-easy": 28, "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37, "llmbar-natural": 100, "llmbar-adver-neighbor": 134, "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47, "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100, "refusals-offensive": 100, "xstest-should-refuse": 154,
        "xstest-should-respond": 250, "donotanswer": 136,
    },
    "Reasoning": {
        "math-prm": 984, "hep-cpp": 164, "hep-go": 164, "hep-java": 164, "hep-js": 164, "hep-python": 164,
        "hep-rust": 164,
    },
}  # fmt: skip
"""RewardBench's sections, and the weights of their subsets. math-prm has 447 prompts and weighs as much as all
code; the two of xstest, which have each other's numbers in some of its versions, have those of the data."""
SECTION_OF: Mapping[str, str] = {subset: section for section, subsets in SECTIONS.items() for subset in subsets}


def pair_scores(train: Floats, test: Floats, seeds: Sequence[int]) -> Doubles:
    """[n_seeds, n_test], how much better the chosen text is than the rejected one, by a Bradley-Terry head.

    A head that gives a text the reward w·x makes it log-odds w·(x_chosen - x_rejected) that the first is chosen: a
    logistic regression on differences, without intercept. The strength of its penalty is chosen by log loss over
    `N_FOLDS` folds, which the seed draws.

    Args:
        train: [n, d], final states of the chosen texts less those of the rejected ones; `FEWEST` of them or more.
        test: [n_test, d]
        seeds: of the folds.

    Raises:
        InputError: fewer pairs.
        ModelError: scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415  (an extra)
        from sklearn.model_selection import GridSearchCV, StratifiedKFold  # noqa: PLC0415
    except ImportError as err:
        raise missing_extra("scikit-learn", "downstream") from err
    check_enough(len(train), fewest=FEWEST)
    scale = np.sqrt(np.mean(np.square(train, dtype=np.float64), axis=0))
    scale[scale == 0] = 1
    # Without an intercept a difference that is turned round, with the other label, says the same; so half of them are,
    # and there are two labels.
    labels = np.arange(len(train)) % 2 == 0
    turned = np.where(labels, 1.0, -1.0)[:, None] * train / scale
    found = []
    for rng_seed in seeds:
        head = LogisticRegression(fit_intercept=False, max_iter=2_000)
        folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=rng_seed)
        search = GridSearchCV(head, {"C": STRENGTHS}, scoring="neg_log_loss", cv=folds).fit(turned, labels)
        found.append(test / scale @ search.best_estimator_.coef_[0])
    return np.array(found, np.float64).reshape(len(seeds), len(test))


def check_enough(n_pairs: int, *, fewest: int) -> None:
    """Refuse a training set of too few pairs.

    Raises:
        InputError: saying how many there are.
    """
    if n_pairs < fewest:
        raise InputError(f"the training set has {n_pairs} pairs, and {fewest} are needed\nGive more, or other files.")


def check_subsets(subsets: Sequence[str | None]) -> None:
    """Refuse test items of which some are RewardBench's and some are not: they make no figure together.

    Raises:
        InputError: naming one of the others.
    """
    others = sorted({subset or "none" for subset in subsets if subset not in SECTION_OF})
    if others and any(subset in SECTION_OF for subset in subsets):
        raise InputError(
            f"some test items have a subset of RewardBench's, and others have {others[0]}\n"
            "Measure them apart, each with a --test and a folder of its own."
        )


def metric(items: Sequence[Mapping[str, Any]]) -> Metric:
    """The share of pairs whose score is above 0, a tie counting one half; of RewardBench's subsets, over its sections.

    A subset that none of the drawn items is of counts nothing in its section; without any item of a section that the
    test items have, the figure is no number.
    """
    subsets: list[str] = [item.get("subset") or "" for item in items]
    names = sorted(set(subsets) & SECTION_OF.keys())
    if not names:
        return lambda scores, counts: mean_metric(_right(scores), counts)
    is_of = np.array([[subset == name for name in names] for subset in subsets], np.float64)
    sections = [section for section in SECTIONS if any(SECTION_OF[name] == section for name in names)]
    weights = np.array([[SECTIONS[section].get(name, 0) for name in names] for section in sections], np.float64)

    def mean_of_sections(scores: Doubles, counts: Doubles) -> Doubles:
        n = counts @ is_of
        accuracy = (counts * _right(scores)) @ is_of / np.maximum(n, 1)
        weight = (n > 0) @ weights.T
        of_sections = accuracy @ weights.T / np.maximum(weight, 1)
        return np.asarray(np.where((weight > 0).all(axis=1), of_sections.mean(axis=1), np.nan))

    return mean_of_sections


def _right(scores: Doubles) -> Doubles:
    return (np.sign(scores) + 1) / 2
