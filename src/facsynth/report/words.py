"""What the settings of a measurement mean, in words.

After: `report.build` puts them beside the values, which come from a file and may be anything.
"""

from __future__ import annotations

import re
from typing import Any

THRESHOLD = re.compile(r"([rq]?)(\d+(?:\.\d+)?)")
BY_THRESHOLD = {
    "r": "a feature fires above {} of about the most it reaches in the background",
    "q": "a feature fires above what it reaches in {} % of the anchor samples that fire it",
    "": "a feature fires above {}",
}
BY_RELEVANCE = {
    "all": "every feature counts", "contrast": "those count that the anchor fires more often than the background",
    "judge": "those count that a judge holds relevant",
    "contrast+judge": "those count that the anchor fires more often than the background and a judge holds relevant",
}  # fmt: skip
BY_CODES = {"native": "as the SAE was trained", "relu": "every feature above 0, as the paper's scripts do"}
IN_FORM = {
    "message": "user turns", "chat": "user and assistant turns", "preference": "history and chosen reply",
    "ab": "question and matching answer", "text": "all of it",
}  # fmt: skip
"""What of a sample is measured."""


def meanings(measured: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(setting, its value, what it means) of those that make a figure comparable."""
    if not measured:
        return []
    threshold = THRESHOLD.fullmatch(measured["threshold"])
    fires = BY_THRESHOLD[threshold[1]].format(threshold[2]) if threshold else ""
    return [
        ("Threshold", measured["threshold"], fires),
        ("Relevance", measured["relevance"], BY_RELEVANCE.get(measured["relevance"], "")),
        ("Codes", measured["codes"], BY_CODES.get(measured["codes"], "")),
        ("Form", measured["form"], f"measured: {IN_FORM.get(measured['form'], '')}"),
        (
            "Minimum support",
            str(measured["min_support"]),
            "a feature that so many samples fire is covered",
        ),
    ]
