"""Fine-tuning with low-rank adapters: TRL trains one on replies, a model wears one that was trained here or elsewhere.

Before: `text.template` gives token ids of prompts and replies. After: `model.writer` answers with the tuned model. An
adapter stays beside the weights: merged into bfloat16 it would be rounded with them, and saves a third of the time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from facsynth.errors import InputError, MismatchError, ModelError, SettingsError, missing_extra
from facsynth.model.backbone import Backbone
from facsynth.model.training import apart, check_first_gpu, on_one_device, run_trainer, without_advice
from facsynth.records import Progress, no_progress
from facsynth.store import file_sha256, fingerprint, read_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
NOT_MASKED = -100
"""The label of a token that no loss is taken of, to transformers."""


@dataclass(frozen=True)
class SftRecipe:
    """Supervised fine-tuning as in the paper's instruction task (reference/paper.md 3)."""

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    learning_rate: float = 1e-4
    """At the first step; it falls linearly to nothing."""
    n_epochs: int = 5
    batch_size: int = 4
    n_accumulated: int = 4
    """Batches a step."""
    max_tokens: int = 2_048
    """Of a prompt with its reply; the rest is cut."""

    def __post_init__(self) -> None:
        if self.n_epochs < 1:
            raise SettingsError(f"n_epochs is {self.n_epochs}\nGive at least 1.")


class Example(NamedTuple):
    """A prompt with its reply."""

    ids: Sequence[int]
    n_prompt: int
    """How many tokens are the prompt: no loss is taken of them."""


def train_adapter(
    backbone: Backbone,
    examples: Sequence[Example],
    recipe: SftRecipe,
    *,
    rng_seed: int,
    out: Path,
    progress: Progress = no_progress,
) -> None:
    """Train low-rank adapters on all linear layers with TRL's SFTTrainer, and keep them as PEFT does.

    Args:
        backbone: a fresh model; it is of no use afterwards.
        examples: none longer than `max_tokens`, each with tokens after its prompt.
        recipe: how.
        rng_seed: of the adapters' first weights and the order of the examples.
        out: a new folder, there whole or not at all.
        progress: told the steps.

    Raises:
        ModelError: TRL or PEFT is not installed, or the training did not stay finite.
        SettingsError: another GPU than the first.
    """
    check_first_gpu(str(backbone.device))
    with (
        tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as work,
        apart(rng_seed, str(backbone.device)),
    ):
        trainer = _trainer(backbone, examples, recipe, rng_seed=rng_seed, work=Path(work))
        run_trainer(trainer, "training", progress)
        for name, weight in trainer.model.named_parameters():
            if weight.requires_grad and not bool(torch.isfinite(weight).all()):
                raise ModelError(
                    f"training did not stay finite: {name} holds NaN or infinity\nTry --dtype float32 or bfloat16."
                )
        trainer.model.save_pretrained(Path(work, "adapter"))
        Path(work, "adapter").rename(out)


def _trainer(backbone: Backbone, examples: Sequence[Example], recipe: SftRecipe, *, rng_seed: int, work: Path) -> Any:
    """TRL's trainer."""
    try:
        from datasets import Dataset  # noqa: PLC0415  (heavy, and extras)
        from peft import LoraConfig  # noqa: PLC0415
        from trl import SFTConfig, SFTTrainer  # noqa: PLC0415
    except ImportError as err:
        raise missing_extra(err.name or "trl", "downstream") from err

    on_cpu = backbone.device.type == "cpu"
    settings = SFTConfig(
        output_dir=str(work), num_train_epochs=recipe.n_epochs, per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.n_accumulated, learning_rate=recipe.learning_rate, max_length=None,
        lr_scheduler_type="linear", warmup_steps=0, seed=rng_seed, use_cpu=on_cpu, gradient_checkpointing=not on_cpu,
        bf16=backbone.dtype == torch.bfloat16, fp16=False, save_strategy="no", logging_strategy="no", report_to="none",
        disable_tqdm=True,
    )  # fmt: skip
    lora = LoraConfig(
        r=recipe.rank, lora_alpha=recipe.alpha, lora_dropout=recipe.dropout, target_modules="all-linear",
        task_type="CAUSAL_LM",
    )  # fmt: skip
    ids = [list(example.ids) for example in examples]
    labels = [
        [NOT_MASKED] * example.n_prompt + row[example.n_prompt :] for row, example in zip(ids, examples, strict=True)
    ]
    return SFTTrainer(
        backbone.model, args=on_one_device(settings), processing_class=backbone.tokenizer, peft_config=lora,
        train_dataset=Dataset.from_dict({"input_ids": ids, "labels": labels}),
    )  # fmt: skip


