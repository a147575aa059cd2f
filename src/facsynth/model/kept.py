"""Final states in the cache: reading texts is most of what an evaluation takes, and is done once for each of them.

Before: `model.final` reads. After: heads of `tasks` are trained on the states. The cache holds no text, but hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from facsynth.bins import Floats
from facsynth.model.backbone import Backbone
from facsynth.model.final import final_states
from facsynth.records import Progress, no_progress
from facsynth.store import fingerprint, write_atomic

VERSION = 1
"""Raised by any change of what a final state is."""
PART = 256
"""Texts that are read before their states are kept."""
N_BYTES = 16
"""Of a hash."""


def kept_states(
    backbone: Backbone, ids: Sequence[npt.NDArray[np.int32]], cache: Path, progress: Progress = no_progress
) -> Floats:
    """`final_states`, of which those that are in the cache are not read again; an interrupted call loses one part.

    Args:
        backbone: the model.
        ids: token ids, one array [n_tokens] a sequence, none empty.
        cache: its folder `final-states` holds them by model, precision and kind of device.
        progress: told the sequences that are read.

    Raises:
        ModelError: as `final_states`.
        StorageError: the disk is full.
    """
    of = {"version": VERSION, "model": backbone.fingerprint, "dtype": str(backbone.dtype)}
    folder = cache / "final-states" / fingerprint(of | {"device": backbone.device.type})[:32]
    keys = [hashlib.sha256(row.tobytes()).digest()[:N_BYTES] for row in ids]
    found = _read(folder, set(keys), backbone.d_model)
    texts = {key: row for key, row in zip(keys, ids, strict=True) if key not in found}
    new = sorted(texts, key=lambda key: -len(texts[key]))
    for start in range(0, len(new), PART):
        part = new[start : start + PART]

        def told(what: str, done: int, total: int | None, start: int = start) -> None:
            progress(what, start + done, len(new))

        states = final_states(backbone, [texts[key] for key in part], told)
        _keep(folder, part, states)
        found.update(zip(part, states, strict=True))
    return np.stack([found[key] for key in keys])


def _read(folder: Path, wanted: Collection[bytes], width: int) -> dict[bytes, Floats]:
    """What files hold of it; one that is damaged counts as not there."""
    found: dict[bytes, Floats] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "np") as file:
                keys = [row.tobytes() for row in file.get_tensor("keys")]
                places = [n for n, key in enumerate(keys) if key in wanted]
                states = file.get_tensor("states") if places else np.empty((len(keys), width), np.float32)
        except (SafetensorError, OSError):
            continue
        if states.shape == (len(keys), width) and np.isfinite(states[places]).all():
            found.update((keys[n], states[n]) for n in places)
    return found


def _keep(folder: Path, keys: Sequence[bytes], states: Floats) -> None:
    name = hashlib.sha256(b"".join(keys)).hexdigest()[:32]
    table = {"keys": np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), N_BYTES), "states": states}
    write_atomic(folder / f"{name}.safetensors", lambda temporary: save_file(table, temporary))
