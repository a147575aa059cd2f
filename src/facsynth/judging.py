"""What a judge holds relevant in a run folder, asked for before samples are begun and fixed from then on.

Before: `explain`, which asks, and an encoded anchor. After: `measure` takes what is judged relevant as targets.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from facsynth.errors import SettingsError
from facsynth.explain import Material, explain, gather, judge_features, keep
from facsynth.features.encode import FeatureSpace
from facsynth.features.encoded import Encoded
from facsynth.llm import Ledger
from facsynth.meaning.sheet import HUMAN, SHEET, UNJUDGED, Note, read_notes
from facsynth.measure import Judged, candidates
from facsynth.model.writer import LocalWriter
from facsynth.profile import Profile
from facsynth.protocols import Writer
from facsynth.records import Progress, Task, no_progress
from facsynth.report.shapes import Shape, is_count, list_of, read_object
from facsynth.settings import RunSettings
from facsynth.store import fingerprint, read_json, write_json
from facsynth.tasks import load_task
from facsynth.writers import opened_model

JUDGED = SHEET.with_name("judged.json")
"""What a run holds relevant."""
RUBRIC = SHEET.with_name("rubric.json")
"""By which a model judged."""
RECORD: Shape = {**dict.fromkeys(("feature_ids", "asked"), list_of(is_count)), "n_unjudged": is_count}


def judged_features(
    settings: RunSettings,
    out: Path,
    space: FeatureSpace,
    anchor: Encoded,
    background: Profile | None,
    *,
    replay: Path | None = None,
    progress: Progress = no_progress,
) -> Judged:
    """Explain and judge whatever could be a target, and keep it in the sheet. Once samples were begun, what was judged
    before them holds.

    Raises:
        SettingsError: `check_task`.
        IncompleteError: features that could be judged by the same command are not yet.
    """
    assert settings.task is not None, "the settings see to it"
    task, fixed = load_task(settings.task), out / JUDGED
    if is_fixed(out):
        return _judged_then(fixed, read_notes(out / SHEET), settings.coverage.counts)
    ids, thresholds = candidates(anchor.profile, background, settings)
    material = gather(anchor, space, ids, thresholds, notes=read_notes(out / SHEET), asking=settings.asking)
    check_task(material.notes, task)
    with opened_judge(settings, out, space, replay=replay, progress=progress) as writer:
        failures = {"interpret": explain(material, writer, anew=False)}
        forget_other_rubric(material, task, out)
        failures["judge"] = judge_features(material, task, writer)
    keep(material, failures, out)
    remember_rubric(settings, out)
    counted = sorted(i for i in ids if material.notes[i].verdict in settings.coverage.counts)
    n_unjudged = sum(not material.notes[i].verdict for i in ids)
    write_json(fixed, {"feature_ids": counted, "asked": sorted(ids), "n_unjudged": n_unjudged})
    return Judged(np.array(counted, np.int64), n_unjudged)


def forget_other_rubric(material: Material, task: Task, out: Path) -> None:
    """Take back what a model judged by another rubric that had the task's name; a person's verdicts stay."""
    path = out / RUBRIC
    if path.exists() and read_json(path, "rubric")["rubric"] != fingerprint(asdict(task)):
        for i, note in material.notes.items():
            if note.judged_by != HUMAN:
                material.notes[i] = replace(note, **UNJUDGED)


def remember_rubric(settings: RunSettings, out: Path) -> None:
    """Write down what the verdicts of the sheet are by."""
    assert settings.task is not None, "who judges has one"
    task = load_task(settings.task)
    write_json(out / RUBRIC, {"task": task.name, "rubric": fingerprint(asdict(task))})


def is_fixed(out: Path) -> bool:
    """Whether samples were begun for what was judged, so that nobody is asked again."""
    return (out / "targets.json").exists() and (out / JUDGED).exists()


def check_task(notes: Mapping[int, Note], task: Task) -> None:
    """Refuse to judge beside verdicts by hand that are of another task.

    Raises:
        SettingsError: there are some.
    """
    others = [note for note in notes.values() if note.judged_by == HUMAN and note.task not in {"", task.name}]
    if others:
        raise SettingsError(
            f"{SHEET} holds verdicts by hand for another task: {len(others)}, the first for feature "
            f"{others[0].feature_id} ({others[0].task}); asked for {task.name}\n"
            "Judge in a folder of its own, or empty those cells."
        )


def _judged_then(path: Path, notes: Mapping[int, Note], counts: Collection[str]) -> Judged:
    """What was judged before samples were begun, whatever the sheet says now."""
    record = read_object(path, RECORD)
    then = set(record["feature_ids"])
    now = {i for i in record["asked"] if i in notes and notes[i].verdict in counts}
    return Judged(np.array(sorted(then), np.int64), record["n_unjudged"], len(then ^ now))


@contextmanager
def opened_judge(
    settings: RunSettings,
    out: Path,
    space: FeatureSpace,
    *,
    replay: Path | None = None,
    progress: Progress = no_progress,
) -> Iterator[Writer]:
    """Whoever explains and judges features in a run folder, through its ledger; `replay` as `run` takes it."""

    def local() -> Writer:
        return LocalWriter(space.backbone, space.template.prompt_ids, {}, batch_size=settings.judge.batch_size)

    with (
        Ledger.open(out / "ledger.sqlite") as ledger,
        opened_model(settings, "judge", ledger, local, replay=replay, progress=progress) as writer,
    ):
        yield writer
