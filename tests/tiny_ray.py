"""Feature spaces that Ray's actors can open: functions of a module, which is all that is sent to them."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tiny
from facsynth.errors import InputError
from facsynth.features.encode import EncodeSettings, FeatureSpace, Pooled
from facsynth.records import Sample


def open_tiny(model: Path, dtype: str = "float32") -> FeatureSpace:
    """The space of a model that `tiny.save_model` left."""
    return FeatureSpace(tiny.backbone(model, dtype=dtype), tiny.random_sae(), EncodeSettings(form="chat"))
