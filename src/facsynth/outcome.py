"""What a run leaves behind (DESIGN 4): coverage files, samples, provenance, what was rejected, the summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from facsynth.bins import Floats
from facsynth.coverage.chance import chance_at_samples, chance_at_tokens
from facsynth.coverage.coverage import Coverage, UnderRepresented, coverage, recovered, under_represented
from facsynth.coverage.plan import PlanRow
from facsynth.features.encode import FeatureSpace
from facsynth.llm import Ledger
from facsynth.measure import Measured
from facsynth.profile import Profile
from facsynth.records import Span
from facsynth.settings import RunSettings
from facsynth.store import read_json, write_json, write_jsonl
from facsynth.synthesis.accept import NOTHING_FIRES, text_sha256
from facsynth.synthesis.candidates import SELECTED, Candidate, Synthesis
from facsynth.synthesis.requests import FeatureTask
from facsynth.text.labels import Label

SCORES = "scores.json"
"""What the judge said of samples, by source; only where one was asked."""
LABEL_HEAD = "label-head.json"
"""How well the head tells labels; only where what is written was checked by one."""


def coverage_record(
    before: Measured, space: FeatureSpace, settings: RunSettings, checked: Sequence[str] = ()
) -> dict[str, Any]:
    """`coverage/before.json`; `checked` are notes of the SAE's self-check."""
    return _coverage_json(before.coverage, before.under, before, space, settings) | {
        "ci95": None if before.interval is None else [before.interval.low, before.interval.high],
        "at_equal_samples": before.scale and before.scale.at_equal_samples,
        "at_equal_tokens": before.scale and before.scale.at_equal_tokens,
        "ceiling_at_equal_tokens": before.scale and before.scale.ceiling_at_equal_tokens,
        "n_target_of_half": before.scale and before.scale.n_target,
        "source": before.source._asdict(),
        "notes": [*space.sae.notes, *checked, *before.notes],
    }


def _coverage_json(
    found: Coverage, under: UnderRepresented, before: Measured, space: FeatureSpace, settings: RunSettings
) -> dict[str, Any]:
    """What both files hold. `ci95` is null after filling: accepted samples were chosen, not drawn from anything."""
    return {
        "ci95": None,
        "value": found.value,
        "ceiling": before.scale and before.scale.ceiling,
        "n_target": found.n_target,
        "n_covered": len(found.covered),
        "n_missing": len(found.missing),
        "n_under": len(under.feature_ids),
        "n_thin": found.n_thin,
        "covered": found.covered.tolist(),
        "missing": found.missing.tolist(),
        "under": under.feature_ids.tolist(),
        "threshold": settings.coverage.threshold,
        "relevance": before.relevance.method,
        "codes": settings.sae.codes,
        "form": settings.data.form,
        "min_support": found.min_support,
        "n_samples": found.n_samples,
        "n_tokens": found.n_tokens,
        "fingerprints": dict(space.identity),
    }


def target_record(
    row: PlanRow, thresholds: Floats, spans: Sequence[Span], label: Label | None = None
) -> dict[str, Any]:
    """One attempted feature in `targets.json`."""
    return {
        "feature_id": row.feature_id,
        "through": row.group,
        "threshold": float(thresholds[row.feature_id]),
        "kind": row.kind,
        "n_wanted": row.n_wanted,
        "anchor_rate": row.anchor_rate,
        "seed_rate": row.seed_rate,
        "explanation": row.explanation,
        "label": label,
        "spans": [asdict(span) for span in spans],
    }


