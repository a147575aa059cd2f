"""What to fill, as a table that a person edits: `keep`, `n_wanted`, `group`. After `coverage`, before `synthesis`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import fmean

import numpy as np

from facsynth.bins import Floats
from facsynth.coverage.coverage import Coverage, UnderRepresented
from facsynth.errors import InputError
from facsynth.profile import Profile
from facsynth.text.sheets import Line, read_sheet, sheet_text

LARGE_SEED = 5_000
"""Above so many seed samples the plan takes the under-represented features too: one sample covers too easily."""
USUAL_SHARE = 0.5
"""Of the anchor, above which a feature says nothing of one sample."""


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
    why: str = ""
    """It is not kept."""
    group: int | None = None
    """The feature that stands for its concept, and is written for in its place; None where that is itself."""
    weight: float = 0.0
    """Anchor rate x share that is lacking x relevance x trust (`Weights`): the order of the rows."""
    verdict: str = ""
    score: float | None = None
    """Balanced accuracy of the explanation; 0.5 is chance."""
    explanation: str = ""
    fires_on: str = ""
    """The tokens that fire it most."""
    span: str = ""
    """The best one, on one line."""


@dataclass(frozen=True)
class Meaning:
    """What is known of a feature's meaning before it is planned for."""

    why_not: str = ""
    """It is screened out; empty where it is not."""
    verdict: str = ""
    score: float | None = None
    explanation: str = ""
    fires_on: str = ""
    span: str = ""


COLUMNS = tuple(field.name for field in fields(PlanRow))
VERDICT_WEIGHTS = {"Yes": 1.0, "Probably": 0.75, "Maybe": 0.5, "No": 0.1}
TEXTS = ("why", "verdict", "explanation", "fires_on", "span")
NOTHING = Meaning()


class Weights:
    """What verdicts and scores weigh; an unknown one as much as the known ones do on average, 1 without any."""

    def __init__(self, known: Iterable[Meaning]) -> None:
        """From all features of a plan."""
        rows = list(known)
        verdicts = [VERDICT_WEIGHTS[row.verdict] for row in rows if row.verdict]
        scores = [_trust(row.score) for row in rows if row.score is not None]
        self._relevance, self._trust = (fmean(part) if part else 1.0 for part in (verdicts, scores))

    def of(self, meaning: Meaning) -> float:
        """Relevance x trust: by its verdict, and by its score from a tenth at chance to 1 where it is always right."""
        relevance = VERDICT_WEIGHTS.get(meaning.verdict, self._relevance)
        return relevance * (self._trust if meaning.score is None else _trust(meaning.score))


def _trust(score: float) -> float:
    return max(0.1, 2 * score - 1)


def make_plan(
    coverage: Coverage,
    under: UnderRepresented,
    seed_set: Profile,
    anchor: Profile,
    thresholds: Floats,
    *,
    known: Mapping[int, Meaning] | None = None,
    per_feature: int = 1,
    deficit: float = 0.1,
) -> list[PlanRow]:
    """The features to fill, those first that the anchor fires most and the seed set lacks most.

    A row's weight is the anchor's rate times the share of `deficit` times that rate which the seed set lacks (1 where
    it never fires), times what is known of its meaning. What fires in more than half of the anchor, or is screened
    out, is not kept. A missing feature of a small seed set wants `min_support` samples. Of a seed set above
    `LARGE_SEED` samples under-represented features are taken too, and each wants as many as lift its rate to `deficit`
    times the anchor's.

    Args:
        coverage: of the seed set.
        under: of the seed set, with the same thresholds.
        seed_set: its profile.
        anchor: its profile.
        thresholds: [d_sae].
        known: of each feature, as far as anything is.
        per_feature: samples that each wants at least.
        deficit: as `under` was made with.
    """
    wanted = _wanted(coverage, under, seed_set, anchor, thresholds, deficit)
    found, samples = seed_set.firing_samples(thresholds), anchor.firing_samples(thresholds)
    missing, weights = set(coverage.missing.tolist()), Weights((known or {}).values())
    rows = []
    for i, lacks in wanted.items():
        n_wanted = max(lacks, per_feature)
        anchor_rate, seed_rate = samples[i] / anchor.n_samples, found[i] / max(seed_set.n_samples, 1)
        lack, fact = max(0.0, 1 - seed_rate / (deficit * anchor_rate)), (known or {}).get(i, NOTHING)
        why = f"fires in {anchor_rate:.0%} of the anchor" if anchor_rate > USUAL_SHARE else fact.why_not
        row = PlanRow(
            i, "missing" if i in missing else "under", n_wanted, _short(anchor_rate), _short(seed_rate), not why, why,
            weight=_short(anchor_rate * lack * weights.of(fact)), verdict=fact.verdict,
            score=None if fact.score is None else _short(fact.score), explanation=fact.explanation,
            fires_on=fact.fires_on, span=re.sub(r"\r\n|[\r\n]", "⏎", fact.span),
        )  # fmt: skip
        rows.append(row)
    return sorted(rows, key=lambda row: (-row.weight, -row.anchor_rate, row.feature_id))


