"""A model answers instructions, after training or as it is, and a judge compares; each part is kept once it is done.

Before: `answers` reads instructions and chats. After: `instruction` makes a result of the verdicts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from facsynth.asked import EndpointBlock
from facsynth.errors import ModelError
from facsynth.evaluating.answers import ALPACA, Chats, Item, examples_of, keep_outputs, read_outputs, write_answers
from facsynth.evaluating.rated import Rater
from facsynth.llm import Ledger, LedgerWriter
from facsynth.llm.budget import FREE, NO_CAPS, Budget
from facsynth.meaning.asking import AskingSettings
from facsynth.model.backbone import Backbone, load_backbone
from facsynth.model.hashes import model_hash
from facsynth.model.tuning import SftRecipe, check_adapter, train_adapter, wear_adapter
from facsynth.model.writer import LocalWriter
from facsynth.protocols import Writer
from facsynth.records import Progress
from facsynth.settings import ModelBlock
from facsynth.store import Artifact, read_jsonl, write_jsonl
from facsynth.tasks.instruction import Duel, Verdict, Verdicts, check_judge, judge_duels
from facsynth.text.template import Template
from facsynth.writers import ROLES, opened_endpoint

ANY_HOOK = "layers.0"
"""Answers do not depend on it."""
STAND_IN = "stand-in: the model itself, before training"
"""Who judges where neither endpoint nor pairs are named."""
N_PROBED = 20
"""Instructions with which a judge that has to be asked is tried out before anything is trained; a head rates all."""


@dataclass(frozen=True)
class Opponents:
    """Who answers and who judges."""

    model: ModelBlock
    folder: Path
    """Of the model."""
    cache: Path
    adapter: Path | None
    """One that was trained elsewhere."""
    judge: EndpointBlock | Rater | None
    """At an endpoint, or a reward head; None: the model itself."""

    @property
    def judge_name(self) -> str:
        """What the judge is called."""
        if isinstance(self.judge, Rater):
            return self.judge.name
        return self.judge.model if self.judge else f"{STAND_IN} ({model_hash(self.folder, self.cache)[:8]})"

    def load(self) -> Backbone:
        """A fresh model; one without a chat template gets Alpaca's frame."""
        found = load_backbone(
            self.folder, hook_point=ANY_HOOK, dtype=self.model.dtype, device=self.model.device, cache=self.cache
        )
        if not Template(found.tokenizer).has_chat:
            found.tokenizer.chat_template = ALPACA
        return found


@dataclass
class Contest:
    """What is done in a result folder."""

    artifact: Artifact
    opponents: Opponents
    items: Sequence[Item]
    ledger: Ledger
    progress: Progress
    verdicts: list[Verdict] = field(default_factory=list)
    """Of all seeds so far."""

    def probe(self) -> dict[str, Any]:
        """How often the judge finds the reference's answer better than its answer to the next instruction: `value`,
        None where it told none, of `n` instructions; `p`: how often a coin would find as many.

        Raises:
            MismatchError, ModelError: before anything is trained: the adapter does not fit, the judge tells nothing.
        """
        if self.opponents.adapter is not None:
            check_adapter(self.opponents.load(), self.opponents.adapter)
        items = self.items if isinstance(self.opponents.judge, Rater) else self.items[:N_PROBED]
        others = [*self.items[1:], self.items[0]]
        duels = [
            Duel(i.sample_id, i.instruction, i.reference, o.reference) for i, o in zip(items, others, strict=False)
        ]
        verdicts = self._judged("probe.jsonl", duels)
        check_judge(verdicts, self.opponents.judge_name, "probe.jsonl.failures.jsonl")
        known = [v.preference for v in verdicts if v.preference is not None and v.ours_first]
        if not known:
            return {"value": None, "n": 0, "p": None}
        by_coin = stats.binomtest(int(sum(known)), len(known), alternative="greater")
        return {"value": float(np.mean(known)), "n": len(known), "p": float(by_coin.pvalue)}

    def answer(self, rng_seed: int, chats: Chats | None, recipe: SftRecipe, answer_tokens: int) -> None:
        """Train where there is something to train on, and answer all instructions."""
        name = f"outputs-{rng_seed}.json"
        if self.artifact.has(name):
            return
        adapter = self.opponents.adapter
        if chats is not None:
            adapter = self.artifact.folder / f"adapter-{rng_seed}"
            if not adapter.exists():
                backbone = self.opponents.load()
                most = min(recipe.max_tokens, backbone.max_positions)
                examples = examples_of(chats, Template(backbone.tokenizer), most)
                train_adapter(backbone, examples, recipe, rng_seed=rng_seed, out=adapter, progress=self.progress)
                del backbone
        answering = self.opponents.load()
        if adapter is not None:
            answering = wear_adapter(answering, adapter)
        writer = LedgerWriter(_writer(answering), self.ledger, role="answers:", progress=self.progress)
        replies = write_answers(writer, self.items, answer_tokens)
        if all(reply.error for reply in replies):
            raise ModelError(f"{answering.name} gave no answer at all: {replies[0].error}")
        keep_outputs(self.artifact, name, self.items, replies, self.artifact.folder.name)

    def judge(self, rng_seed: int) -> None:
        """Have the answers compared."""
        outputs = read_outputs(self.artifact.folder / f"outputs-{rng_seed}.json", self.items)
        duels = [
            Duel(item.sample_id, item.instruction, row["output"], item.reference)
            for item, row in zip(self.items, outputs, strict=True)
            if row is not None
        ]
        self.verdicts += self._judged(f"verdicts-{rng_seed}.jsonl", duels)
        check_judge(self.verdicts, self.opponents.judge_name, f"verdicts-{rng_seed}.jsonl.failures.jsonl")

    def _judged(self, name: str, duels: Sequence[Duel]) -> list[Verdict]:
        """Verdicts on duels, kept under a name."""
        path = self.artifact.folder / name
        if not self.artifact.has(name):
            found = self._compared(duels)
            rows = [{"sample_id": d.sample_id, **v._asdict()} for d, v in zip(duels, found.found, strict=True)]
            failures = [replace(failure, where=f"{name}, {failure.where}") for failure in found.failures]
            self.artifact.write(name, lambda temporary: write_jsonl(temporary, rows), failures)
        return [verdict_of(row) for row in read_jsonl(path)]

    def _compared(self, duels: Sequence[Duel]) -> Verdicts:
        judge = self.opponents.judge
        if isinstance(judge, Rater):
            return Verdicts(judge.verdicts(duels), [])
        with self._opened_judge(judge) as (writer, asking):
            return judge_duels(duels, writer, asking)

    @contextmanager
    def _opened_judge(self, endpoint: EndpointBlock | None) -> Iterator[tuple[Writer, AskingSettings]]:
        role = ROLES["judge"]
        if endpoint is None:
            local = LedgerWriter(_writer(self.opponents.load()), self.ledger, role=role, progress=self.progress)
            yield local, AskingSettings(asks="continue")
            return
        budget = Budget(NO_CAPS, FREE)
        with opened_endpoint(endpoint, budget, role, self.ledger, self.progress) as writer:
            yield writer, AskingSettings()


def _writer(backbone: Backbone) -> LocalWriter:
    return LocalWriter(backbone, Template(backbone.tokenizer).prompt_ids, {})


def verdict_of(row: dict[str, Any]) -> Verdict:
    """A row of `verdicts-SEED.jsonl`."""
    return Verdict(row["ours_first"], row["ours_second"], row["preference"])
