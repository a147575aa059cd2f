"""Weights for which memory does not suffice, in a process that gets no more: the message says so, and what helps."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import foreign
import tiny
from facsynth.errors import ModelError
from facsynth.model.memory import enough_memory, is_out_of_memory, weights_need

CHILD = """
import gc, json, resource, sys
from pathlib import Path
from facsynth.errors import ModelError
from facsynth.model.backbone import load_backbone
from facsynth.model.sae_formats import open_local

def load(name, room, dtype):
    if dtype:
        load_backbone(Path(name), hook_point="layers.1", dtype=dtype, cache=Path(name).parent / "cache")
    else:
        open_local(Path(name), k=5 if name.endswith(".pt") else None)

def limited(name, room, dtype):
    load(name, room, dtype)  # so that nothing is left to be imported
    gc.collect()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))
    try:
        load(name, room, dtype)
        return "it fits"
    except ModelError as err:
        return str(err)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

print(json.dumps([limited(*case) for case in json.loads(sys.argv[1])]))
"""
D_IN, D_SAE = 256, 20_480
"""A matrix is 21 MB."""
KEEPS_NOTHING = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""So that what was freed is no room for what comes next."""


def matrices(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {
        "W_enc": torch.zeros((D_IN, D_SAE), dtype=dtype), "W_dec": torch.zeros((D_SAE, D_IN), dtype=dtype),
        "b_enc": torch.zeros(D_SAE, dtype=dtype), "b_dec": torch.zeros(D_IN, dtype=dtype),
    }  # fmt: skip


def files(folder: Path) -> dict[str, Path]:
    """One of each container, and a safetensors file in half precision."""
    whole, half = matrices(torch.float32), matrices(torch.bfloat16)
    config = {"architecture": "standard", "d_in": D_IN, "d_sae": D_SAE, "normalize_activations": "none"}
    for name, tensors in (("whole", whole), ("half", half)):
        foreign.put(folder / name / "sae_weights.safetensors", tensors)
        foreign.put_json(folder / name / "cfg.json", **config)
    turned = {name: tensor.T.contiguous() if tensor.dim() > 1 else tensor for name, tensor in whole.items()}
    foreign.put(folder / "layer3.sae.pt", turned)
    np.savez(folder / "params.npz", threshold=np.zeros(D_SAE, np.float32), **{k: t.numpy() for k, t in whole.items()})
    found = {name: folder / name for name in ("whole", "half", "layer3.sae.pt", "params.npz")}
    return {**found, "model": tiny.save_model(folder / "model", n_blocks=8, width=256)}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory")
def test_weights_that_the_memory_does_not_hold_are_said_to_be_too_large(tmp_path: Path) -> None:
    places = files(tmp_path)
    mega = 10**6
    cases = [
        ("whole", 10, ""), ("whole", 60, ""), ("half", 10, ""), ("half", 40, ""), ("layer3.sae.pt", 10, ""),
        ("layer3.sae.pt", 60, ""), ("params.npz", 10, ""), ("model", 2, "float32"), ("model", 2, "bfloat16"),
        ("whole", 1000, ""), ("model", 1000, "float32"),
    ]  # fmt: skip
    asked = json.dumps([(str(places[name]), room * mega, dtype) for name, room, dtype in cases])
    env = {**os.environ, **KEEPS_NOTHING, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", CHILD, asked], capture_output=True, text=True, check=False, env=env)
    assert ran.returncode == 0, ran.stderr[-2000:]
    said = json.loads(ran.stdout.splitlines()[-1])
    assert said[-2:] == ["it fits", "it fits"]
    for (name, room, dtype), message in zip(cases[:-2], said, strict=False):
        assert message != "it fits", (name, room, said)
        first, way_out = message.splitlines()
        assert first.startswith(f"out of memory: the {'model' if dtype else 'SAE'} in {places[name]}"), (room, message)
        need = "42 MB in float32, 21 MB in bfloat16 or float16" if name in ("whole", "half") else " MB "
        assert need in first and f"loaded as {dtype or 'float32'}" in first
        assert way_out.startswith(
            {"": "Take an SAE of fewer features, or", "float32": "Take --dtype bfloat16, a smaller model, or"}.get(
                dtype, "Take a smaller model, or"
            )
        )


def test_need_is_counted_over_all_files_and_by_dtype(tmp_path: Path) -> None:
    """By their headers: these files of 8 and 4 billion numbers hold none."""
    files = []
    for index, n in enumerate((8_000, 4_000)):
        header = json.dumps(
            {"__metadata__": {"format": "pt"}, "w": {"dtype": "BF16", "shape": [n, 1_000_000]}}
        ).encode()
        files.append(tmp_path / f"model-{index}.safetensors")
        files[-1].write_bytes(len(header).to_bytes(8, "little") + header)
    assert weights_need(files) == "48.0 GB in float32, 24.0 GB in bfloat16 or float16"
    (tmp_path / "cut.safetensors").write_bytes(b"\xff" * 2_000_000)
    assert weights_need([tmp_path / "cut.safetensors"]) == "2 MB as stored"


@pytest.mark.parametrize(
    ("err", "is_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (OSError(errno.ENOENT, "No such file or directory"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_other_errors_come_through(err: Exception, is_memory: bool) -> None:
    assert is_out_of_memory(err) == is_memory
    with (
        pytest.raises(ModelError if is_memory else type(err)) as caught,
        enough_memory("it", [], dtype=torch.float32, way_out="less"),
    ):
        raise err
    assert (caught.value is err) != is_memory
