"""The report of a run folder, from its files alone: nothing is measured again. After `synthesis`; the last stage.

A run in the making is reported too: what is not there, or cannot be read, is said at the top of the page.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from facsynth import __version__
from facsynth.report import plots
from facsynth.report.read import RunFiles, read_run
from facsynth.store import write_text
from facsynth.synthesis.accept import text_sha256

MAX_FEATURES, MAX_OTHERS, MAX_GAVE_UP = 400, 50, 100
"""Rows of the tables; the page says how many more there are. 400 features are at most 2 MB."""
MAX_WHOLE, CONTEXT, MAX_SPAN, MAX_TOKEN = 700, 220, 400, 60
"""Characters: of a text shown whole, around the span of a longer one, of the span, of the firing token."""
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_LAST_WORD = re.compile(r"(?<!\S)\S{1,24}\s*\Z")


@dataclass(frozen=True)
class Excerpt:
    """A text around the span that fires. `token` ends the span; `n_characters` is 0 where nothing was cut."""

    head: str
    span: str
    token: str
    tail: str
    n_characters: int = 0


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
    html = _template().render(page(read_run(run)))
    write_text(run / "report.html", _UNPRINTABLE.sub("\ufffd", html))
    return run / "report.html"


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = {"percent": plots.percent, "count": plots.count, "times": plots.times, "visible": visible}
    environment.filters.update(filters | {"meter": lambda g, threshold: Markup(plots.meter(g, threshold))})
    return environment.get_template("template.html")


def page(files: RunFiles) -> dict[str, Any]:
    """Everything the template shows."""
    summary, before, after = files.summary, files.before, files.after
    attempted = files.targets.get("attempted", [])
    known = {row["feature_id"] for row in attempted}
    others = [row for row in files.plan if row["kind"] == "missing" and row["feature_id"] not in known]
    known |= {row["feature_id"] for row in files.plan}
    unplanned = [i for i in before.get("missing", []) if i not in known]
    others += [{"feature_id": i, "span": "", "anchor_rate": None} for i in unplanned]
    counts = summary["n_rejected"] if summary else Counter(row["reason"] for row in files.rejected)
    name = shlex.quote(files.name)
    return {
        "files": files,
        "summary": summary,
        "before": before,
        "after": after,
        "names": summary.get("names", {}),
        "n_accepted": summary.get("n_accepted", len(files.provenance)),
        "n_attempted": summary.get("n_attempted", len(attempted)),
        "n_rejected": sum(counts.values()),
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
        "version": __version__,
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
        state, tone = _state(files, target, accepted[feature])
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
                sample=None if place is None else _sample_excerpt(files, place, marked=row is not None),
                accepted_for=None if place is None else files.provenance[place]["feature"],
                gave_up=gave_up.get(feature, ""),
            )
        )
    return rows


def excerpt(text: str, start: int, end: int, token: str = "") -> Excerpt:
    """`text` with `text[start:end]` as the span, its closing `token` set apart; a long text is cut around it."""
    token = token if token.isspace() else token.lstrip()
    token_start = end - min(len(token), MAX_TOKEN) if text[:end].endswith(token) else end
    start = max(min(start, token_start), end - MAX_SPAN)
    first, last = 0, len(text)
    if len(text) > MAX_WHOLE:
        first = max(0, start - CONTEXT)
        last = min(len(text), max(end + CONTEXT, first + MAX_WHOLE - CONTEXT))
    return Excerpt(
        head=("… " if first else "") + text[first:start],
        span=text[start:token_start],
        token=text[token_start:end],
        tail=text[end:last] + (" …" if last < len(text) else ""),
        n_characters=len(text) if last - first < len(text) else 0,
    )


def ending(text: str, token: str = "") -> Excerpt:
    """A span, which ends with the token that fires; the last word stands for one that was not recorded."""
    return excerpt(text, len(text), len(text), token or _last_word(text))


def visible(token: str) -> str:
    """A token of white space as signs one can see."""
    return token if token.strip() else token.replace("\n", "⏎").replace(" ", "␣")


def _sample_excerpt(files: RunFiles, index: int, *, marked: bool) -> Excerpt | None:
    """The accepted sample of a provenance row, `marked`: with the span that its row names where it holds it."""
    row, text = files.provenance[index], files.accepted_text(index)
    if text is None:
        unreadable = "This row of samples.jsonl cannot be read in the run's form."
        return Excerpt(unreadable, "", "", "") if index < len(files.samples) else None
    span = row["span"] if marked else ""
    span = span if span in text else span.strip()
    start = text.find(span) if span else -1
    return excerpt(text, 0, 0) if start < 0 else excerpt(text, start, start + len(span), _last_word(span))


def _last_word(text: str) -> str:
    found = _LAST_WORD.search(text[-200:])
    return found.group() if found else ""


def _state(files: RunFiles, target: Mapping[str, Any], n_accepted: int) -> tuple[str, str]:
    """What became of a feature, and how it is coloured: good, bad or open."""
    if target["kind"] == "under":
        wanted = target["n_wanted"]
        return f"{n_accepted} of {wanted} wanted", "good" if n_accepted >= wanted else "bad"
    if not files.after:
        return ("accepted, not measured", "open") if n_accepted else ("open", "open")
    if target["feature_id"] in files.after["missing"]:
        return "not recovered", "bad"
    return ("recovered", "good") if n_accepted else ("recovered by others", "good")