def wear_adapter(backbone: Backbone, folder: Path) -> Backbone:
    """The model with an adapter beside its weights.

    Raises:
        InputError: the folder holds no adapter in PEFT's layout.
        MismatchError: it is for another base.
        ModelError: PEFT is not installed, or cannot read it.
    """
    check_adapter(backbone, folder)
    try:
        from peft import PeftModel  # noqa: PLC0415  (an extra)
    except ImportError as err:
        raise missing_extra("peft", "downstream") from err
    try:
        with without_advice():  # it goes into the linear layers of the model itself
            PeftModel.from_pretrained(backbone.model, folder, torch_device=str(backbone.device))
    except (ValueError, RuntimeError, KeyError, TypeError) as err:
        raise ModelError(f"the adapter in {folder} cannot be read: {err}\nGet its files again.") from err
    known_by = fingerprint([backbone.fingerprint, adapter_hash(folder)])
    return Backbone(
        backbone.model, backbone.tokenizer, hook_point=backbone.hook_point, name=backbone.name, fingerprint=known_by
    )


def adapter_hash(folder: Path) -> str:
    """Of its weights and how they are used; not of where the base lay.

    Raises:
        InputError: as `base_of`.
    """
    base_of(folder)
    config = {key: value for key, value in read_json(folder / CONFIG).items() if key != "base_model_name_or_path"}
    return fingerprint([file_sha256(folder / WEIGHTS), config])


def base_of(folder: Path) -> str:
    """What an adapter says that it was trained on: a Hub id, or a folder of another machine.

    Raises:
        InputError: the folder holds no adapter in PEFT's layout.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(f"no adapter in {folder}: it has no {name}\nGive a folder as PEFT's save_pretrained does.")
    return str(read_json(folder / CONFIG).get("base_model_name_or_path") or "a model that it does not name")


def check_adapter(backbone: Backbone, folder: Path) -> None:
    """Refuse an adapter whose matrices do not fit the model; names alone prove nothing, as either may be a local path.

    Raises:
        InputError: the folder holds no adapter in PEFT's layout.
        MismatchError: it is for another base.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    base = base_of(folder)
    modules = dict(backbone.model.named_modules())
    try:
        with safe_open(folder / WEIGHTS, "pt") as weights:
            shapes = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    except SafetensorError as err:
        raise InputError(f"{folder / WEIGHTS} cannot be read: {err}\nGet the file again.") from err
    for name, shape in shapes.items():
        place, _, part = name.removeprefix("base_model.model.").rpartition(".lora_")
        if part not in {"A.weight", "B.weight"}:
            continue
        side = {"A.weight": ("in_features", 1), "B.weight": ("out_features", 0)}[part]
        module = modules.get(place)
        width = None if module is None else getattr(module, side[0], None) or _transposed(module, part)
        if width != shape[side[1]]:
            found = "has no such layer" if module is None else f"{place} is {width} wide there"
            raise MismatchError(
                f"the adapter in {folder} is for another base\n"
                f"  adapter  trained on {base}: {place} is {shape[side[1]]} wide\n  model    {backbone.name}: {found}\n"
                "Name its base: --model"
            )
    _check_whole(backbone, folder, shapes, base)


def _check_whole(backbone: Backbone, folder: Path, names: Collection[str], base: str) -> None:
    """Refuse an adapter without matrices for layers of the model that it says it is for, as deeper ones have more."""
    config = read_json(folder / CONFIG)
    is_said = isinstance(config.get("target_modules"), list) and config.get("layers_to_transform") is None
    if config.get("peft_type") not in {"LORA", "ADALORA"} or not is_said or config.get("exclude_modules"):
        return
    ends = tuple(f".{target}" for target in config["target_modules"])
    whole = tuple(f".{name}." for name in config.get("modules_to_save") or ())  # trained as they are, and inside too
    of_model = {
        name
        for name, _ in backbone.model.named_modules()
        if f".{name}".endswith(ends) and not any(part in f".{name}." for part in whole)
    }
    places = {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in names}
    lacking = sorted(of_model - places)
    if lacking:
        raise MismatchError(
            f"the adapter in {folder} is for another base\n"
            f"  adapter  trained on {base}: it has matrices for {len(of_model & places)} layers\n"
            f"  model    {backbone.name}: it has {len(of_model)} of those names, as {lacking[0]}\n"
            "Name its base: --model"
        )


def _transposed(module: Any, part: str) -> int:
    """The width of one of GPT-2's layers, whose weight is [n_in, n_out]."""
    return int(module.weight.shape[0 if part == "A.weight" else 1])
