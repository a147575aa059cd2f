"""What to fill, as a table that a person edits: `keep`, `n_wanted`. After `coverage`, before `synthesis`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from facsynth.bins import Floats
from facsynth.coverage.coverage import Coverage, UnderRepresented
from facsynth.errors import InputError
from facsynth.profile import Profile
from facsynth.store import write_text

LARGE_SEED = 5_000
"""Above so many seed samples the plan takes the under-represented features too: one sample covers too easily."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
"""Cells that begin so are given a ' in front, lest a spreadsheet runs them (OWASP, CSV injection)."""


@dataclass(frozen=True)
class PlanRow:
    """A feature to fill."""

    feature_id: int
    kind: str
    """missing or under."""
    n_wanted: int
    anchor_rate: float
    """Share of samples that fire the feature, 0 to 1, as is `seed_rate`."""
    seed_rate: float
    keep: bool
    span: str
    """The best one, on one line."""


COLUMNS = tuple(field.name for field in fields(PlanRow))


def make_plan(
    coverage: Coverage,
    under: UnderRepresented,
    seed_set: Profile,
    anchor: Profile,
    thresholds: Floats,
    *,
    spans: Mapping[int, str] | None = None,
    deficit: float = 0.1,
) -> list[PlanRow]:
    """The features to fill, those first that the anchor fires most and the seed set lacks most.

    A row's weight is the anchor's rate times the share of `deficit` times that rate which the seed set lacks (1 where
    it never fires). A missing feature of a small seed set wants `min_support` samples. Of a seed set above `LARGE_SEED`
    samples under-represented features are taken too, and each wants as many as lift its rate to `deficit` times the
    anchor's.

    Args:
        coverage: of the seed set.
        under: of the seed set, with the same thresholds.
        seed_set: its profile.
        anchor: its profile.
        thresholds: [d_sae].
        spans: the best span of a feature; a feature without one gets an empty cell.
        deficit: as `under` was made with.
    """
    is_large = seed_set.n_samples > LARGE_SEED
    found, known = seed_set.firing_samples(thresholds), anchor.firing_samples(thresholds)
    wanted = {int(i): max(1, coverage.min_support - int(found[i])) for i in coverage.missing}
    if is_large:
        goal = deficit * seed_set.n_samples / anchor.n_samples
        wanted = {i: max(n, int(np.ceil(goal * known[i] - 1e-9)) - int(found[i])) for i, n in wanted.items()}
        wanted |= dict(zip(under.feature_ids.tolist(), under.n_wanted.tolist(), strict=True))
    missing = set(coverage.missing.tolist())
    weighted = []
    for i, n_wanted in wanted.items():
        anchor_rate, seed_rate = known[i] / anchor.n_samples, found[i] / max(seed_set.n_samples, 1)
        lack = max(0.0, 1 - seed_rate / (deficit * anchor_rate))
        span = re.sub(r"\r\n|[\r\n]", "⏎", (spans or {}).get(i, ""))
        kind = "missing" if i in missing else "under"
        row = PlanRow(i, kind, n_wanted, _short(anchor_rate), _short(seed_rate), True, span)
        weighted.append((-anchor_rate * lack, i, row))
    return [row for _, _, row in sorted(weighted, key=lambda entry: entry[:2])]


def attempted(plan: Sequence[PlanRow], n_features: int | None, rng: np.random.Generator) -> list[PlanRow]:
    """The rows that are tried: all that are kept, or `n_features` of them drawn at random, in the plan's order."""
    kept = [row for row in plan if row.keep]
    if n_features is None or n_features >= len(kept):
        return kept
    return [kept[i] for i in np.sort(rng.choice(len(kept), n_features, replace=False))]


def write_plan(path: Path, rows: Sequence[PlanRow]) -> None:
    """Write the plan as CSV, safe to open in a spreadsheet."""
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, COLUMNS)
    table.writeheader()
    for row in rows:
        cells = asdict(row) | {"keep": "yes" if row.keep else "no"}
        span = f"'{row.span}" if row.span.startswith(FORMULA) else row.span
        table.writerow(cells | {"span": span})
    write_text(path, text.getvalue())


def read_plan(path: Path, known: Collection[int]) -> list[PlanRow]:
    """Read a plan back, edited or not; `known` are the feature ids it may name.

    Raises:
        InputError: no such file or table, or a cell that is not what its column holds, with its row and column.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig", "surrogatepass")
    except FileNotFoundError as err:
        raise InputError(f"no plan {path}\nRun the same command again: it is written anew.") from err
    except UnicodeDecodeError as err:
        raise InputError(f"{path} is not a plan: {err}\nSave it as CSV in UTF-8.") from err
    table = _table(text, path)
    header = table[0] if table else []
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise InputError(
            f"{path} has no column {missing[0]}; found: {', '.join(header) or 'an empty file'}\n"
            "Save it with commas between the columns, or write the plan again."
        )
    allowed, rows = set(known), dict[int, PlanRow]()
    for number, cells in enumerate(table[1:], start=2):
        if not any(cells):
            continue
        row = _read_row(dict(zip(header, cells, strict=False)), f"{path}, row {number}")
        if row.feature_id not in allowed:
            raise InputError(
                f"{path}, row {number}, feature_id: {row.feature_id} is neither missing nor under-represented here\n"
                "Delete the row."
            )
        if row.feature_id in rows:
            raise InputError(f"{path}, row {number}, feature_id: {row.feature_id} is there twice\nDelete one row.")
        rows[row.feature_id] = row
    return list(rows.values())


def _table(text: str, path: Path) -> list[list[str]]:
    """All cells; a quote that is never closed would take in the rows that follow."""
    reader, table = csv.reader(io.StringIO(text, newline=""), strict=True), []
    try:
        for cells in reader:
            table.append(cells)
    except csv.Error as err:
        reason, way_out = str(err), "Save it as CSV."
        if "field limit" in reason:
            reason = f"a cell has more than {csv.field_size_limit():,} characters"
            way_out = "Shorten it: a span is there to be read only."
        elif "unexpected end" in reason:
            reason, way_out = "a quote is never closed", "Close it, or take it out."
        raise InputError(f"{path}, row {len(table) + 1}: {reason}\n{way_out}") from err
    return table


def _read_row(cells: Mapping[str, str], where: str) -> PlanRow:
    def cell(name: str, pattern: str, wanted: str) -> str:
        found = cells.get(name, "").strip().lower()
        if not re.fullmatch(pattern, found):
            told = f'{where}, {name}: found "{cells.get(name, "")[:80]}", wanted {wanted}'
            raise InputError(f"{told}\nMend the cell, or delete the row.")
        return found

    rate = r"\d+(\.\d*)?(e-?\d+)?"
    span = cells.get("span", "")
    return PlanRow(
        feature_id=int(cell("feature_id", r"\d{1,18}", "a whole number")),
        kind=cell("kind", "missing|under", "missing or under"),
        n_wanted=int(cell("n_wanted", r"0*[1-9]\d{0,8}", "a whole number of at least 1")),
        anchor_rate=float(cell("anchor_rate", rate, "a share such as 0.01")),
        seed_rate=float(cell("seed_rate", rate, "a share such as 0.01")),
        keep=cell("keep", "yes|no", "yes or no") == "yes",
        span=shown_span(span),
    )


def shown_span(cell: str) -> str:
    """The span of a cell, without the mark against formulas."""
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith(FORMULA) else cell


def _short(rate: float) -> float:
    return float(f"{rate:.6g}")
