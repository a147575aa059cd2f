"""Clusters of a sentence encoder in place of features: what is missing, what is shown for it, and what is dropped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from facsynth.baselines.dense_clusters import ELSEWHERE, N_SHOWN, poorest
from facsynth.baselines.frame import REJECTED, SAMPLES, Cap
from facsynth.records import Request
from facsynth.store import read_jsonl
from rivals import WORDS, given, written

GROUPS = [WORDS[:9], WORDS[9:18]]


def text(group: int, n: int) -> str:
    rng = np.random.default_rng([group, n])
    return f"the {' '.join(rng.permutation(GROUPS[group])[:7].tolist())} of my day"


SHOWN = tuple(text(group, n) for group in (0, 1) for n in range(5))


def test_clusters_without_a_text_are_missing_or_else_the_poorest() -> None:
    assert poorest(np.array([0, 0, 2], np.int64), 4).tolist() == [1, 3]
    assert poorest(np.array([0, 1, 1, 0, 2], np.int64), 3).tolist() == [2]
    assert poorest(np.array([], np.int64), 3).tolist() == [0, 1, 2]


def test_only_what_is_missing_is_shown_and_what_falls_elsewhere_is_dropped(tmp_path: Path) -> None:
    def answer(request: Request) -> str:
        n = request.sample_index
        return f" {text(1, 100 + n)}\n7. {text(0, 100 + n)}\n8. cut"

    what = replace(given(), shown=SHOWN, have=(text(0, 50), text(0, 51)))
    manifest, asked = written(tmp_path / "a", "dense-clusters", Cap(12), answer, what)
    assert manifest["n_accepted"] == 12
    for request in asked:
        prompt = request.messages[-1].content
        shown = [one for one in SHOWN if one in prompt]
        assert shown and set(shown) <= set(SHOWN[5:]) and len(shown) <= N_SHOWN, "the other cluster has its texts"
    assert all(
        set(row["messages"][0]["content"].split()[1:8]) <= set(GROUPS[1])
        for row in read_jsonl(tmp_path / "a" / SAMPLES)
    )
    assert ELSEWHERE in {row["reason"] for row in read_jsonl(tmp_path / "a" / REJECTED)}
