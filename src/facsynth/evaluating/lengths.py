"""Judges favour long answers: how long they are, and the win rate that answers of equal length would have.

Before: preferences of `tasks.instruction`. After: `instruction` writes both beside the win rate.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from facsynth.bins import Doubles
from facsynth.errors import InputError

FEWEST = 200
"""Items: its penalty draws the value of fewer towards 0.5, of 24 and 60 by up to 0.05, of 200 by up to 0.02."""
INSTALL = "pip install 'facsynth[downstream]' 'setuptools<81'"
"""alpaca-eval 0.6.6 needs pkg_resources, which newer setuptools lack, and does not say so."""


def n_words(texts: Sequence[str]) -> float:
    """Mean number of words."""
    return float(np.mean([len(text.split()) for text in texts])) if texts else 0.0


def length_controlled(preferences: Doubles, ours: Sequence[str], reference: Sequence[str]) -> float:
    """The win rate at equal length, by the package alpaca-eval: its regression `length_controlled_minimal`.

    Preference is regressed on tanh of the difference in characters, in units of its standard deviation, and a constant;
    the value is that at no difference. AlpacaEval's own leaderboard adds the difficulty of its 805 instructions for
    GPT-4, which are on the Hub, and holds for them and for that judge alone: it is had with
    `alpaca_eval --model_outputs outputs-0.json`.

    Args:
        preferences: [n] in [0, 1], none missing.
        ours: answers, in the same order.
        reference: the others' answers.

    Raises:
        InputError: the package is not installed, or there is too little to fit.
    """
    try:
        with warnings.catch_warnings():  # of pkg_resources
            warnings.simplefilter("ignore")
            import pandas as pd  # noqa: PLC0415  (extras)
            import sklearn  # noqa: PLC0415
            from alpaca_eval.metrics import glm_winrate as glm  # noqa: PLC0415
    except ImportError as err:
        raise InputError(f"it needs alpaca-eval, and {err.name} is not installed: {INSTALL}") from err
    apart = np.array([len(a) - len(b) for a, b in zip(ours, reference, strict=True)], np.float64)
    if len(apart) < FEWEST or apart.std() == 0:
        raise InputError(f"it needs {FEWEST} items or more, with answers of different lengths")
    table = pd.DataFrame({
        "preference": preferences, "std_delta_len": apart / apart.std(ddof=1), "not_gamed_baseline": True,
    })  # fmt: skip
    equal = table[["not_gamed_baseline"]].assign(std_delta_len=0.0)
    how: dict[str, Any] = glm.GLM_INFO["length_controlled_minimal"]
    with warnings.catch_warnings(), sklearn.config_context():  # it turns metadata routing on and leaves it so
        warnings.simplefilter("ignore")
        fitted, asked = glm.make_dmatrix_for_model(table, equal, formula=how["formula"])
        model = glm.fit_LogisticRegressionCV(fitted, "preference", is_ytrue_proba=True, **how["kwargs"])
    return float(model.predict_proba(asked)[:, 1].mean())
