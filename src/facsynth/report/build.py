"""The report of a run folder, from its files alone: nothing is measured again. After `synthesis`; the last stage.

A run in the making is reported too: what is not there, or cannot be read, is said at the top of the page.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from facsynth.report import curves, plots
from facsynth.report.excerpts import Excerpt, ending, sample_excerpt
from facsynth.report.features import state_of, table_of
from facsynth.report.page import write_page
from facsynth.report.read import RunFiles, read_run
from facsynth.synthesis.accept import text_sha256

MAX_FEATURES, MAX_OTHERS, MAX_GAVE_UP = 100, 50, 100
"""Rows of the tables that are there without the script, too; the page says how many more there are."""
IN_FORM = {
    "message": "user turns", "chat": "user and assistant turns", "preference": "history and chosen reply",
    "ab": "question and matching answer", "text": "all of it",
}  # fmt: skip
"""What of a sample is measured."""


@dataclass(frozen=True)
class FeatureRow:
    """An attempted feature as the table shows it."""

    feature: int
    state: str
    tone: str
    target: Mapping[str, Any]
    spans: Sequence[Excerpt]
    explanation: str
    n_accepted: int
    """Accepted samples that fire it, whichever feature they were written for."""
    n_asked: int
    """Candidates written for it."""
    best: Mapping[str, Any] | None
    """Provenance of the accepted sample that fires most."""
    sample: Excerpt | None
    accepted_for: int | None
    """The feature that the sample was accepted for: another one where none was accepted for this."""
    gave_up: str


def build_report(run: Path) -> Path:
    """Write `report.html` into the run folder, finished or not, and return its path.

    Raises:
        InputError: there is no such folder, or it holds no file of a run.
    """
    files = read_run(run)
    return write_page(run / "report.html", "run.html", page(files), table_of(files))


def page(files: RunFiles) -> dict[str, Any]:
    """Everything the template shows."""
    summary, before, after = files.summary, files.before, files.after
    attempted = files.targets.get("attempted", [])
    known = {row["feature_id"] for row in attempted}
    others = [row for row in files.plan if row["kind"] == "missing" and row["feature_id"] not in known]
    known |= {row["feature_id"] for row in files.plan}
    unplanned = [i for i in before.get("missing", []) if i not in known]
    others += [{"feature_id": i, "span": "", "anchor_rate": None} for i in unplanned]
    counts = Counter(summary["n_rejected"] if summary else (row["reason"] for row in files.rejected))
    name = shlex.quote(files.name)
    return {
        "files": files,
        "title": files.name,
        "curves": {name: Markup(figure) for name, figure in curves.figures(files).items()},
        "has_map": bool(files.map.get("points")),
        "summary": summary,
        "before": before,
        "after": after,
        "names": summary.get("names", {}),
        "n_accepted": summary.get("n_accepted", len(files.provenance)),
        "n_attempted": summary.get("n_attempted", len(attempted)),
        "n_rejected": sum(counts.values()),
        "top_reason": ", ".join(f"{n:,} {reason}" for reason, n in counts.most_common(2)),
        "form": f"{before['form']}: {IN_FORM.get(before['form'], '')}" if before else "",
        "notices": [*files.notices, *notices(files)],
        "coverage_figure": Markup(plots.coverage_figure(before, after)),
        "recovered_figure": Markup(plots.recovered_figure(summary)),
        "rejected_figure": Markup(plots.count_figure("Rejected by reason", counts)),
        "features": feature_rows(files, attempted[:MAX_FEATURES]),
        "n_features": len(attempted),
        "others": [(row, ending(row["span"])) for row in others[:MAX_OTHERS]],
        "n_others": len(others),
        "n_unplanned": len(unplanned),
        "gave_up": files.gave_up[:MAX_GAVE_UP],
        "commands": [f"facsynth run {name}/facsynth.yaml -o again", f"facsynth verify {name}"],
    }


def notices(files: RunFiles) -> list[str]:
    """What a reader must know before the figures: what is not there, and what does not hold."""
    said = []
    if "coverage/before.json" not in files.there:
        said.append("Nothing has been measured yet: there is no coverage/before.json.")
    elif "coverage/after.json" not in files.there:
        said.append("Coverage after filling has not been measured yet: there is no coverage/after.json.")
    if "summary.json" not in files.there:
        said.append("The run is not finished: there is no summary.json. The same command goes on where it stopped.")
    elif files.summary and not files.summary["n_accepted"]:
        said.append("No sample was accepted.")
    if len(files.samples) != len(files.provenance):
        said.append(
            f"samples.jsonl has {len(files.samples)} rows and provenance.jsonl {len(files.provenance)}; "
            "texts are shown only where both have one."
        )
    texts = [(files.accepted_text(index), row) for index, row in enumerate(files.provenance)]
    n_changed = sum(text is not None and text_sha256(text) != row["text_sha256"] for text, row in texts)
    if n_changed:
        said.append(f"{n_changed} texts of samples.jsonl were changed after they were accepted: facsynth verify tells.")
    value = files.summary.get("recovered_of_attempted")
    chances = [files.summary.get(key) for key in ("recovered_chance", "recovered_chance_tokens")]
    if value is not None and any(chance is not None and chance >= value for chance in chances):
        said.append("Recovered does not exceed the chance level: plain prompts would have done as well.")
    return said


def feature_rows(files: RunFiles, attempted: Sequence[Mapping[str, Any]]) -> list[FeatureRow]:
    """The attempted features in the order of `targets.json`, each with its best accepted sample."""
    accepted = Counter(feature for row in files.provenance for feature in row["fires"])
    asked = Counter(row["written_for"] for row in files.provenance)
    asked += Counter(row["feature"] for row in files.rejected)
    best: dict[int, tuple[float, int]] = {}
    for index, found in enumerate(files.provenance):
        entry = (found["activation"], -index)
        best[found["feature"]] = max(best.get(found["feature"], entry), entry)
    shared = {f: index for index, row in reversed([*enumerate(files.provenance)]) for f in row["fires"]}
    gave_up = {entry["feature"]: entry["reason"] for entry in files.gave_up}
    rows = []
    for target in attempted:
        feature = target["feature_id"]
        place = -best[feature][1] if feature in best else shared.get(feature)
        row = files.provenance[place] if place is not None and feature in best else None
        state, tone = state_of(files, target, accepted[feature])
        rows.append(
            FeatureRow(
                feature=feature,
                state=state,
                tone=tone,
                target=target,
                spans=[ending(span["text"], span["token"]) for span in target["spans"][:5]],
                explanation=(row or {}).get("explanation") or "",
                n_accepted=accepted[feature],
                n_asked=asked[feature],
                best=row,
                sample=None if place is None else sample_excerpt(files, place, marked=row is not None),
                accepted_for=None if place is None else files.provenance[place]["feature"],
                gave_up=gave_up.get(feature, ""),
            )
        )
    return rows
