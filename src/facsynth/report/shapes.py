"""What the files of a run hold, as far as anything is read from them: checked once, so that readers need no guards.

Only what is relied on is listed; a file may hold more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from facsynth.errors import InputError
from facsynth.store import RESTORE, read_json, read_jsonl
from facsynth.text.layouts import kind_of

CURVES, CURVES_AFTER, MAP = "coverage/curves.json", "coverage/curves_after.json", "coverage/map.json"
"""Where the curves of a run are, and its features in two dimensions."""
UNDER = "coverage/under.json"
"""Where the under-represented features are, which the plan of a small seed set leaves out."""
SHADING = "shading.jsonl"
"""Where texts are token by token."""
LARGEST = 1e300
"""Beyond it a number is a damaged one: it could not be calculated with."""
Check = Callable[[Any], bool]
Shape = Mapping[str, Check]
"""The fields that must be there, each with what its value must be."""


def misfit(value: Mapping[str, Any], shape: Shape) -> str:
    """The first field that is not what it should be, in words; empty where all are."""
    for key, fits in shape.items():
        if key not in value:
            return f"there is no {key}"
        if not fits(value[key]):
            found = value[key]
            return f"{key} is {kind_of(found) if isinstance(found, list | dict) else json.dumps(found)[:60]}"
    return ""


def read_object(path: Path, shape: Shape) -> dict[str, Any]:
    """Read a JSON object that has this shape.

    Raises:
        InputError: not there, not JSON, or a field is not what it should be.
    """
    value = read_json(path)
    if found := misfit(value, shape):
        raise InputError(f"{path} does not hold what it should: {found}\n{RESTORE}")
    return value


def read_rows(path: Path, shape: Shape) -> list[dict[str, Any]]:
    """Read a jsonl file whose rows have this shape, as `read_object`; one that is not there is an empty one."""
    rows = read_jsonl(path)
    for number, row in enumerate(rows, start=1):
        if found := misfit(row, shape):
            raise InputError(f"{path} does not hold what it should: row {number}, {found}\n{RESTORE}")
    return rows


def is_text(value: Any) -> bool:
    """A string."""
    return isinstance(value, str)


def is_number(value: Any) -> bool:
    """A finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def is_count(value: Any) -> bool:
    """A whole number from 0 on: a count, or a feature id."""
    return is_number(value) and isinstance(value, int) and value >= 0


def is_above_0(value: Any) -> bool:
    """A number that has a logarithm."""
    return is_number(value) and value > 0


def is_share(value: Any) -> bool:
    """A number in [0, 1]."""
    return is_number(value) and 0 <= value <= 1


def is_flag(value: Any) -> bool:
    """True or false."""
    return isinstance(value, bool)


def or_null(check: Check) -> Check:
    """It, or null: nothing was measured."""
    return lambda value: value is None or check(value)


def list_of(check: Check, n: int | None = None) -> Check:
    """A list, of `n` items where that is said."""
    return lambda value: isinstance(value, list) and n in (None, len(value)) and all(map(check, value))


def map_of(check: Check) -> Check:
    """An object, whatever its keys."""
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def object_of(shape: Shape) -> Check:
    """An object with these fields."""
    return lambda value: isinstance(value, dict) and not misfit(value, shape)


