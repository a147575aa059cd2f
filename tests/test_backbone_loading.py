"""Models as they are loaded: damage is named, nothing is made up, and what the fingerprint and the dtype follow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from facsynth.errors import ModelError, SettingsError
from facsynth.model.backbone import load_backbone
from facsynth.model.hashes import model_hash
from facsynth.model.loading import fast_dtype
from tiny_backbone import everything, folders_in, sequences


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return folders_in(tmp_path_factory.mktemp("models"))


def changed(source: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    target.mkdir()
    for path in source.iterdir():
        target.joinpath(path.name).write_bytes(path.read_bytes())
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(
    value: float, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    name = "model.layers.2.mlp.up_proj.weight"
    folder = changed(folder_of("llama"), tmp_path / "nan", lambda tensors: tensors[name][3, 4].fill_(value))
    with pytest.raises(ModelError, match=f"not finite: {name} holds NaN or infinity"):
        tiny.backbone(folder)


def test_large_finite_weights_are_not_mistaken_for_infinity(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    name = "model.layers.3.input_layernorm.weight"
    folder = changed(folder_of("llama"), tmp_path / "big", lambda tensors: tensors[name].fill_(6e4))
    assert tiny.backbone(folder, "layers.2", dtype="float16").dtype == torch.float16


def test_missing_weights_are_refused_instead_of_made_up(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    name = "model.layers.1.self_attn.q_proj.weight"
    folder = changed(folder_of("llama"), tmp_path / "less", lambda tensors: tensors.pop(name))
    with pytest.raises(ModelError, match=f"lacks 1 weights, {name} among them"):
        tiny.backbone(folder)


@pytest.mark.parametrize("damage", ["empty folder", "truncated", "broken config", "broken tokenizer"])
def test_a_folder_that_cannot_be_loaded_is_a_model_error(
    damage: str, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = changed(folder_of("llama"), tmp_path / "damaged", lambda tensors: None)
    if damage == "empty folder":
        folder = tmp_path
    elif damage == "truncated":
        data = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    else:
        (folder / ("config.json" if damage == "broken config" else "tokenizer.json")).write_text("{")
    with pytest.raises(ModelError, match="cannot load a causal language model"):
        tiny.backbone(folder)


def test_activations_that_overflow_are_a_model_error(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    name = "model.layers.0.mlp.down_proj.weight"
    folder = changed(folder_of("llama"), tmp_path / "hot", lambda tensors: tensors[name].mul_(2e4))
    backbone, ids = tiny.backbone(folder, dtype="float16"), sequences()
    with pytest.raises(ModelError, match=r"gives NaN or infinity at layers.1 in torch.float16"):
        backbone.activations(ids, everything(ids))


@pytest.mark.parametrize("settings", [{"dtype": "fp8"}, {"device": "tpu"}, {"device": "cuda:99"}])
def test_a_wrong_dtype_or_device_is_a_settings_error(
    settings: dict[str, str], folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=next(iter(settings.values()))):
        load_backbone(folder_of("llama"), hook_point="layers.1", cache=tmp_path, **settings)


def test_the_fingerprint_follows_weights_and_tokenizer(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    source, cache = folder_of("llama"), tmp_path / "cache"
    name = "model.layers.2.mlp.up_proj.weight"
    same = changed(source, tmp_path / "same", lambda tensors: None)
    other = changed(source, tmp_path / "other", lambda tensors: tensors[name][0, 0].add_(1))
    hashes = [model_hash(folder, cache) for folder in (source, same, other)]
    assert hashes[0] == hashes[1] == tiny.backbone(source).fingerprint
    assert hashes[0] != hashes[2]
    (same / "README.md").write_text("more")
    assert model_hash(same, cache) == hashes[0]
    (same / "chat_template.jinja").write_text("{{ messages }}")
    assert model_hash(same, cache) != hashes[0]


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ("fpu sse2 avx2 avx512f avx512_bf16 sha_ni", torch.bfloat16),
        ("fpu avx512f amx_bf16 amx_tile", torch.bfloat16),
        ("fpu sse2 avx2 avx512f avx512_fp16", torch.float32),
        ("fpu not_avx512_bf16", torch.float32),
        (None, torch.float32),
    ],
)
def test_auto_is_bfloat16_where_the_processor_says_it_multiplies_that(
    flags: str | None, dtype: torch.dtype, tmp_path: Path
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if flags is not None:
        cpuinfo.write_text(f"processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: {flags}\nbogomips\t: 4890.80\n")
    assert fast_dtype("cpu", cpuinfo) == dtype


def test_a_model_loaded_with_auto_has_the_dtype_of_this_machine(folder_of: Callable[[str], Path]) -> None:
    assert tiny.backbone(folder_of("llama"), dtype="auto").dtype == fast_dtype("cpu")
