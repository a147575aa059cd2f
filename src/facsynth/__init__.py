"""facsynth: find what fine-tuning data never teaches a language model, and write it.

Names are fetched when they are first used: `import facsynth` loads neither torch nor transformers.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "Corpus": "text",
    "Fields": "text",
    "read_corpus": "text",
    "EncodeSettings": "features.encode",
    "FeatureSpace": "features.encode",
    "Encoded": "features.encoded",
    "encode": "features.encoded",
    "Profile": "profile",
    "merge": "profile",
    "Threshold": "coverage.threshold",
    "Ledger": "llm",
    "LedgerWriter": "llm",
    "ScriptedWriter": "llm",
    "LocalWriter": "model.writer",
    "RunSettings": "settings",
    "load_settings": "settings",
    "run": "pipeline",
    "measure_run": "pipeline",
    "understand_run": "understand",
    "load_task": "tasks",
    "verify_run": "proof",
    "FacsynthError": "errors",
    "IncompleteError": "errors",
    "InputError": "errors",
    "LimitError": "errors",
    "MismatchError": "errors",
    "ModelError": "errors",
    "SettingsError": "errors",
    "StorageError": "errors",
}
"""The function `coverage` is not among them: its folder has that name, and what an import leaves there would win."""

__all__ = sorted(_WHERE)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'facsynth' has no attribute {name!r}")
    return getattr(import_module(f"facsynth.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
