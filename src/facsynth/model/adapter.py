"""A LoRA adapter and a new head on a frozen model, trained on token ids, and the scores they give to other texts.

Before: `text.template` gives token ids. After: `tasks` make figures of the scores. The base keeps the precision that
was asked for; adapter and head are float32, since steps as small as theirs would be lost in bfloat16. Every call loads
the base afresh, and nothing is ever merged into it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from facsynth.bins import Doubles
from facsynth.errors import ModelError, SettingsError, missing_extra
from facsynth.model.batching import batches, pad, token_budget
from facsynth.model.loading import chosen_dtype, load_model, load_tokenizer, max_positions
from facsynth.model.training import apart, check_first_gpu, on_one_device, run_trainer
from facsynth.records import Progress, no_progress

Ids = Sequence[npt.NDArray[np.int32]]
"""Token ids, one array [n_tokens] a text, none empty."""


@dataclass(frozen=True)
class Recipe:
    """How an adapter is trained. It lies on every linear layer of the blocks, and the head is trained with it."""

    rank: int
    alpha: int
    epochs: int
    learning_rate: float
    batch_size: int
    accumulate: int
    """Batches a step."""
    max_tokens: int
    """Of a text; longer ones are cut."""
    dropout: float = 0.1
    weight_decay: float = 0.0
    schedule: str = "linear"
    """Of the learning rate."""
    warm_up: float = 0.0
    """Share of the steps."""


RECIPES = {
    "toxicity": Recipe(8, 16, epochs=3, learning_rate=5e-5, batch_size=4, accumulate=4, max_tokens=512),
    "reward": Recipe(
        16, 32, epochs=1, learning_rate=8e-5, batch_size=2, accumulate=4, max_tokens=1024, weight_decay=0.01,
        schedule="cosine", warm_up=0.1,
    ),
}  # fmt: skip
"""Those of the paper, by task."""


@dataclass(frozen=True)
class Base:
    """The model that adapters are trained on."""

    folder: Path
    dtype: torch.dtype
    device: str
    tokenizer: Any
    max_positions: int


def open_base(folder: Path, *, dtype: str, device: str) -> Base:
    """What is known of a base before its weights are loaded.

    Raises:
        ModelError: a package that trains adapters is not installed, or the folder has no tokenizer.
        SettingsError: no such dtype, or float16; or a GPU that is not the first.
    """
    for package in ("accelerate", "peft"):
        _need(package)
    chosen = chosen_dtype(dtype, device)
    if chosen == torch.float16:
        raise SettingsError(
            "adapters are not trained in float16, where small gradients become nothing\nSet --dtype float32."
        )
    check_first_gpu(device)
    tokenizer = load_tokenizer(folder)
    return Base(folder, chosen, device, tokenizer, max_positions(AutoConfig.from_pretrained(folder)))


def class_scores(
    base: Base, recipe: Recipe, train: Ids, labels: npt.NDArray[np.bool_], test: Ids, *, rng_seed: int,
    progress: Progress = no_progress,
) -> Doubles:  # fmt: skip
    """[n_test], the probability of the label, by an adapter that was trained with transformers' Trainer.

    Args:
        base: the model.
        recipe: how it is trained.
        train: texts.
        labels: theirs, [n].
        test: texts that get scores.
        rng_seed: of the head's first weights, the adapter's, dropout and the order of the texts.
        progress: told the steps.

    Raises:
        ModelError: the model cannot be loaded as a classifier, or a score is not finite.
    """
    from transformers import Trainer, TrainingArguments  # noqa: PLC0415  (a second)

    rows = [{"input_ids": ids, "labels": int(label)} for ids, label in zip(train, labels, strict=True)]
    pad_id = _pad_id([*train, *test])

    def collate(batch: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        found = torch.tensor([row["labels"] for row in batch])
        return {**_padded([row["input_ids"] for row in batch], pad_id), "labels": found}

    with apart(rng_seed, base.device), TemporaryDirectory(prefix="facsynth-") as scratch:
        model = _adapted(base, recipe, pad_id, n_labels=2)
        settings = on_one_device(TrainingArguments(**_settings(base, recipe, rng_seed, scratch)))
        run_trainer(Trainer(model, settings, collate, rows), f"training seed {rng_seed}", progress)
        logits = _logits(model, test, pad_id, progress)
    return np.asarray(logits.softmax(dim=1)[:, 1], np.float64)


def rewards(
    base: Base, recipe: Recipe, chosen: Ids, rejected: Ids, test: Ids, *, rng_seed: int,
    progress: Progress = no_progress,
) -> Doubles:  # fmt: skip
    """[n_test], the reward of each text, by an adapter that was trained with TRL's RewardTrainer.

    Args:
        base: the model.
        recipe: how it is trained.
        chosen: texts [n], each better than
        rejected: [n].
        test: texts that get rewards.
        rng_seed: as in `class_scores`.
        progress: told the steps.

    Raises:
        ModelError: TRL is not installed; or as `class_scores`.
    """
    trl: Any = _need("trl")
    from datasets import Dataset  # noqa: PLC0415  (half a second)

    class QuietTrainer(trl.RewardTrainer):
        def _send_telemetry(self) -> None:
            """Nobody is told."""

    rows = {"chosen_ids": [ids.tolist() for ids in chosen], "rejected_ids": [ids.tolist() for ids in rejected]}
    pad_id = _pad_id([*chosen, *rejected, *test])
    base.tokenizer.pad_token = base.tokenizer.convert_ids_to_tokens(pad_id)
    with apart(rng_seed, base.device), TemporaryDirectory(prefix="facsynth-") as scratch:
        model = _adapted(base, recipe, pad_id, n_labels=1)
        asked = _settings(base, recipe, rng_seed, scratch) | {"max_length": None, "disable_dropout": False}
        settings = on_one_device(trl.RewardConfig(**asked))
        trainer = QuietTrainer(model, settings, train_dataset=Dataset.from_dict(rows), processing_class=base.tokenizer)
        run_trainer(trainer, f"training seed {rng_seed}", progress)
        logits = _logits(model, test, pad_id, progress)
    return np.asarray(logits[:, 0], np.float64)


def _need(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as err:
        raise missing_extra(package, "downstream") from err


def _adapted(base: Base, recipe: Recipe, pad_id: int, n_labels: int) -> Any:
    """The base, loaded afresh, with an adapter and a head."""
    peft = _need("peft")
    model = load_model(base.folder, base.dtype, base.device, AutoModelForSequenceClassification, num_labels=n_labels)
    model.config.get_text_config().pad_token_id = pad_id
    lora = peft.LoraConfig(
        task_type="SEQ_CLS", r=recipe.rank, lora_alpha=recipe.alpha, lora_dropout=recipe.dropout,
        target_modules="all-linear",
    )  # fmt: skip
    adapted = peft.get_peft_model(model, lora)
    for weight in adapted.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    for module in adapted.modules():
        if isinstance(module, peft.utils.ModulesToSaveWrapper):  # the head
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
    return adapted


def _settings(base: Base, recipe: Recipe, rng_seed: int, scratch: str) -> dict[str, Any]:
    """Of a trainer that keeps, prints and sends nothing, on the device of the base."""
    is_cpu = base.device == "cpu"
    return {
        "output_dir": scratch, "seed": rng_seed, "num_train_epochs": recipe.epochs,
        "learning_rate": recipe.learning_rate,
        "per_device_train_batch_size": recipe.batch_size, "gradient_accumulation_steps": recipe.accumulate,
        "weight_decay": recipe.weight_decay, "lr_scheduler_type": recipe.schedule, "warmup_steps": recipe.warm_up,
        "bf16": False, "gradient_checkpointing": not is_cpu, "use_cpu": is_cpu,
        "save_strategy": "no", "logging_strategy": "no", "report_to": "none", "disable_tqdm": True,
    }  # fmt: skip


@torch.inference_mode()
def _logits(model: Any, ids: Ids, pad_id: int, progress: Progress) -> torch.Tensor:
    """float32[n, n_labels] of each text."""
    model.eval()
    device = next(model.parameters()).device
    found, done = [torch.empty(0)] * len(ids), 0
    for batch in batches([len(row) for row in ids], token_budget(device)):
        padded = _padded([ids[index] for index in batch], pad_id)
        logits = model(**{name: value.to(device) for name, value in padded.items()}, use_cache=False).logits.cpu()
        for index, row in zip(batch, logits, strict=True):
            found[index] = row
        done += len(batch)
        progress("scoring", done, len(ids))
    scores = torch.stack(found)
    if not bool(torch.isfinite(scores).all()):
        raise ModelError("the trained model gives NaN or infinity\nTry --dtype float32.")
    return scores


def _padded(ids: Ids, pad_id: int) -> dict[str, torch.Tensor]:
    padded, attention, _ = pad(ids, side="right")
    return {"input_ids": padded.masked_fill(attention == 0, pad_id), "attention_mask": attention}


def _pad_id(ids: Ids) -> int:
    """A token that no text ends with: classifiers read the state at the last token that is another one."""
    ends = {int(row[-1]) for row in ids}
    return next(index for index in range(len(ends) + 1) if index not in ends)
