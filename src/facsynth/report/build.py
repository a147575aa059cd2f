"""The report of a run folder, from its files alone: nothing is measured again. After `synthesis`; the last stage.

A run in the making is reported too: what is not there, or cannot be read, is said at the top of the page.
"""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import Any

from markupsafe import Markup

from facsynth.report import curves, plots
from facsynth.report.excerpts import Excerpt, sample_excerpt
from facsynth.report.features import Features, said_of_samples, table_of
from facsynth.report.page import write_page
from facsynth.report.read import RunFiles, read_run
from facsynth.report.words import meanings
from facsynth.synthesis.accept import text_sha256

MAX_FEATURES, MAX_OTHERS, MAX_GAVE_UP, MAX_ACCEPTED = 100, 50, 100, 30
"""Rows of the tables that are there without the script, too; the page says how many more there are."""


def build_report(run: Path) -> Path:
    """Write `report.html` into the run folder, finished or not, and return its path.

    Raises:
        InputError: there is no such folder, or it holds no file of a run.
    """
    files = read_run(run)
    features = Features(files)
    return write_page(run / "report.html", "run.html", page(files, features), table_of(features))


def page(files: RunFiles, features: Features) -> dict[str, Any]:
    """Everything the template shows."""
    summary, before, after = files.summary, files.before, files.after
    planned = [i for i, row in features.plan.items() if row["kind"] == "missing" and i not in features.targets]
    unplanned = [i for i in features.missing if i not in features.targets and i not in features.plan]
    others = [*planned, *unplanned]
    counts = Counter(summary["n_rejected"] if summary else (row["reason"].partition(":")[0] for row in files.rejected))
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
        "gained": gained(features),
        "accepted": accepted(files),
        "n_selected": sum(row["source"] == "selected" for row in files.provenance),
        "n_left_out": sum(not row["keep"] for row in files.plan),
        "meanings": meanings(before or after),
        "n_accepted": summary.get("n_accepted", len(files.provenance)),
        "n_attempted": summary.get("n_attempted", len(features.targets)),
        "n_rejected": sum(counts.values()),
        "top_reason": ", ".join([*(f"{n:,} {reason}" for reason, n in counts.most_common(2)), "…"][: len(counts)]),
        "notices": [*files.notices, *notices(files)],
        "coverage_figure": Markup(plots.coverage_figure(before, after)),
        "recovered_figure": Markup(plots.recovered_figure(summary)),
        "rejected_figure": Markup(plots.count_figure("Rejected by reason", counts)),
        "said_of_samples": said_of_samples,
        "features": [features[i] for i in [*features.targets][:MAX_FEATURES]],
        "n_features": len(features.targets),
        "others": [features[i] for i in others[:MAX_OTHERS]],
        "n_others": len(others),
        "n_unplanned": len(unplanned),
        "gave_up": files.gave_up[:MAX_GAVE_UP],
        "commands": [f"facsynth run {name}/facsynth.yaml -o again", f"facsynth verify {name}"],
    }


def gained(features: Features) -> str:
    """Where the newly covered features come from; "" where nothing was measured again, or all were aimed at."""
    new = [i for i in features.missing if i not in features.lost] if features.files.after else []
    n_aimed = sum(i in features.targets for i in new)
    if n_aimed == len(new):
        return ""
    others = f"{len(new) - n_aimed:,} that samples for others fire too"
    return f"Newly covered: {len(new):,} features, {n_aimed:,} of those attempted, and {others}."


def accepted(files: RunFiles) -> list[tuple[dict[str, Any], Excerpt]]:
    """The first accepted samples, each with its provenance."""
    rows = enumerate(files.provenance[:MAX_ACCEPTED])
    return [(row, text) for n, row in rows if (text := sample_excerpt(files, n, marked=True)) is not None]


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
    said += damage(files)
    value = files.summary.get("recovered_of_attempted")
    chances = [files.summary.get(key) for key in ("recovered_chance", "recovered_chance_tokens")]
    if value is not None and any(chance is not None and chance >= value for chance in chances):
        said.append("Recovered does not exceed the chance level: plain prompts would have done as well.")
    return said


def damage(files: RunFiles) -> list[str]:
    """What does not hold of the files of samples."""
    said = []
    if len(files.samples) != len(files.provenance):
        said.append(
            f"samples.jsonl has {len(files.samples)} rows and provenance.jsonl {len(files.provenance)}; "
            "texts are shown only where both have one."
        )
    texts = [(files.accepted_text(index), row) for index, row in enumerate(files.provenance)]
    n_changed = sum(text is not None and text_sha256(text) != row["text_sha256"] for text, row in texts)
    if n_changed:
        said.append(f"{n_changed} texts of samples.jsonl were changed after they were accepted: facsynth verify tells.")
    return said
