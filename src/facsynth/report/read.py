"""Read what a run folder holds, whole or in part. A file that cannot be read is a notice, never a crash.

A file that does not have the shape its readers rely on is one too (`shapes`), and counts as not there.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from facsynth.errors import FacsynthError, InputError, SettingsError
from facsynth.report import shapes
from facsynth.store import read_jsonl
from facsynth.text.forms import to_sample
from facsynth.text.layouts import RowError
from facsynth.text.sheets import shown

_T = TypeVar("_T")
_RATE = re.compile(r"\d+(\.\d*)?(e-?\d+)?")
RATES = ("anchor_rate", "seed_rate", "score")
"""Columns of plan.csv that hold a share, where they hold anything."""


@dataclass(frozen=True)
class RunFiles:
    """What a run folder holds; what is not there is empty."""

    name: str
    summary: dict[str, Any]
    before: dict[str, Any]
    after: dict[str, Any]
    targets: dict[str, Any]
    samples: list[dict[str, Any]]
    provenance: list[dict[str, Any]]
    rejected: list[dict[str, Any]]
    gave_up: list[dict[str, Any]]
    plan: list[dict[str, Any]]
    settings: str
    curves: dict[str, Any]
    """`coverage/curves.json`."""
    curves_after: dict[str, Any]
    under: dict[str, Any]
    """`coverage/under.json`."""
    map: dict[str, Any]
    """`coverage/map.json`."""
    shading: list[dict[str, Any]]
    """`shading.jsonl`."""
    there: frozenset[str]
    """Which of the files are there, readable or not."""
    notices: tuple[str, ...]

    def accepted_text(self, index: int) -> str | None:
        """The text of the accepted sample of a row of provenance; None where there is none that can be read."""
        if index >= len(self.samples):
            return None
        try:
            return to_sample(self.samples[index], self.provenance[index]["form"]).sample.text
        except (RowError, SettingsError):
            return None


def read_run(run: Path) -> RunFiles:
    """Read a run folder.

    Raises:
        InputError: there is no such folder, or it holds no file of a run.
    """
    if not run.is_dir():
        raise InputError(f"there is no run folder {run}\nGive the folder that `facsynth run -o` wrote.")
    notices: list[str] = []
    there: set[str] = set()

    def load(name: str, read: Callable[[Path], _T], empty: _T) -> _T:
        try:
            if not (run / name).exists():
                return empty
            there.add(name)
            return read(run / name)
        except (FacsynthError, OSError, ValueError, csv.Error) as err:
            reason = str(err).splitlines()[0].removeprefix(str(run / name)).lstrip(", ")
            notices.append(f"{name} could not be read and is left out: {reason}")
            return empty

    files = RunFiles(
        name=run.resolve().name,
        summary=load("summary.json", partial(shapes.read_object, shape=shapes.SUMMARY), {}),
        before=load("coverage/before.json", partial(shapes.read_object, shape=shapes.BEFORE), {}),
        after=load("coverage/after.json", partial(shapes.read_object, shape=shapes.AFTER), {}),
        targets=load("targets.json", partial(shapes.read_object, shape=shapes.TARGETS), {}),
        samples=load("samples.jsonl", read_jsonl, []),
        provenance=load("provenance.jsonl", partial(shapes.read_rows, shape=shapes.PROVENANCE), []),
        rejected=load("rejected.jsonl", partial(shapes.read_rows, shape=shapes.REJECTED), []),
        gave_up=load("gave_up.jsonl", partial(shapes.read_rows, shape=shapes.GAVE_UP), []),
        plan=load("plan.csv", _read_plan, []),
        settings=load("facsynth.yaml", lambda path: path.read_text("utf-8", "replace"), ""),
        curves=load(shapes.CURVES, partial(shapes.read_object, shape=shapes.OF_CURVES), {}),
        curves_after=load(shapes.CURVES_AFTER, partial(shapes.read_object, shape=shapes.OF_CURVES_AFTER), {}),
        under=load(shapes.UNDER, partial(shapes.read_object, shape=shapes.OF_UNDER), {}),
        map=load(shapes.MAP, partial(shapes.read_object, shape=shapes.OF_MAP), {}),
        shading=load(shapes.SHADING, partial(shapes.read_rows, shape=shapes.OF_SHADING), []),
        there=frozenset(there),
        notices=tuple(notices),
    )
    if not there and not notices:
        raise InputError(f"{run} holds no file of a run\nGive the folder that `facsynth run -o` wrote.")
    return files


def _read_plan(path: Path) -> list[dict[str, Any]]:
    """The rows of plan.csv, more forgiving than `coverage.plan.read_plan`, which reads what is acted upon."""
    text = path.read_bytes().decode("utf-8-sig", "surrogatepass")
    rows = []
    for row in csv.DictReader(io.StringIO(text, newline="")):
        feature, span = row.get("feature_id") or "", row.get("span") or ""
        if not feature.isdecimal():
            continue
        rates = {key: float(row.get(key) or "") if _RATE.fullmatch(row.get(key) or "") else None for key in RATES}
        group = row.get("group") or ""
        rows.append({
            "feature_id": int(feature), "kind": row.get("kind"), "span": shown(span), **rates,
            "group": int(group) if group.isdecimal() else None, "keep": (row.get("keep") or "yes").lower() != "no",
            **{key: shown(row.get(key) or "") for key in ("why", "verdict", "explanation")},
        })  # fmt: skip
    return rows
