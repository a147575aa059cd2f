"""Labels of messages: what a row says, and which of the known names it means."""

from __future__ import annotations

from collections.abc import Sequence

Label = str | int


def is_wanted(label: object, wanted: str) -> bool | None:
    """Whether a row's label is the one that is looked for; None where it has none.

    1, true and `wanted` are; 0, false and any other word are not.
    """
    if (isinstance(label, int) and label in (0, 1)) or (isinstance(label, str) and label.strip()):
        return name_of(label, [wanted]) is not None
    return None


def name_of(label: object, names: Sequence[str]) -> str | None:
    """Which of the names a label means: the same word; of 1 and true the first, of 0 and false the second of two.

    None where it means none of them.
    """
    word = "" if label is None else str(label).strip().casefold()
    if same := next((name for name in names if name.casefold() == word), None):
        return same
    if word in {"1", "true"}:
        return names[0] if names else None
    return names[1] if word in {"0", "false"} and len(names) == 2 else None