def write_outcome(
    out: Path,
    *,
    before: Measured,
    anchor: Profile,
    filled: Profile,
    written: Synthesis,
    tasks: Sequence[FeatureTask],
    space: FeatureSpace,
    writer: str,
    settings: RunSettings,
    seconds: float,
) -> None:
    """Write everything that a finished run holds besides its features.

    Args:
        out: the run folder.
        before: the seed set's figures.
        anchor: its profile.
        filled: profile of seed set and accepted samples together.
        written: all candidates.
        tasks: the attempted features.
        space: in which acceptance was decided.
        writer: identity of the writer.
        settings: of the run.
        seconds: worked on the run, over all calls.
    """
    min_support = settings.coverage.min_support
    after = coverage(filled, before.targets, before.thresholds, min_support)
    under = under_represented(filled, anchor, before.targets, before.thresholds, min_support=min_support)
    write_json(out / "coverage" / "after.json", _coverage_json(after, under, before, space, settings))
    thresholds = {task.feature_id: task.threshold for task in tasks}
    common = _common_provenance(space, settings)
    write_jsonl(out / "samples.jsonl", (candidate.whole for candidate in written.accepted))
    by_id = {task.feature_id: task for task in tasks}
    write_jsonl(out / "provenance.jsonl", [_provenance(c, by_id[c.feature], writer) | common for c in written.accepted])
    write_jsonl(out / "rejected.jsonl", [_rejected(c, thresholds) for c in written.rejected])
    write_jsonl(out / "gave_up.jsonl", _gave_up(written, tasks))
    figures = _recovery(before, filled, tasks, written) | _chance_levels(written, tasks, before)
    figures |= {"before": before.coverage.value, "after": after.value, "seconds": round(seconds, 1)}
    figures["money"] = _money(settings, out)
    for key, name in (("scores", SCORES), ("label_head", LABEL_HEAD)):
        figures[key] = read_json(out / name) if (out / name).exists() else None
    write_json(out / "summary.json", figures | _counts(written, tasks) | {"names": _names(settings, space)})


def _money(settings: RunSettings, out: Path) -> float | None:
    """What the run's calls cost, those that were lost at most; None where an endpoint's price is not known."""
    endpoints = [block for block in (settings.writer.endpoint, settings.judge.endpoint) if block]
    if any(block.price is None for block in endpoints):
        return None
    with Ledger.open(out / "ledger.sqlite") as ledger:
        return round(ledger.spent().money, 6)


def _counts(written: Synthesis, tasks: Sequence[FeatureTask]) -> dict[str, Any]:
    n_written = len(written.accepted) - written.n_selected
    control_tokens = sum(c.written_tokens for c in written.paid_control)
    return {
        "n_accepted": len(written.accepted),
        "n_selected": written.n_selected,
        "n_rejected": dict(Counter(c.reason.partition(":")[0] for c in written.rejected)),
        "n_control": len(written.control),
        "rungs": written.rungs({task.feature_id: task.n_wanted for task in tasks}),
        "writer_calls": sum(c.n_calls for c in (*written.accepted, *written.rejected, *written.control)),
        "writer_tokens": written.candidate_tokens + control_tokens,
        "control_tokens": control_tokens,
        "accepted_per_1000_tokens": 1000 * n_written / max(written.candidate_tokens, 1),
        "stop_reason": written.stop_reason,
        "progress": [list(point) for point in written.progress],
    }


def _recovery(
    before: Measured, filled: Profile, tasks: Sequence[FeatureTask], written: Synthesis
) -> dict[str, int | float | None]:
    """Recovered of missing and of attempted. An under-represented feature counts when it has all it wanted; a missing
    one that is active is recovered, though it may be given up: with fewer samples than it wants, or weak ones.
    """
    missing = before.coverage.missing
    found = recovered(missing, filled, before.thresholds, before.coverage.min_support) if len(missing) else None
    active = set(found.feature_ids.tolist()) if found else set()
    is_missing = set(missing.tolist())
    n_recovered = sum(
        t.feature_id in active if t.feature_id in is_missing else t.feature_id not in written.gave_up for t in tasks
    )
    return {
        "n_gave_up": len(written.gave_up),
        "n_gave_up_recovered": len(active & written.gave_up.keys()),
        "n_missing": len(missing),
        "n_attempted": len(tasks),
        "n_recovered": n_recovered,
        "recovered": found.value if found else None,
        "recovered_of_attempted": n_recovered / len(tasks) if tasks else None,
    }


