"""A model's weights and tokenizer from a local folder, every weight there and finite; nothing in it is run.

Before: `assemble` finds the folder. After: `model.backbone` hooks the model, `model.adapter` trains one on top of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from facsynth.errors import ModelError, SettingsError
from facsynth.model.memory import enough_memory, is_out_of_memory

NEW_HEAD = "score.weight"
"""Of a classifier; a causal LM has none of that name."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(folder: Path, dtype: torch.dtype, device: str, auto_class: Any = None, **config: Any) -> Any:
    """The frozen model on its device, every weight of it there and finite, but for a new head of `auto_class`."""
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors"))
    way_out = "--dtype bfloat16, a smaller model" if dtype == torch.float32 else "a smaller model"
    with enough_memory(f"the model in {folder}", files, dtype=dtype, way_out=way_out):
        return _model(folder, dtype, device, auto_class, config)


def _model(folder: Path, dtype: torch.dtype, device: str, auto_class: Any, config: dict[str, Any]) -> Any:
    try:
        model, found = (auto_class or _auto_class(folder)).from_pretrained(
            folder, dtype=dtype, trust_remote_code=False, output_loading_info=True, **config
        )
    except Exception as err:  # transformers raises many kinds, AssertionError and RuntimeError among them
        if is_out_of_memory(err):
            raise
        raise _unloadable(folder, err) from err
    missing = sorted((set(found["missing_keys"]) & dict(model.named_parameters()).keys()) - {NEW_HEAD})
    if missing:  # transformers would go on with random numbers
        raise ModelError(f"{folder} lacks {len(missing)} weights, {missing[0]} among them\nGet the files again.")
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as err:  # AssertionError: a torch without CUDA
        if is_out_of_memory(err):
            raise
        raise SettingsError(f"the device {device!r} cannot be used: {err}") from err
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(torch.stack(weight.aminmax())).all()):
            raise ModelError(
                f"the weights of {folder} are not finite: {name} holds NaN or infinity\nGet the file again."
            )
    model.requires_grad_(False)
    return model


def _auto_class(folder: Path) -> Any:
    """What reads the folder: some models that see pictures are no causal LMs to transformers, though they hold one."""
    config = type(AutoConfig.from_pretrained(folder, trust_remote_code=False))
    sees = config in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and config not in MODEL_FOR_CAUSAL_LM_MAPPING
    return AutoModelForImageTextToText if sees else AutoModelForCausalLM


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a local model folder.

    Raises:
        ModelError: it cannot be loaded.
    """
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as err:  # as above
        raise _unloadable(folder, err) from err


def _unloadable(folder: Path, err: Exception) -> ModelError:
    """What transformers says, but for its advice to run code that lies beside the weights."""
    if "trust_remote_code" in str(err):
        return ModelError(
            f"the model in {folder} needs code of its own (auto_map in its config), which is never run\n"
            "Take a model that transformers knows by itself, or save this one as such."
        )
    reason = f"{type(err).__name__}: {err}" if str(err) else type(err).__name__
    return ModelError(f"cannot load a causal language model from {folder}\n{reason}\nGet the files again.")


def chosen_dtype(name: str, device: str) -> torch.dtype:
    """The dtype that a name means there; `auto` is `fast_dtype`.

    Raises:
        SettingsError: no such dtype.
    """
    if name != "auto" and name not in DTYPES:
        raise SettingsError(f"no dtype {name!r}; known are auto, {', '.join(DTYPES)}")
    return fast_dtype(device) if name == "auto" else DTYPES[name]


def max_positions(config: Any) -> int:
    """The longest sequence a model knows positions for; no limit where its config says nothing."""
    return int(getattr(config.get_text_config(), "max_position_embeddings", 0) or 1 << 30)


def fast_dtype(device: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> torch.dtype:
    """bfloat16 where it is multiplied in hardware, else float32 (float16 on an old GPU), by what the machine is."""
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    flags = cpuinfo.read_text(encoding="utf-8").split() if cpuinfo.exists() else []
    return torch.bfloat16 if {"avx512_bf16", "amx_bf16"} & set(flags) else torch.float32
