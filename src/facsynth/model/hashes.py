"""What model and SAE files are known by: sha256 of their bytes, remembered by path, size and time.

Before: local files. After: `model.backbone` and `assemble` put the hashes into fingerprints.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from facsynth.errors import InputError
from facsynth.store import file_sha256, read_json, write_json

WEIGHT_FILES = (
    "*.safetensors",
    "*.bin",
    "config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "chat_template*",
    "*.model",
)


def model_hash(folder: Path, cache: Path) -> str:
    """sha256 over the hashes of weight and tokenizer files; each file's is remembered by path, size and time.

    A converted model is known by what it was converted from: the same on every machine and library version.
    """
    if (folder / "source.json").exists():
        return str(read_json(folder / "source.json", "sha256")["sha256"])
    files = sorted({path for pattern in WEIGHT_FILES for path in folder.glob(pattern)})
    return hashlib.sha256("".join(remembered_hash(path, cache) for path in files).encode()).hexdigest()


def remembered_hash(path: Path, cache: Path) -> str:
    """sha256 of a file's name and bytes, kept in `cache`."""
    stat = path.stat()
    key = hashlib.sha256(f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}".encode()).hexdigest()
    record = cache / "hashes" / f"{key}.json"
    try:
        return str(read_json(record, "sha256")["sha256"])
    except InputError:  # not remembered, or damaged
        digest = hashlib.sha256(f"{path.name}:{file_sha256(path)}".encode()).hexdigest()
        write_json(record, {"sha256": digest})
        return digest
