"""Everything facsynth raises on purpose. The library raises; only `cli/` catches.

FacsynthError                 exit 1
├── InputError                data or a file is not what it should be
├── MismatchError             two artifacts do not belong together
├── ModelError                a language model, an SAE or a device
├── StorageError              the disk is full, or another process holds the folder
├── SettingsError             exit 2, a setting or an option is wrong
├── LimitError                exit 3, done, but a limit asked for does not hold
└── IncompleteError           exit 4, done in part, the same command goes on

A message names the thing, then what was found, then the way out.
"""

from __future__ import annotations


class FacsynthError(Exception):
    """An error a user can act on: its message is all they need."""

    exit_code = 1


class InputError(FacsynthError):
    """Data or a file is not what it should be."""


class MismatchError(FacsynthError):
    """Two artifacts do not belong together."""


class ModelError(FacsynthError):
    """A language model, an SAE or a device does not work as asked."""


class StorageError(FacsynthError):
    """The disk is full, or another process holds the folder."""


class SettingsError(FacsynthError):
    """A setting or an option is wrong."""

    exit_code = 2


class LimitError(FacsynthError):
    """Everything ran, but a limit that was asked for does not hold."""

    exit_code = 3


class IncompleteError(FacsynthError):
    """Ran in part; the same command goes on."""

    exit_code = 4


def missing_extra(package: str, extra: str) -> ModelError:
    """The one wording for an optional package that is not installed."""
    return ModelError(
        f"this needs the package {package}, which is not installed\nInstall it with:\n  pip install 'facsynth[{extra}]'"
    )