def _chance_levels(written: Synthesis, tasks: Sequence[FeatureTask], before: Measured) -> dict[str, Any]:
    """What plain samples would recover of the attempted features, at equal accepted samples and equal tokens.

    Only what could have been accepted counts: no copies of seed set, anchor or each other, nothing broken off. By the
    rule of `_recovery`: a missing feature needs the samples that make it active, another one all it wants.
    """
    sound = [c for c in written.control if c.reason in {"", NOTHING_FIRES}]
    if not sound or not tasks:
        return {"recovered_chance": None, "recovered_chance_tokens": None, "chance_extrapolated": None}
    fired = Counter(feature for c in sound for feature in c.fires)
    firing = [fired[task.feature_id] for task in tasks]
    missing, support = set(before.coverage.missing.tolist()), before.coverage.min_support
    needed = [min(t.n_wanted, support) if t.feature_id in missing else t.n_wanted for t in tasks]
    levels = (
        chance_at_samples(firing, len(sound), len(written.accepted), needed),
        chance_at_tokens(firing, len(sound), written.control_tokens, written.candidate_tokens, needed),
    )
    return {
        "recovered_chance": levels[0].value,
        "recovered_chance_tokens": levels[1].value,
        "chance_extrapolated": [level.extrapolated for level in levels],
    }


def _common_provenance(space: FeatureSpace, settings: RunSettings) -> dict[str, Any]:
    return {
        "model": space.identity["model"],
        "sae": space.identity["sae"],
        "form": settings.data.form,
        "codes": settings.sae.codes,
        "rng_seed": settings.rng_seed,
        "pair": None,
    }


def _provenance(candidate: Candidate, task: FeatureTask, writer: str) -> dict[str, Any]:
    return {
        "sample_id": candidate.sample_id,
        "text_sha256": text_sha256(candidate.text),
        "source": _source(candidate),
        "writer": None if candidate.written_for == SELECTED else writer,
        "feature": candidate.feature,
        "rung": candidate.rung,
        "written_for": _written_for(candidate),
        "fires": list(candidate.fires),
        "threshold": task.threshold,
        "explanation": (task.explanation or None) if candidate.written_for != SELECTED else None,
        "activation": candidate.activation,
        "position": candidate.position,
        "span": candidate.span,
        "log_prob": candidate.log_prob,
        "score": candidate.score,
        "steering": {str(candidate.written_for): candidate.strength} if candidate.strength else {},
        "prompt_hash": candidate.prompt_hash,
        **({"flaw": candidate.flaw} if candidate.flaw else {}),
    }


def _rejected(candidate: Candidate, thresholds: dict[int, float]) -> dict[str, Any]:
    return {
        "source": _source(candidate),
        "feature": _written_for(candidate),
        "reason": candidate.reason,
        "text": candidate.text,
        "activation": candidate.activation if candidate.written_for >= 0 else None,
        "threshold": thresholds.get(candidate.written_for),
    }


def _source(candidate: Candidate) -> str:
    return "selected" if candidate.written_for == SELECTED else "written"


def _written_for(candidate: Candidate) -> int | None:
    return candidate.written_for if candidate.written_for >= 0 else None


def _gave_up(written: Synthesis, tasks: Sequence[FeatureTask]) -> list[dict[str, Any]]:
    rows, of = [], {task.feature_id: task for task in tasks}
    for feature, n_candidates in written.gave_up.items():
        own = [c for c in written.rejected if c.written_for == feature]
        rows.append(
            {"feature": feature, "reason": _why_given_up(of[feature], n_candidates, own), "n_candidates": n_candidates,
             "best_activation": max((c.activation for c in own if c.activation is not None), default=None),
             "threshold": of[feature].threshold}
        )  # fmt: skip
    return rows


def _why_given_up(task: FeatureTask, n_candidates: int, own: Sequence[Candidate]) -> str:
    if task.through is not None:
        return f"left to feature {task.through} of the same concept; too few samples fire this one too"
    if not task.spans:
        return "nothing to write by: no anchor text is known that fires it"
    if not n_candidates:
        return "no candidate was written"
    reasons = Counter(c.reason.partition(":")[0] for c in own).most_common(3)
    return f"{n_candidates} candidates, too few are accepted: " + ", ".join(f"{n} {reason}" for reason, n in reasons)


def _names(settings: RunSettings, space: FeatureSpace) -> dict[str, str]:
    return {
        "model": space.backbone.name,
        "sae": settings.sae.path,
        "hook_point": space.backbone.hook_point,
        "seed": ", ".join(Path(source).name for source in settings.data.seed),
        "anchor": ", ".join(Path(source).name for source in settings.data.anchor),
    }
