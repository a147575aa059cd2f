"""Instruction following on a user's own data: a model is tuned on chats, answers instructions, and a judge compares.

Before: files, and the model's place. After: a result folder. Adapters, answers and verdicts of a seed are kept as they
are done, and every call to the judge in `ledger.sqlite`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facsynth.asked import EndpointBlock
from facsynth.bins import Doubles
from facsynth.errors import InputError, SettingsError
from facsynth.evaluating.answers import CUT, Chats, Item, Items, asked_in, read_chats, read_items, read_outputs
from facsynth.evaluating.duels import Contest, Opponents, verdict_of
from facsynth.evaluating.fitting import Setup
from facsynth.evaluating.lengths import length_controlled, n_words
from facsynth.evaluating.rated import Rater
from facsynth.evaluating.results import STAGE, Result, keep_result, measured
from facsynth.evaluating.reward import read_pairs
from facsynth.llm import Ledger
from facsynth.lock import locked
from facsynth.model.hashes import model_hash
from facsynth.model.tuning import SftRecipe, adapter_hash, base_of
from facsynth.records import Progress, no_progress
from facsynth.settings import ModelBlock
from facsynth.store import Artifact, read_jsonl
from facsynth.tasks.instruction import Verdict, bias_of

TASK = "instruction"


@dataclass(frozen=True)
class InstructionSettings:
    """What answers depend on, besides data and models."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Of a training each; what is not trained answers once, and that counts for every seed."""
    recipe: SftRecipe = field(default_factory=SftRecipe)
    answer_tokens: int = 512
    """Of an answer, at most."""


def evaluate_instruction(
    train: Sequence[str],
    test: Sequence[str],
    reference: str,
    model: ModelBlock,
    settings: InstructionSettings,
    *,
    adapter: Path | None = None,
    judge: EndpointBlock | Sequence[str] = (),
    out: Path,
    cache: Path,
    progress: Progress = no_progress,
) -> Path:
    """Tune a model on chats, a fresh one for each seed, and have its answers compared with those of a reference.

    Args:
        train: files of chats, together the training set; none: the model as it is, or with `adapter`.
        test: files of instructions.
        reference: a file of outputs, in AlpacaEval's layout or as chats, for each of them.
        model: what is tuned.
        settings: how.
        adapter: a PEFT folder that was trained elsewhere, in the place of `train`.
        judge: an endpoint; or files of preference pairs, for a reward head of the model; or none: the model itself.
        out: folder of the result; the same call goes on with it, or changes nothing.
        cache: for the embedded model and hashes.
        progress: told samples, steps and replies.

    Returns:
        The folder: win rate is the mean preference over both orders; `outputs-SEED.json` have AlpacaEval's layout.

    Raises:
        SettingsError, InputError: chats and an adapter; an instruction without an answer; nothing to train on.
        MismatchError: an adapter for another base, or the folder of another result.
        ModelError, IncompleteError: the judge tells nothing; it did not answer all, and the same call asks again.
    """
    if train and adapter:
        raise SettingsError("chats to train on and --adapter are both given\nName one of them.")
    opponents = _opponents(adapter, judge, Setup(TASK, model, "head", [0], out, cache, progress))
    test_set, chats = read_items(test, reference, progress), read_chats(train, progress) if train else None
    asked, parents = _plan(opponents, test_set, chats, settings)
    with locked(out):
        artifact = Artifact(out, STAGE, asked, parents)
        if artifact.manifest is None:
            found = _played(artifact, opponents, test_set, chats, settings, progress=progress)
            names = _names(opponents, train, test, reference)
            keep_result(artifact, found._replace(record=asked | found.record | names))
    return out


def _opponents(adapter: Path | None, judge: EndpointBlock | Sequence[str], setup: Setup) -> Opponents:
    who: EndpointBlock | Rater | None = None
    if isinstance(judge, EndpointBlock):
        who = judge
    elif judge:
        who = Rater(read_pairs(judge, setup.progress), setup)
    return Opponents(setup.model, setup.folder, setup.cache, adapter, who)