def _wanted(  # noqa: PLR0917 -- those of `make_plan`
    coverage: Coverage, under: UnderRepresented, seed_set: Profile, anchor: Profile, thresholds: Floats, deficit: float
) -> dict[int, int]:
    """Samples that each feature lacks."""
    found, samples = seed_set.firing_samples(thresholds), anchor.firing_samples(thresholds)
    wanted = {int(i): max(1, coverage.min_support - int(found[i])) for i in coverage.missing}
    if seed_set.n_samples > LARGE_SEED:
        goal = deficit * seed_set.n_samples / anchor.n_samples
        wanted = {i: max(n, int(np.ceil(goal * samples[i] - 1e-9)) - int(found[i])) for i, n in wanted.items()}
        wanted |= dict(zip(under.feature_ids.tolist(), under.n_wanted.tolist(), strict=True))
    return wanted


def grouped(plan: Sequence[PlanRow], stands: Mapping[int, int]) -> list[PlanRow]:
    """The plan with each feature's concept, as `groups.concepts` gives them."""
    found = ((row, stands.get(row.feature_id, row.feature_id)) for row in plan)
    return [replace(row, group=None if leader == row.feature_id else leader) for row, leader in found]


def attempted(plan: Sequence[PlanRow], n_concepts: int | None, rng: np.random.Generator) -> list[PlanRow]:
    """The rows that are tried: all that are kept, or those of `n_concepts` drawn at random, in the plan's order.

    A row whose `group` is another row that is kept is tried through that one.
    """
    kept = {row.feature_id: row for row in plan if row.keep}
    leaders = {i for i, row in kept.items() if row.group in {None, i} or row.group not in kept}
    through = {i: row.group if row.group in leaders else i for i, row in kept.items()}
    own = [i for i, leader in through.items() if leader == i]
    chosen = set(own)
    if n_concepts is not None and n_concepts < len(own):
        chosen = {own[i] for i in rng.choice(len(own), n_concepts, replace=False)}
    rows = ((row, through[i]) for i, row in kept.items())
    return [replace(row, group=None if i == row.feature_id else i) for row, i in rows if i in chosen]


def plan_text(rows: Sequence[PlanRow]) -> str:
    """The plan as CSV, safe to open in a spreadsheet."""
    told = {True: "yes", False: "no", None: ""}
    cells = [
        {name: told[value] if isinstance(value, bool | None) else str(value) for name, value in asdict(row).items()}
        for row in rows
    ]
    return sheet_text(COLUMNS, cells, TEXTS)


def read_plan(path: Path, known: Collection[int]) -> list[PlanRow]:
    """Read a plan back, edited or not; `known` are the feature ids it may name.

    Raises:
        InputError: no such file or table, or a cell that is not what its column holds, with its row and column.
    """
    allowed, rows = set(known), dict[int, PlanRow]()
    for line in read_sheet(path, COLUMNS, "plan"):
        row = _read_row(line)
        if row.feature_id not in allowed:
            raise InputError(
                f"{line.where}, feature_id: {row.feature_id} is neither missing nor under-represented here\n"
                "Delete the row."
            )
        if row.feature_id in rows:
            raise InputError(f"{line.where}, feature_id: {row.feature_id} is there twice\nDelete one row.")
        rows[row.feature_id] = row
    return list(rows.values())


def _read_row(line: Line) -> PlanRow:
    number = r"\d{1,18}"
    group = line.match("group", f"({number})?", "a feature id, or nothing")
    return PlanRow(
        feature_id=int(line.match("feature_id", number, "a whole number")),
        kind=line.match("kind", "missing|under", "missing or under"),
        n_wanted=int(line.match("n_wanted", r"0*[1-9]\d{0,8}", "a whole number from 1 to 999999999")),
        anchor_rate=line.share("anchor_rate"),
        seed_rate=line.share("seed_rate"),
        keep=line.match("keep", "yes|no", "yes or no") == "yes",
        why=line.text("why"),
        group=int(group) if group else None,
        weight=line.share("weight"),
        verdict=line.text("verdict"),
        score=line.share("score", or_none=True),
        explanation=line.text("explanation"),
        fires_on=line.text("fires_on"),
        span=line.text("span"),
    )


def _short(rate: float) -> float:
    return float(f"{rate:.6g}")
