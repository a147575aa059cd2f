"""A run folder as a finished run leaves it, with invented texts: what the tests of the report read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from facsynth.coverage.plan import PlanRow, plan_text
from facsynth.store import write_json, write_jsonl, write_text
from facsynth.synthesis.accept import text_sha256
from facsynth.text.forms import to_sample

# fmt: off
# (text up to the firing token, firing token, a message that fires it)
TEXTS = [
    ("Preheat the oven to 180 °", "°", "How long does a tray of carrots need at 200 °C, and should the fan be on?"),
    ("My train leaves at quarter past six and the connection is only four minutes", " minutes",
     "The bus was late again. If I run, can I make the tram in three minutes, or is there a later one?"),
    ("The hinge on the left cupboard door has come loose, which screw", " screw",
     "Two of the boards creak at night. Would a longer screw through the joist help, or only glue?"),
    ("Could you put the second paragraph in a more formal tone", " tone",
     "Here is a note to my landlord. Please keep it short, but give it a friendlier tone than the last one."),
    ("We want to plant beans between the rows of maize in late April", " April",
     "Is it too early to sow lettuce outside in April if the nights still go down to four degrees?"),
    ("Write a haiku about the first snow", " snow",
     "Four lines for my daughter's birthday card, she loves sledding and the smell of snow."),
    ("What is the polite way to decline an invitation to a wedding", " wedding",
     "I am asked to speak at my cousin's wedding.\nHow do I begin without telling the one story everyone knows?"),
    ("Sort this list of dictionaries by the key", " key",
     "In Python, how do I merge two tables on a key that is a string in one and a number in the other?"),
]
NAMES = {"model": "SmolLM2-135M-Instruct", "sae": "facsynth-smollm2-l14", "hook_point": "layers.14",
         "seed": "seed.jsonl", "anchor": "anchor.jsonl"}
N_COVERED = 123
MEASURED = {"n_under": 11, "n_thin": 43, "threshold": "r0.5", "codes": "native", "form": "message", "min_support": 2,
            "relevance": "contrast", "ceiling": 0.986, "n_samples": 500, "n_tokens": 23417,
            "fingerprints": {"anchor": "5f2c" * 16, "seed": "a90e" * 16}, "under": [],
            "source": {"n_found": N_COVERED, "n_reachable": 171.4, "completeness": 0.97}}
Rows = list[dict[str, Any]]
RUNGS = [
    {"rung": rung, "n_candidates": n, "n_accepted": n // 9, "n_new": n // 9, "n_closed": n // 9,
     "prompt_tokens": 90 * n, "written_tokens": 24 * n}
    for rung, n in (("plain", 64), ("spans", 80), ("steered", 120))
]  # fmt: skip
LABEL_HEAD = {"balanced_accuracy": 0.803, "n": {"toxic": 1118, "not toxic": 2500}}
SCORES = {
    "written": {"n": 31, "marks": [0, 0, 9, 17, 5], "n_unscored": 0},
    "seed": {"n": 64, "marks": [1, 3, 20, 29, 10], "n_unscored": 1},
    "anchor": {"n": 64, "marks": [0, 2, 18, 30, 12], "n_unscored": 2},
}


def make_run(
    run: Path, n_features: int = 24, n_others: int = 70, edit: Callable[[str], str] = lambda text: text
) -> Path:
    """Write the folder: of `n_features` attempted every seventh is not recovered. `edit` changes every corpus text."""
    n = n_features + n_others
    ids = sorted(np.random.default_rng(7).choice(8192 if n <= 8192 else 65_536, n, replace=False).tolist())
    tried, others = ids[:n_features], ids[n_features:]
    lost = tried[2::7]
    texts = [tuple(edit(text) for text in TEXTS[n % len(TEXTS)]) for n in range(max(len(ids), len(TEXTS)))]
    attempted = [_target(n, feature, texts) for n, feature in enumerate(tried)]
    rows: dict[str, Rows] = {"samples": [], "provenance": [], "rejected": [], "gave_up": []}
    for n, target in enumerate(attempted):
        _fill(rows, target, texts[n], 0 if target["feature_id"] in lost else 1 + n % 2, 3 + n % 4)
    for name, table in rows.items():
        write_jsonl(run / f"{name}.jsonl", table)
    before = _coverage(run / "coverage/before.json", N_COVERED, ids, at_equal_tokens=0.537,
                       ceiling_at_equal_tokens=0.971, n_target_of_half=201, at_equal_samples=0.552,
                       notes=["the anchor is small"])  # fmt: skip
    after = _coverage(run / "coverage/after.json", N_COVERED + len(tried) - len(lost), sorted(lost + others))
    write_json(run / "targets.json", {"attempted": attempted, "rng_seed": 7, "n_planned": len(ids)})
    plan = [PlanRow(i, "missing", 2, 0.06 / (1 + n), 0.0, True, span=texts[n][0]) for n, i in enumerate(ids)]
    write_text(run / "plan.csv", plan_text(plan))
    (run / "facsynth.yaml").write_text("model: {name: embedded}\ndata: {seed: seed.jsonl, anchor: anchor.jsonl}\n")
    n_recovered = len(tried) - len(lost)
    write_json(run / "summary.json", {
        "before": before, "after": after, "n_missing": len(ids), "n_attempted": len(tried),
        "n_recovered": n_recovered, "recovered": n_recovered / max(len(ids), 1),
        "recovered_of_attempted": n_recovered / max(len(tried), 1), "recovered_chance": 0.383,
        "recovered_chance_tokens": 0.417, "n_accepted": len(rows["samples"]),
        "n_rejected": dict(Counter(row["reason"] for row in rows["rejected"])), "n_gave_up": len(lost),
        "n_gave_up_recovered": 0,
        "writer_calls": 288, "writer_tokens": 48213,
        "progress": [[0, 0, 0, 0], [9_000, n_recovered // 2, 80, 12], [47_000, n_recovered, 288, 31]],
        "n_selected": 0, "rungs": RUNGS, "scores": SCORES, "label_head": LABEL_HEAD,
        "n_control": 29, "control_tokens": 1044, "accepted_per_1000_tokens": 0.4,
        "chance_extrapolated": [False, True], "stop_reason": "every feature tried", "seconds": 214.0, "money": 0.42,
        "names": NAMES,
    })
    return run


def _target(n: int, feature: int, texts: list[tuple[str, ...]]) -> dict[str, Any]:
    threshold = 2.0 + n % 7
    shown = [texts[(n + k) % len(TEXTS)] for k in (0, 3, 5)]
    spans = [{"text": text, "token": token, "activation": threshold * 1.7, "sample_id": f"{n:016x}", "position": 12}
             for text, token, _ in shown]
    return {"feature_id": feature, "threshold": threshold, "anchor_rate": 0.061 / (1 + n), "seed_rate": 0.0,
            "kind": "missing", "n_wanted": 2, "strength": 0.4, "spans": spans}


def _fill(
    rows: dict[str, Rows], target: dict[str, Any], texts: tuple[str, ...], n_accepted: int, n_rejected: int
) -> None:
    feature, threshold = target["feature_id"], target["threshold"]
    _, token, message = texts
    for k in range(n_accepted):
        rows["samples"].append({"messages": [{"role": "user", "content": message}]})
        read_back = to_sample(rows["samples"][-1], "message").sample.text
        rows["provenance"].append({
            "sample_id": f"{len(rows['samples']):016x}", "text_sha256": text_sha256(read_back),
            "source": "written",
            "feature": feature, "written_for": feature, "fires": [feature], "threshold": threshold,
            "activation": threshold * (1.1 + feature % 13 / 9 + 0.05 * k),
            "position": 9, "span": message[: message.find(token) + len(token)], "explanation": "", "pair": None,
            "steering": {str(feature): 0.4}, "writer": "embedded", "prompt_hash": "0" * 16, "model": NAMES["model"],
            "sae": NAMES["sae"], "form": "message", "codes": "native", "rng_seed": 0,
        })
    for k in range(n_rejected):
        reason = ("does not fire", "does not fire", "too similar", "cut off")[k % 4]
        rows["rejected"].append({"feature": feature, "reason": reason, "text": message, "activation": 1.0,
                                 "threshold": threshold})
    if not n_accepted:
        rows["gave_up"].append({"feature": feature, "reason": "cap of 12 candidates", "n_candidates": 12,
                                "best_activation": threshold * 0.81, "threshold": threshold})


def _coverage(path: Path, n_covered: int, missing: list[int], **more: Any) -> float:
    value = n_covered / (n_covered + len(missing))
    counts = {"value": value, "n_target": n_covered + len(missing), "n_covered": n_covered, "n_missing": len(missing),
              "missing": missing, "ci95": [max(0.0, value - 0.05), min(1.0, value + 0.05)]}
    write_json(path, MEASURED | counts | more)
    return value
