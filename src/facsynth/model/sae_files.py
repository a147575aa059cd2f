"""The containers that SAEs come in, read without running anything that is in them.

Before: a path. After: `model.sae_formats` tells formats apart by the keys found here. A pickle is read as tensors and
plain values only (`weights_only`); what needs more is refused, and nothing of it has run by then.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from facsynth.errors import ModelError
from facsynth.model.memory import is_out_of_memory

CONTAINERS = {".safetensors": "safetensors", ".npz": "npz", ".pt": "pt", ".pth": "pt"}
AGAIN = "It is cut off or something else; get it again."
DAMAGED = (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error, SafetensorError)


@dataclass(frozen=True)
class Held:
    """What one weight file holds, under its own names."""

    path: Path
    container: str
    """safetensors, npz or pt."""
    tensors: dict[str, torch.Tensor]
    """By key; those inside a dictionary of a .pt file as `outer.inner`. Of any dtype, on the CPU."""
    values: Mapping[str, Any]
    """Numbers, words and lists beside them, in the same way."""


def read_weights(path: Path) -> Held:
    """Read a .safetensors, .npz, .pt or .pth file.

    Raises:
        ModelError: not there, not whole, of another kind, or a pickle that would run code.
        MemoryError, OSError, RuntimeError: memory does not suffice, as `model.memory` tells.
    """
    container = CONTAINERS.get(path.suffix)
    if container is None:
        raise ModelError(f"{path} is no file of weights: those are named {', '.join(CONTAINERS)}\nGive one of them.")
    if container == "pt":
        return _flat(path, _read_pickle(path))
    try:
        tensors = load_file(path) if container == "safetensors" else _read_npz(path)
    except (*DAMAGED, TypeError) as err:
        if is_out_of_memory(err):
            raise
        raise ModelError(f"{path} cannot be read as {container}: {_first_line(err)}\n{AGAIN}") from err
    return Held(path, container, tensors, {})


def read_config(path: Path) -> dict[str, Any] | None:
    """The JSON object of a config file; None where there is no such file.

    Raises:
        ModelError: it is there, and is no JSON object.
    """
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise ModelError(f"{path} is not JSON: {_first_line(err)}\n{AGAIN}") from err
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds no settings of an SAE, but a {type(config).__name__}\n{AGAIN}")
    return config


def _read_npz(path: Path) -> dict[str, torch.Tensor]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return {key: torch.from_numpy(np.ascontiguousarray(archive[key])) for key in archive.files}


def _read_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # what comes of it is told below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as err:
        raise ModelError(_refusal(path, str(err))) from err
    except (*DAMAGED, TypeError) as err:
        if is_out_of_memory(err):
            raise
        raise ModelError(f"{path} cannot be read as a torch file: {_first_line(err)}\n{AGAIN}") from err


def _refusal(path: Path, reason: str) -> str:
    """The message of torch recommends to load the file without the guard: only what it found is passed on."""
    wanted = re.search(r"GLOBAL (\S+)", reason)
    if wanted is None:
        return f"{path} cannot be read as a torch file: its pickle is damaged, or holds more than tensors\n{AGAIN}"
    return (
        f"{path} is a pickle that holds more than tensors: it calls {wanted[1]}\n"
        "Nothing of it was run. Have its author save the state dict alone, best as safetensors."
    )


def _flat(path: Path, loaded: Any) -> Held:
    if not isinstance(loaded, Mapping):
        raise ModelError(f"{path} holds a {type(loaded).__name__}, not tensors by name\nSave the SAE's state dict.")
    tensors: dict[str, torch.Tensor] = {}
    values: dict[str, Any] = {}

    def walk(found: Mapping[Any, Any], prefix: str) -> None:
        for key, value in found.items():
            if isinstance(value, Mapping):
                walk(value, f"{prefix}{key}.")
            elif isinstance(value, torch.Tensor):
                tensors[f"{prefix}{key}"] = value.detach()
            else:
                values[f"{prefix}{key}"] = value

    walk(loaded, "")
    return Held(path, "pt", tensors, values)


def _first_line(err: BaseException) -> str:
    return (str(err).strip().splitlines() or [type(err).__name__])[0]
