"""The rows of the table of features: what is missing or under-represented, and what became of it; for the script.

Before: `report.read`. After: `report.build` puts them into the page, and the map beside them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from facsynth.report.excerpts import Excerpt, ending, sample_excerpt
from facsynth.report.plots import number, times
from facsynth.report.read import RunFiles

MOST_ROWS, MOST_DETAILED = 20_000, 2_000
"""Features in the table, and those that open to their texts; the page says where there are more."""
N_SAMPLES, SHORT = 3, 160
"""Accepted samples of a feature that are shown; characters of a span where the table is long."""


def state_of(files: RunFiles, target: Mapping[str, Any], n_accepted: int) -> tuple[str, str]:
    """What became of an attempted feature, and how it is coloured: good, bad or open."""
    if target["kind"] == "under":
        wanted = target["n_wanted"]
        return f"{n_accepted} of {wanted} wanted", "good" if n_accepted >= wanted else "bad"
    if not files.after:
        return ("accepted, not measured", "open") if n_accepted else ("open", "open")
    if target["feature_id"] in files.after["missing"]:
        return "not recovered", "bad"
    return ("recovered", "good") if n_accepted else ("recovered by others", "good")


def table_of(files: RunFiles) -> dict[str, Any] | None:
    """Everything that the script shows; None where nothing was measured."""
    plan = {row["feature_id"]: row for row in files.plan}
    targets = {row["feature_id"]: row for row in files.targets.get("attempted", [])}
    listed = [*files.before.get("missing", []), *files.before.get("under", [])]
    ids = list(dict.fromkeys([*plan, *targets, *listed]))
    if not ids:
        return None
    facts = _Facts(files)
    length = SHORT if len(ids) > MOST_DETAILED else None
    rows = [
        facts.row(feature, plan.get(feature, {}), targets.get(feature), length, detailed=n < MOST_DETAILED)
        for n, feature in enumerate(ids[:MOST_ROWS])
    ]
    return {
        "rows": rows, "rates": ["Anchor", "Seed set", *(["After"] if facts.after_rates else [])],
        "label": "Meaning, or the span that fires it most", "map": files.map.get("points", []),
    }  # fmt: skip


class _Facts:
    """What the files say, by feature."""

    def __init__(self, files: RunFiles) -> None:
        self.files = files
        self.accepted: dict[int, list[int]] = defaultdict(list)
        for index, row in enumerate(files.provenance):
            for feature in row["fires"]:
                self.accepted[feature].append(index)
        self.asked = Counter(row["written_for"] for row in files.provenance)
        self.asked += Counter(row["feature"] for row in files.rejected)
        self.gave_up = {row["feature"]: row["reason"] for row in files.gave_up}
        self.shading = {(row["feature"], row["source"]): row["tokens"] for row in files.shading}
        self.after_rates = dict(files.curves_after.get("rates", []))
        self.missing, self.under = set(files.before.get("missing", [])), set(files.before.get("under", []))

    def row(
        self, feature: int, planned: Mapping[str, Any], target: Mapping[str, Any] | None, length: int | None, *,
        detailed: bool,
    ) -> dict[str, Any]:  # fmt: skip
        """One feature as the script wants it; what is not known is left out."""
        state, tone = self._state(feature, planned, target)
        spans = [ending(span["text"], span["token"]) for span in (target or {}).get("spans", [])]
        span = spans[0] if spans else ending(planned.get("span") or "")
        rates = [_rate(planned, target, "anchor_rate"), _rate(planned, target, "seed_rate")]
        row: dict[str, Any] = {
            "id": feature, "state": state, "tone": tone, "text": _parts(span, length),
            "rates": [*rates, *([self.after_rates.get(feature)] if self.after_rates else [])],
        }  # fmt: skip
        row |= {
            key: value
            for key, value in (("about", planned.get("explanation")), ("group", planned.get("group")))
            if value is not None and value != ""
        }
        if note := "; ".join(self._notes(feature, planned)):
            row["note"] = note
        if target and detailed:
            parts = (self._in_anchor(feature, spans), self._samples(feature))
            row["more"] = [part for part in parts if part]
            row["summary"] = f"{len(self.accepted[feature])} accepted, {self.asked[feature]} written for it"
        return row

    def _state(self, feature: int, planned: Mapping[str, Any], target: Mapping[str, Any] | None) -> tuple[str, str]:
        if target:
            return state_of(self.files, target, len(self.accepted[feature]))
        if planned and not planned.get("keep", True):
            return "left out", "open"
        is_back = self.files.after and feature in self.missing and feature not in self.files.after["missing"]
        if is_back:
            return "recovered by others", "good"
        return ("under-represented", "open") if feature in self.under else ("missing", "open")

    def _notes(self, feature: int, planned: Mapping[str, Any]) -> list[str]:
        score = number(planned.get("score"))
        told = [planned.get("verdict") or "", "" if score is None else f"explanation right on {score:.0%} of texts"]
        told += [planned.get("why") or "", f"gave up: {self.gave_up[feature]}" if feature in self.gave_up else ""]
        return [text for text in told if text]

    def _in_anchor(self, feature: int, spans: Sequence[Excerpt]) -> dict[str, Any] | None:
        """The best texts of the anchor, the first one shaded where it was looked at token by token."""
        shaded = self._shaded(feature, "anchor")
        texts = [*shaded, *(_parts(one) for one in spans[len(shaded) :])]
        return {"title": "Fires in the anchor on", "texts": texts} if texts else None

    def _shaded(self, feature: int, source: str) -> list[dict[str, Any]]:
        """Its tokens, each with its share of the highest activation."""
        tokens = self.shading.get((feature, source), [])
        highest = max((activation for _, activation in tokens), default=0.0)
        if highest <= 0:
            return []
        return [{"parts": [[text, round(activation / highest, 2)] for text, activation in tokens]}]

    def _samples(self, feature: int) -> dict[str, Any] | None:
        """The accepted samples that fire it, those first that were accepted for it, strongest first."""

        def order(index: int) -> tuple[bool, float]:
            row = self.files.provenance[index]
            return row["feature"] != feature, -row["activation"]

        texts: list[Any] = self._shaded(feature, "accepted")
        for index in sorted(self.accepted[feature], key=order)[len(texts) : N_SAMPLES]:
            row = self.files.provenance[index]
            own = row["feature"] == feature
            found = sample_excerpt(self.files, index, marked=own)
            if found is not None:
                texts.append(_parts(found))
        title = "Accepted samples"
        best = next(
            (
                self.files.provenance[i]
                for i in self.accepted[feature]
                if self.files.provenance[i]["feature"] == feature
            ),
            None,
        )
        if best:
            title += f", the strongest {times(best['activation'], best['threshold'])}"
        return {"title": title, "texts": texts} if texts else None


def _rate(planned: Mapping[str, Any], target: Mapping[str, Any] | None, key: str) -> float | None:
    return number((target or {}).get(key, planned.get(key)))


def _parts(one: Excerpt, length: int | None = None) -> list[str]:
    """Before the token that fires, it, and after it."""
    head = one.head + one.span
    return [head if length is None else head[-length:], one.token, one.tail]
