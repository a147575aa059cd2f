"""How far what is known of features can be trusted, in figures. After the sheet; `explain` writes them down."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from statistics import fmean
from typing import Any

from facsynth.meaning.score import mean_interval, share_interval
from facsynth.meaning.sheet import HUMAN, MODEL, Note
from facsynth.records import Interval


def figures_of(notes: Sequence[Note]) -> dict[str, Any]:
    """How many features are explained, and how well.

    Intervals are over features, which count for one each: a judge's answers about the texts of one hang together.
    """
    scores = [note.score for note in notes if note.score is not None]
    pairs = [(n.score, n.control) for n in notes if n.score is not None and n.control is not None]
    n_beat = sum(score > control for score, control in pairs)
    labels = [note.verdict for note in notes if note.verdict]
    return {
        "n_features": len(notes),
        "n_screened": sum(bool(note.screened) for note in notes),
        "n_explained": sum(bool(note.explanation) for note in notes),
        "n_cannot_tell": sum(note.explained_by == MODEL and not note.explanation for note in notes),
        "n_human": sum(HUMAN in {note.explained_by, note.judged_by} for note in notes),
        "n_scored": len(scores),
        "score": fmean(scores) if scores else None,
        "score_interval": _ends(mean_interval(scores)),
        "n_with_control": len(pairs),
        "control": fmean(control for _, control in pairs) if pairs else None,
        "above_control": fmean(score - control for score, control in pairs) if pairs else None,
        "above_control_interval": _ends(mean_interval([score - control for score, control in pairs])),
        "beats_control": n_beat / len(pairs) if pairs else None,
        "beats_control_interval": _ends(share_interval(n_beat, len(pairs))) if pairs else None,
        "ties_control": fmean(score == control for score, control in pairs) if pairs else None,
        "verdicts": {label: labels.count(label) for label in ("Yes", "Probably", "Maybe", "No")},
    }


def agreement(notes: Sequence[Note], told: Collection[int], counts: Collection[str]) -> dict[str, Any]:
    """How far judge and contrast hold the same features relevant, over those that a model judged.

    Args:
        notes: of features.
        told: features that contrast tells.
        counts: verdicts that count as relevant.

    Returns:
        The four counts; the share on which both agree; and Cohen's kappa, 0 where that is no more than chance.
    """
    pairs = [(note.verdict in counts, note.feature_id in told) for note in notes if note.judged_by == MODEL]
    n, both = len(pairs), sum(a and b for a, b in pairs)
    by_judge, by_contrast = sum(a for a, _ in pairs), sum(b for _, b in pairs)
    share = (n - by_judge - by_contrast + 2 * both) / n if n else None
    chance = (by_judge * by_contrast + (n - by_judge) * (n - by_contrast)) / n**2 if n else 1.0
    kappa = None if share is None or chance == 1 else (share - chance) / (1 - chance)
    return {
        "both": both, "judge_alone": by_judge - both, "contrast_alone": by_contrast - both,
        "neither": n - by_judge - by_contrast + both, "share": share, "kappa": kappa,
    }  # fmt: skip


def _ends(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]