def _plan(
    opponents: Opponents, test_set: Items, chats: Chats | None, settings: InstructionSettings
) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings and parents of the result."""
    asked = {"task": TASK, "dtype": opponents.model.dtype, "judge": opponents.judge_name, **asdict(settings)}
    parents = {"model": model_hash(opponents.folder, opponents.cache), **test_set.fingerprints}
    parents |= {"train": chats.fingerprint} if chats else {}
    parents |= {"adapter": adapter_hash(opponents.adapter)} if opponents.adapter else {}
    return asked if chats else asked | {"recipe": None}, parents


def _names(opponents: Opponents, train: Sequence[str], test: Sequence[str], reference: str) -> dict[str, Any]:
    adapter = opponents.adapter
    names = {"model": opponents.model.path, "train": [*train], "test": [*test], "reference": reference}
    if adapter is None:
        return {"names": names}
    base, of_model = base_of(adapter), {opponents.folder.name, Path(opponents.model.path).name}
    return {"names": names | {"adapter": str(adapter), "adapter_base": None if Path(base).name in of_model else base}}


def _played(
    artifact: Artifact, opponents: Opponents, test_set: Items, chats: Chats | None, settings: InstructionSettings,
    *, progress: Progress,
) -> Result:  # fmt: skip
    trained = settings.seeds if chats else settings.seeds[:1]
    with Ledger.open(artifact.folder / "ledger.sqlite") as ledger:
        contest = Contest(artifact, opponents, test_set.items, ledger, progress)
        probe = contest.probe()
        for rng_seed in trained:
            contest.answer(rng_seed, chats, settings.recipe, settings.answer_tokens)
            contest.judge(rng_seed)
    found = _result(artifact.folder, test_set, chats, trained, len(settings.seeds))
    return found._replace(record={"probe": probe, **found.record})


class _Seed(NamedTuple):
    """What became of one seed."""

    outputs: list[dict[str, Any] | None]
    verdicts: dict[str, Verdict]
    """By sample."""
    preferences: Doubles
    """[n_items], NaN without both verdicts."""


def _result(folder: Path, test_set: Items, chats: Chats | None, trained: Sequence[int], n_seeds: int) -> Result:
    """The figure of all instructions, and of those that are not in training."""
    items = test_set.items
    seeds = [_seed(folder, rng_seed, items) for rng_seed in trained]
    scores = np.stack([rng_seed.preferences for rng_seed in seeds])
    if not np.isfinite(scores).any(axis=1).all():
        raise InputError(
            f"no instruction has a usable verdict in both orders: see {folder}/verdicts-*.failures.jsonl\n"
            "Take another judge, in another folder; --adapter takes what was trained here."
        )
    n_left_out = int(np.isnan(scores).sum())
    scores = np.repeat(scores, n_seeds, axis=0) if len(seeds) < n_seeds else scores
    rows = [item.as_row() for item in items]
    known = {asked_in(sample) for sample in chats.samples} if chats else set()
    new = np.array([n for n, item in enumerate(items) if item.sample_id not in known], np.int64)
    has_new = 0 < len(new) < len(items) and bool(np.isfinite(scores[:, new]).any(axis=1).all())
    record = {
        **measured(TASK, rows, scores), "metric": "win rate", "n_left_out": n_left_out, "n_twice": test_set.n_twice,
        "n_skipped": {"train": chats.n_skipped if chats else 0, "test": test_set.n_skipped},
        "n_train": len(chats.samples) if chats else 0, "n_seen": len(items) - len(new),
        "unseen": measured(TASK, [rows[n] for n in new], scores[:, new]) if has_new else None,
        "judging": bias_of([verdict for rng_seed in seeds for verdict in rng_seed.verdicts.values()]),
        "words": n_words([row["output"] for rng_seed in seeds for row in rng_seed.outputs if row]),
        "words_reference": n_words([item.reference for item in items]),
        "n_cut": sum(row["finish_reason"] == CUT for rng_seed in seeds for row in rng_seed.outputs if row),
        "length_controlled": _at_equal_length(items, seeds),
    }  # fmt: skip
    return Result(TASK, rows, scores, record)


def _seed(folder: Path, rng_seed: int, items: Sequence[Item]) -> _Seed:
    outputs = read_outputs(folder / f"outputs-{rng_seed}.json", items)
    verdicts = {row["sample_id"]: verdict_of(row) for row in read_jsonl(folder / f"verdicts-{rng_seed}.jsonl")}
    found = [verdicts[item.sample_id].preference if item.sample_id in verdicts else None for item in items]
    return _Seed(outputs, verdicts, np.array(found, np.float64))


def _at_equal_length(items: Sequence[Item], seeds: Sequence[_Seed]) -> dict[str, Any]:
    """By seed, or why there is none."""
    values = []
    for rng_seed in seeds:
        both = [
            (n, row["output"]) for n, row in enumerate(rng_seed.outputs) if row and np.isfinite(rng_seed.preferences[n])
        ]
        places, ours = [n for n, _ in both], [text for _, text in both]
        try:
            values.append(length_controlled(rng_seed.preferences[places], ours, [items[n].reference for n in places]))
        except InputError as err:
            return {"value": None, "why": str(err)}
    return {"value": float(np.mean(values)), "by_seed": values}
