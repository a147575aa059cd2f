"""What the files of a run say of each feature that is missing or under-represented, and what became of it.

Before: `report.read`. After: `report.build` puts it into the page, as a table and as rows for the script.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Any

from facsynth.report.excerpts import Excerpt, ending, sample_excerpt
from facsynth.report.plots import number, times
from facsynth.report.read import RunFiles

MOST_ROWS, MOST_DETAILED = 20_000, 2_000
"""Features in the table, and those that open to their texts; the page says where there are more."""
N_SAMPLES, SHORT = 3, 160
"""Accepted samples of a feature that are shown; characters of a span where the table is long."""


@dataclass(frozen=True, eq=False)
class Feature:
    """What the files say of one."""

    files: RunFiles
    feature: int
    state: str
    """What became of it."""
    tone: str
    """How that is coloured: good, bad or open."""
    planned: dict[str, Any]
    """Its row of the plan; empty where it has none."""
    target: dict[str, Any]
    """Its row of `targets.json`; empty where it was not attempted."""
    accepted: Sequence[int]
    """Rows of provenance whose samples fire it: those accepted for it first, the strongest first."""
    n_asked: int
    """Candidates written for it."""
    gave_up: str

    @cached_property
    def spans(self) -> list[Excerpt]:
        """Of the anchor, the strongest first."""
        return [ending(span["text"], span["token"]) for span in self.target.get("spans", [])]

    @property
    def span(self) -> Excerpt:
        """The one that fires it most, as far as it is known."""
        return self.spans[0] if self.spans else ending(self.planned.get("span") or "")

    @property
    def rates(self) -> tuple[float | None, float | None]:
        """Share of the samples that fire it, of anchor and seed set."""
        anchor, seed = (number((self.planned | self.target).get(key)) for key in ("anchor_rate", "seed_rate"))
        return anchor, seed

    @property
    def accepted_for(self) -> int | None:
        """The feature that the best accepted sample was accepted for: another one where none was for this."""
        return self.files.provenance[self.accepted[0]]["feature"] if self.accepted else None

    @property
    def best(self) -> Mapping[str, Any] | None:
        """Provenance of the strongest sample that was accepted for it."""
        return self.files.provenance[self.accepted[0]] if self.accepted_for == self.feature else None

    @cached_property
    def sample(self) -> Excerpt | None:
        """The best accepted sample."""
        return next(self.samples(), None)

    def samples(self, but: str = "") -> Iterator[Excerpt]:
        """The best accepted samples that can be shown, but for the one of that id."""
        rows = self.files.provenance
        for index in [i for i in self.accepted if rows[i]["sample_id"] != but][: N_SAMPLES - bool(but)]:
            found = sample_excerpt(self.files, index, marked=rows[index]["feature"] == self.feature)
            if found is not None:
                yield found


class Features:
    """Those of the plan, then others that were attempted, then others that are missing or under-represented."""

    def __init__(self, files: RunFiles) -> None:
        self.files = files
        self.plan = {row["feature_id"]: row for row in files.plan}
        self.unplanned = {row["feature_id"]: row for row in files.under.get("features", [])}
        self.targets = {row["feature_id"]: row for row in files.targets.get("attempted", [])}
        self.missing, self.under = (dict.fromkeys(files.before.get(key, [])) for key in ("missing", "under"))
        self.lost = set(files.after.get("missing", []))
        self.ids = list({**self.plan, **self.targets, **self.missing, **self.under})
        self.accepted: dict[int, list[int]] = defaultdict(list)
        for index, row in enumerate(files.provenance):
            for feature in row["fires"]:
                self.accepted[feature].append(index)
        self.asked = Counter(row["written_for"] for row in files.provenance)
        self.asked += Counter(row["feature"] for row in files.rejected)
        self.gave_up = {row["feature"]: row["reason"] for row in files.gave_up}

    def __getitem__(self, feature: int) -> Feature:
        planned, target = self.plan.get(feature) or self.unplanned.get(feature, {}), self.targets.get(feature, {})
        accepted = self.accepted.get(feature, [])
        state, tone = self._state(feature, planned, target, len(accepted))

        def order(index: int) -> float:
            row = self.files.provenance[index]
            return -row["activation"] if row["feature"] == feature else inf

        return Feature(
            self.files, feature, state, tone, planned, target, sorted(accepted, key=order), self.asked[feature],
            self.gave_up.get(feature, ""),
        )  # fmt: skip

    def _state(
        self, feature: int, planned: Mapping[str, Any], target: Mapping[str, Any], n_accepted: int
    ) -> tuple[str, str]:
        is_back = feature not in self.lost if self.files.after else None
        if target:
            return _outcome(target, n_accepted, is_back=is_back)
        is_left_out = not planned.get("keep", True)
        if is_back and feature in self.missing:
            return ("left out, yet covered" if is_left_out else "covered by others"), "good"
        if is_left_out:
            return "left out", "open"
        return ("under-represented", "open") if feature in self.under else ("missing", "open")


def _outcome(target: Mapping[str, Any], n_accepted: int, *, is_back: bool | None) -> tuple[str, str]:
    """What became of an attempted feature; `is_back`: None where it was not measured again."""
    if target["kind"] == "under":
        wanted = target["n_wanted"]
        return f"{n_accepted} of {wanted} wanted", "good" if n_accepted >= wanted else "bad"
    if is_back is None:
        return ("accepted, not measured", "open") if n_accepted else ("open", "open")
    if not is_back:
        return "not recovered", "bad"
    return ("recovered", "good") if n_accepted else ("recovered by others", "good")


def said_of_samples(n_accepted: int, n_asked: int) -> str:
    """How many accepted samples fire a feature, and what was written to get them."""
    fires = "accepted sample counts for it" if n_accepted == 1 else "accepted samples count for it"
    candidates = "candidate was" if n_asked == 1 else "candidates were"
    return f"{n_accepted:,} {fires}; {n_asked:,} {candidates} written for it"


def table_of(features: Features) -> dict[str, Any] | None:
    """Everything that the script shows; None where nothing was measured."""
    files, ids = features.files, features.ids
    if not ids:
        return None
    rates = dict(files.curves_after.get("rates", []))
    shading = {(row["feature"], row["source"]): row for row in files.shading}
    length = SHORT if len(ids) > MOST_DETAILED else None
    rows = []
    for n, feature in enumerate(ids[:MOST_ROWS]):
        one = features[feature]
        row = _row(one, length)
        if rates:
            row["rates"].append(rates.get(feature))
        if one.target and n < MOST_DETAILED:
            row["more"] = [part for part in (_in_anchor(one, shading), _accepted(one, shading)) if part]
            row["summary"] = said_of_samples(len(one.accepted), one.n_asked)
        rows.append(row)
    return {
        "rows": rows, "rates": ["Anchor", "Seed set", *(["After"] if rates else [])],
        "label": "Meaning, or the span that fires it most", "map": files.map.get("points", []),
    }  # fmt: skip


def _row(one: Feature, length: int | None) -> dict[str, Any]:
    """A feature as the script wants it; what is not known is left out."""
    score = number(one.planned.get("score"))
    notes = (
        one.planned.get("verdict"),
        None if score is None else f"explanation right on {score:.0%} of texts",
        one.planned.get("why"),
        one.gave_up and f"gave up: {one.gave_up}",
    )
    known = {key: one.planned.get(name) for key, name in (("about", "explanation"), ("group", "group"))}
    known["note"] = "; ".join(filter(None, notes))
    return {
        "id": one.feature, "state": one.state, "tone": one.tone, "text": _parts(one.span, length),
        "rates": [*one.rates], **{key: value for key, value in known.items() if value not in (None, "")},
    }  # fmt: skip


_Shading = Mapping[tuple[int, str], Mapping[str, Any]]


def _in_anchor(one: Feature, shading: _Shading) -> dict[str, Any] | None:
    """The best texts of the anchor, the first one shaded where it was looked at token by token."""
    texts = _shaded(shading.get((one.feature, "anchor")))
    texts += [_parts(span) for span in one.spans[len(texts) :]]
    return {"title": "Fires in the anchor on", "texts": texts} if texts else None


def _accepted(one: Feature, shading: _Shading) -> dict[str, Any] | None:
    """The best accepted samples, the first one shaded likewise."""
    row = shading.get((one.feature, "accepted"))
    texts = _shaded(row)
    texts += [_parts(found) for found in one.samples(row["sample_id"] if row and texts else "")]
    title = "Accepted samples"
    if one.best:
        title += f", the strongest {times(one.best['activation'], one.best['threshold'])}"
    return {"title": title, "texts": texts} if texts else None


def _shaded(row: Mapping[str, Any] | None) -> list[Any]:
    """A text as its tokens, each with its share of the highest activation; none where nothing fires."""
    tokens = row["tokens"] if row else []
    highest = max((activation for _, activation in tokens), default=0.0)
    if highest <= 0:
        return []
    return [{"parts": [[text, round(activation / highest, 2)] for text, activation in tokens]}]


def _parts(one: Excerpt, length: int | None = None) -> list[str]:
    """Before the token that fires, it, and after it."""
    head = one.head + one.span
    return [head if length is None else head[-length:], one.token, one.tail]
