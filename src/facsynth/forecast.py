"""What writing would take: calls, tokens, money and time, before the first call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from facsynth.assemble import check_form, check_pool
from facsynth.llm import Ledger
from facsynth.llm.budget import Amount, total
from facsynth.llm.endpoint import Endpoint
from facsynth.llm.endpoint_writer import identity_of, is_passing
from facsynth.llm.longer import LONGER
from facsynth.lock import locked
from facsynth.pipeline import measure_run
from facsynth.planning import N_SPANS, planned
from facsynth.records import Progress, Request, no_progress
from facsynth.run_folder import open_run, read_unless_known
from facsynth.settings import RunSettings
from facsynth.synthesis.candidates import PLAIN_RUNG, STEERED_RUNG
from facsynth.synthesis.requests import (
    FeatureTask,
    Pair,
    SynthesisSettings,
    feature_request,
    plain_request,
    worst_amount,
)
from facsynth.synthesis.waves import first_plain, n_control
from facsynth.writers import ROLES, check_no_bill, endpoint_settings, role_of


def forecast(settings: RunSettings, out: Path, cache: Path, progress: Progress = no_progress) -> dict[str, Any]:
    """Measure into a run folder, and add up what its plan would take; nothing is written or fixed.

    Returns:
        `n_features`, `n_wanted`; `least` (every candidate is kept) and `most`, each with `calls`, `tokens` (as many as
        can be) and `money` (None where no price is known), without what a judge is asked (`accept.min_score`);
        `minutes`, about, for the most (None before the first call); `n_known`: calls that are answered already; `caps`
        in words.
    """
    check_form(settings)
    check_pool(settings)
    check_no_bill(settings, dry_run=True)
    with locked(out):
        corpora = read_unless_known(settings, out, progress)
        open_run(settings, out, corpora)
        before, space, anchor, _ = measure_run(settings, out, cache, corpora, progress)
        chosen, spans, _ = planned(before, settings, out, anchor, space)
    tasks = [
        FeatureTask(
            r.feature_id, float(before.thresholds[r.feature_id]), r.n_wanted, tuple(spans[r.feature_id][:N_SPANS])
        )
        for r in chosen
        if r.group is None
    ]
    s = settings.synthesis
    per_wave, ends = s.per_wave, [_candidates(task, s) for task in tasks]
    least, most = (
        [request for task, n in zip(tasks, numbers, strict=True) for request in _requests(task, range(n), settings)]
        for numbers in ([few for few, _ in ends], [many for _, many in ends])
    )
    n_waves = max((-(-many // per_wave) for _, many in ends), default=0)
    n_known, latency = _known(settings, out)
    few, many = _n_plain(len(tasks), s)
    found = {"least": _amount([] if few else least, few, replace(s, n_tries=1)), "most": _amount(most, many, s)}
    endpoint = settings.writer.endpoint
    is_priced = endpoint is None or endpoint.price is not None
    rounds = (
        found["most"].calls if endpoint is None else n_waves * s.n_tries + found["most"].calls / endpoint.concurrency
    )
    return {
        "n_features": len(tasks), "n_wanted": sum(task.n_wanted for task in tasks),
        **{name: {**amount._asdict(), "money": amount.money if is_priced else None} for name, amount in found.items()},
        "minutes": None if latency is None else rounds * latency / 60,
        "n_known": n_known,
        "caps": ", ".join(f"{name}: {cap:,}" for name, cap in vars(settings.caps).items() if cap is not None),
    }  # fmt: skip


def _candidates(task: FeatureTask, settings: SynthesisSettings) -> tuple[int, int]:
    """How many are asked for at least and at most: whole waves, and with a lag one more before the first is decided."""
    per_wave, n_wanted = settings.per_wave, task.n_wanted
    most = n_wanted * settings.max_candidates * settings.rounds + settings.lag * per_wave
    return min((-(-n_wanted // per_wave) + settings.lag) * per_wave, most), most


def _requests(task: FeatureTask, indices: Iterable[int], settings: RunSettings) -> list[Request]:
    """In step 2 with a pair as long as can be."""
    s = settings.synthesis
    widest = Pair("x " * 2 * s.max_tokens * LONGER, "x " * 2 * s.max_tokens * LONGER) if s.steps == 2 else None
    strength = s.strength if STEERED_RUNG in s.rungs else 0.0
    return [feature_request(task, index, s, widest if index >= s.per_wave else None, strength) for index in indices]


def _n_plain(n_features: int, settings: SynthesisSettings) -> tuple[int, int]:
    """How many plain samples are written to be selected from, at least and at most."""
    if PLAIN_RUNG not in settings.rungs or not settings.max_candidates:
        return 0, 0
    return first_plain(n_features, settings), n_features * settings.max_candidates * settings.rounds


def _amount(requests: Sequence[Request], n_plain: int, settings: SynthesisSettings) -> Amount:
    """With so many plain samples, or those that are due beside the others where these are more."""
    n = max(n_plain, n_control(len(requests) + n_plain, settings))
    plain = [plain_request(index, settings) for index in range(n)]
    return total(worst_amount(request, settings) for request in (*requests, *plain))


def _known(settings: RunSettings, out: Path) -> tuple[int, float | None]:
    """Calls of the writer and of who drafts for it that the ledger answers, and the median seconds of a call in it;
    only an endpoint is asked who it is.
    """
    path = out / "ledger.sqlite"
    if not path.is_file():
        return 0, None
    with Ledger.open(path) as ledger:
        seconds = ledger.latencies()
        identities = {name for name in ledger.writers() if role_of(name) != ROLES["judge"]}
        if settings.writer.endpoint is not None:
            with Endpoint(endpoint_settings(settings.writer.endpoint)) as endpoint:
                own = identity_of(endpoint.settings, endpoint.described())
            identities = {name for name in identities if role_of(name) or name == own}
        n_known = sum(call.writer in identities and not is_passing(call.reply.error) for call in ledger.recorded())
        return n_known, seconds[len(seconds) // 2] if seconds else None
