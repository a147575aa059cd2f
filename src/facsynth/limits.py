"""Blocks of a settings file that set bounds: how much is selected and written, and what is rejected."""

from __future__ import annotations

from pydantic import Field

from facsynth.blocks import Block, Place
from facsynth.synthesis.accept import MIN_WORDS, CleanSettings
from facsynth.synthesis.requests import SynthesisSettings


class BudgetBlock(Block):
    """How much is written."""

    features: int | None = Field(default=None, ge=1)
    """Attempt so many concepts, drawn at random with `rng_seed`; all where nothing is said."""
    per_feature: int = Field(default=1, ge=1)
    """Samples that each attempted feature wants at least."""
    n_selected: int | None = Field(default=None, ge=1)
    """Samples of the pool at most; as many as add anything where nothing is said."""
    per_wave: int = Field(default=SynthesisSettings.per_wave, ge=1)
    max_candidates: int = Field(default=SynthesisSettings.max_candidates, ge=0)
    """A feature without one that is accepted, then it is given up; 0: nothing is written."""
    rounds: int = Field(default=SynthesisSettings.rounds, ge=1)
    """After one that closed something, what is still missing gets all its candidates again."""
    plain_yield: float = Field(default=SynthesisSettings.plain_yield, ge=0)
    """New samples per 1,000 written tokens, under which plain ones are written no more."""
    min_yield: float = Field(default=SynthesisSettings.min_yield, ge=0)
    """The same, under which nothing is written any more; 0: no such end."""
    n_windows: int = Field(default=SynthesisSettings.n_windows, ge=1)
    """Of 1,000 written tokens, in a row, that must be under `min_yield`."""
    max_calls: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    """Prompt and written ones, of all calls."""
    max_money: float | None = Field(default=None, gt=0)
    control: float = Field(default=SynthesisSettings.control, ge=0, le=1)
    """Plain-prompt samples for the chance level, as a share of the candidates."""


class AcceptBlock(Block):
    """What is rejected, whatever it fires."""

    max_words: int | None = Field(default=None, ge=MIN_WORDS)
    personal_data: bool = False
    """Reject what seems to hold some: addresses, numbers of phones, cards and accounts."""
    fluency: float = Field(default=CleanSettings.fluency, ge=0, lt=1)
    """Share of the anchor that is less likely than what a steered writer may give; 0: anything may be."""
    min_score: int | None = Field(default=None, ge=1, le=5)
    """The lowest mark that the judge may give what fires, 1 to 5; no judge is asked where nothing is said."""
    check_label: bool = False
    """Reject what a head, trained on the anchor's labels, takes for another label than it was written with."""
    near: float = Field(default=CleanSettings.near, ge=0, le=1)
    """Of its runs of five words, the share that a sample may have in common with others; 1: nothing is too near."""
    alike: float | None = Field(default=None, gt=0, lt=1)
    """Cosine to the nearest of these by a sentence encoder, above which one says the same; needs the extra embed."""
    encoder: Place = CleanSettings.encoder
    """`embedded` (all-MiniLM-L6-v2), a folder or a Hub id."""
