"""The card of an exported data set: what is in it, how it came about, and what nobody knows of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

SOURCES = {
    "seed": "the data set that was filled, as it was",
    "selected": "chosen from a pool of texts, by the features they fire",
    "written": "written by a language model, and kept because they fire the feature they were written for",
}
WARNING = (
    "**Content warning.** These samples were made to train and test detectors of harmful messages: they may be "
    "offensive. They are no example of what to write."
)


def card_of(
    name: str, file_name: str, record: Mapping[str, Any], summary: Mapping[str, Any], about: Mapping[str, Any]
) -> str:
    """A README.md in the form that the Hub reads.

    Args:
        name: of the run.
        file_name: of the rows.
        record: `export.json`.
        summary: `summary.json` of the run.
        about: `licences` {part: licence}, `writer`, `task`, `is_offensive`, `settings` (YAML, the recipe).
    """
    front = {
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": file_name}]}],
        "license": "unknown",
        "tags": ["facsynth", *(["synthetic"] if record["sources"].get("written") else [])],
    }
    counts = [f"| {s} | {n:,} | {SOURCES[s]} |" for s, n in sorted(record["sources"].items())]
    licences = [f"- {part}: {licence}" for part, licence in about["licences"].items()]
    for_task = f" for {about['task']}" if about["task"] else ""
    return "\n".join([
        "---", yaml.safe_dump(front, sort_keys=False).strip(), "---", "", f"# {name}", "",
        *([WARNING, ""] if about["is_offensive"] else []),
        f"{record['n_rows']:,} samples{for_task}, made with facsynth.", "",
        "| source | samples | |", "|---|---|---|", *counts, "",
        "## Coverage", "",
        f"Of the features of a sparse autoencoder that the anchor `{summary['names']['anchor']}` activates and the "
        f"task calls for, the seed set `{summary['names']['seed']}` covers {summary['before']:.1%}, and together with "
        f"all {summary['n_accepted']} accepted samples {summary['after']:.1%}. Measured on "
        f"{summary['names']['model']} at {summary['names']['hook_point']}. It says nothing of whether texts are true, "
        "well written or harmless.", "",
        "## Licences of what it was made from", "", *licences, "",
        f"Written samples come from `{about['writer']}`, whose licence may bind them too.", "",
        "## Recipe", "", "`provenance.jsonl` says of each row where it comes from, which feature it fires, and how "
        "strongly. The run's settings:", "", "```yaml", about["settings"].strip(), "```", "",
    ])  # fmt: skip
