"""Where samples of a feature space were encoded before, so that a changed corpus costs only what changed.

A list of folders in the user's cache; nothing is copied there, and a folder that is gone is passed over.
"""

from __future__ import annotations

from pathlib import Path

from facsynth.errors import InputError
from facsynth.store import read_json, write_json

N_REMEMBERED = 32


def known_folders(cache: Path, fingerprint: str) -> list[Path]:
    """Folders of finished encoded corpora of the space, latest first."""
    try:
        noted = read_json(cache / "encoded" / f"{fingerprint}.json", "folders")["folders"]
    except InputError:  # none yet, or a damaged one
        return []
    listed = noted if isinstance(noted, list) else []
    return [Path(name) for name in listed if isinstance(name, str) and _is_finished(name)]


def _is_finished(name: str) -> bool:
    try:
        return (Path(name) / "manifest.json").exists()
    except OSError:  # it may not be entered, or no folder can have that name
        return False


def remember(cache: Path, fingerprint: str, folder: Path) -> None:
    """Note a finished folder; two processes at once may lose one note, never more."""
    here = folder.resolve()
    others = [str(known) for known in known_folders(cache, fingerprint) if known != here]
    write_json(cache / "encoded" / f"{fingerprint}.json", {"folders": [str(here), *others][:N_REMEMBERED]})