RUNG: Shape = {
    "rung": is_text,
    **dict.fromkeys(("n_candidates", "n_accepted", "n_new", "n_closed", "prompt_tokens", "written_tokens"), is_count),
}
SCORED: Shape = {"n": is_count, "n_unscored": is_count, "marks": list_of(is_count, 5)}
OF_LABEL_HEAD: Shape = {"balanced_accuracy": is_share, "n": map_of(is_count)}
SUMMARY: Shape = {
    **dict.fromkeys(("before", "after"), is_share),
    **dict.fromkeys(("recovered_of_attempted", "recovered_chance", "recovered_chance_tokens"), or_null(is_share)),
    **dict.fromkeys(("n_missing", "n_attempted", "n_recovered", "n_accepted", "n_gave_up", "n_control"), is_count),
    **dict.fromkeys(("n_selected", "n_gave_up_recovered"), is_count),
    "rungs": list_of(object_of(RUNG)),
    "scores": or_null(map_of(object_of(SCORED))),
    "label_head": or_null(object_of(OF_LABEL_HEAD)),
    **dict.fromkeys(("writer_calls", "writer_tokens", "control_tokens"), is_count),
    **dict.fromkeys(("accepted_per_1000_tokens", "seconds"), is_number),
    "money": or_null(is_number),
    "chance_extrapolated": or_null(list_of(is_flag)),
    "n_rejected": map_of(is_count),
    "progress": list_of(list_of(is_count, 4)),
    "names": map_of(is_text),
    "stop_reason": is_text,
}
AFTER: Shape = {
    "value": is_share,
    "ceiling": or_null(is_share),
    "ci95": or_null(list_of(is_share, 2)),
    **dict.fromkeys(("n_target", "n_covered", "n_missing", "n_under", "n_thin"), is_count),
    **dict.fromkeys(("min_support", "n_samples", "n_tokens"), is_count),
    **dict.fromkeys(("missing", "under"), list_of(is_count)),
    **dict.fromkeys(("threshold", "relevance", "codes", "form"), is_text),
    "fingerprints": map_of(is_text),
}
SOURCE: Shape = {"n_found": is_count, "n_reachable": is_number, "completeness": or_null(is_share)}
BEFORE: Shape = {
    **AFTER,
    "source": object_of(SOURCE),
    "n_target_of_half": or_null(is_count),
    **dict.fromkeys(("at_equal_samples", "at_equal_tokens", "ceiling_at_equal_tokens"), or_null(is_share)),
    "notes": list_of(is_text),
}
TARGETS: Shape = {
    "rng_seed": is_count,
    "n_planned": is_count,
    "attempted": list_of(
        object_of({
            **dict.fromkeys(("feature_id", "n_wanted"), is_count),
            **dict.fromkeys(("anchor_rate", "seed_rate"), is_share),
            "threshold": is_number,
            "kind": is_text,
            "spans": list_of(object_of({"text": is_text, "token": is_text, "activation": is_number})),
        })
    ),
}  # fmt: skip
PROVENANCE: Shape = {
    "feature": is_count,
    "written_for": or_null(is_count),
    **dict.fromkeys(("threshold", "activation"), is_number),
    **dict.fromkeys(("sample_id", "span", "form", "source", "text_sha256"), is_text),
    "fires": list_of(is_count),
    "explanation": or_null(is_text),
}
REJECTED: Shape = {"feature": or_null(is_count), "reason": is_text}
GAVE_UP: Shape = {
    **dict.fromkeys(("feature", "n_candidates"), is_count),
    "best_activation": or_null(is_number),
    "threshold": is_number,
    "reason": is_text,
}
POINTS: Check = list_of(
    lambda point: isinstance(point, list) and len(point) == 2 and is_above_0(point[0]) and is_share(point[1])
)
CURVE: Shape = {"samples": POINTS, "tokens": POINTS}
BY_THRESHOLD: Check = list_of(object_of({"threshold": is_text, "n_target": is_count, "value": is_share}))
OF_CURVES: Shape = {
    "seed": or_null(object_of(CURVE)),
    "ceiling": or_null(object_of(CURVE)),
    "thresholds": BY_THRESHOLD,
}
OF_CURVES_AFTER: Shape = {
    "filled": object_of(CURVE),
    "thresholds": BY_THRESHOLD,
    "rates": list_of(list_of(is_number, 2)),
}
OF_UNDER: Shape = {
    "features": list_of(
        object_of(
            {
                "feature_id": is_count,
                **dict.fromkeys(("anchor_rate", "seed_rate"), is_share),
                "span": is_text,
            }
        )
    )
}
OF_MAP: Shape = {"points": list_of(list_of(is_number, 3))}
SPAN: Shape = {"text": is_text, "token": is_text}
DIFFERING: Shape = {
    "feature": is_count,
    "rates": list_of(is_share, 2),
    "log_odds": is_number,
    "span": or_null(object_of(SPAN)),
}
_IS_DIFFERING, _ARE_SPANS = object_of(DIFFERING), list_of(object_of(SPAN))
DIFFERENCE: Shape = {"value": or_null(is_number), "ci95": or_null(list_of(is_number, 2))}
_ARE_SETS = list_of(
    object_of(
        {
            "name": is_text,
            "curve": object_of(CURVE),
            **dict.fromkeys(("value", "at_equal_samples"), is_share),
            "at_equal_tokens": or_null(is_share),
            "n_covered": is_count,
            **dict.fromkeys(("n_samples", "n_tokens"), is_above_0),
            "ci95": or_null(list_of(is_share, 2)),
            "thresholds": list_of(is_share),
        }
    )
)
COMPARISON: Shape = {
    "sets": lambda sets: _ARE_SETS(sets) and len(sets) > 0,
    "pairs": list_of(
        object_of({
            **dict.fromkeys(("first", "other"), is_text),
            **dict.fromkeys(("at_equal_samples", "at_equal_tokens"), object_of(DIFFERENCE)),
            **dict.fromkeys(("only_first", "only_other"), list_of(is_count)),
            "n_tested": is_count,
            "compared": list_of(is_share, 2),
            "differences": list_of(lambda row: _IS_DIFFERING(row) and _ARE_SPANS(row.get("more", []))),
        })
    ),
    "thresholds": list_of(lambda row: isinstance(row, list) and len(row) == 2 and is_text(row[0]) and is_count(row[1])),
    **dict.fromkeys(("n_target", "min_support"), is_count),
    **dict.fromkeys(("n_samples", "n_tokens"), is_above_0),
    **dict.fromkeys(("threshold", "relevance", "codes", "form"), is_text),
    "names": object_of(dict.fromkeys(("model", "sae", "hook_point", "anchor"), is_text)),
    "fingerprints": map_of(is_text),
    "notes": list_of(is_text),
}  # fmt: skip
OF_SHADING: Shape = {
    "feature": is_count,
    **dict.fromkeys(("source", "sample_id"), is_text),
    "tokens": list_of(
        lambda pair: isinstance(pair, list) and len(pair) == 2 and is_text(pair[0]) and is_number(pair[1])
    ),
}  # fmt: skip
