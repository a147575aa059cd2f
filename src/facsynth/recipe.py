"""The YAML file that `train-sae` reads: corpora, model, hook point, and how to train."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from facsynth.blocks import EMBEDDED, Block, parse_block
from facsynth.settings import RowFields, not_empty


class CorpusBlock(Block):
    """One corpus of a recipe."""

    path: str
    form: str
    fields: RowFields = Field(default={})
    limit: int | None = Field(default=None, ge=1)


class RecipeFile(Block):
    """What `train-sae` reads."""

    corpora: Annotated[tuple[CorpusBlock, ...], AfterValidator(not_empty)]
    hook_point: str
    model: str = EMBEDDED
    save_dtype: Literal["float32", "float16"] = "float32"
    train: dict[str, Any] = Field(default={})
    harvest: dict[str, Any] = Field(default={})
    background_pieces: int | None = Field(default=None, ge=1)
    """Encode so many pieces of the corpora as a background, beside the SAE."""


def parse_recipe(raw: Any, name: str) -> RecipeFile:
    """`settings.parse_settings` for a recipe; `name` is what messages call it."""
    return parse_block(RecipeFile, raw, name)
