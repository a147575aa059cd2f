"""What readers are handed and what they give back: an SAE under our names on its way to `model.sae.Sae`.

The algebra of folding is here, in float32: each fold leaves x̂ as it was, and says what it does to activations.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from facsynth.errors import ModelError, SettingsError

BEYOND = 1e30
"""No setting of an SAE is so large; NaN and infinity, which JSON may hold, are not below it."""


@dataclass(frozen=True)
class Parts:
    """A file's tensors and settings under our names."""

    where: str
    """The file, for messages."""
    names: str
    """Path or Hub id: what the file lacks may stand in it."""
    tensors: Mapping[str, torch.Tensor]
    """float32, in our orientation; scalars are in `config`."""
    config: Mapping[str, Any]
    """Only what is there."""
    configured: bool
    """Whether a config file was found."""
    k: int | None = None
    """As given by the user."""

    def number(self, name: str) -> float | None:
        """A setting that is a number; None where there is none.

        Raises:
            ModelError: it is something else.
        """
        value = self.config.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < BEYOND:
            raise self.error(f"{name} is {value!r}, not a number", "Its config file is damaged, or of another format.")
        return float(value)

    def figure(self, name: str) -> float | None:
        """A number that changes nothing, as a measured L0; None too where it is something else."""
        value: Any = self.config.get(name)
        return float(value) if type(value) in (int, float) and abs(value) < BEYOND else None

    def word(self, name: str, default: str = "") -> str:
        """A setting that is a word."""
        return str(self.config.get(name, default))

    def need(self, *names: str) -> list[torch.Tensor]:
        """Tensors that this kind of SAE has.

        Raises:
            ModelError: naming those that are not there.
        """
        missing = [name for name in names if name not in self.tensors]
        if missing:
            raise self.error(f"it lacks {', '.join(missing)}", "Get the file again.")
        return [self.tensors[name] for name in names]

    def threshold(self) -> torch.Tensor | None:
        """Of each latent, stored as it is or as its logarithm."""
        if "log_threshold" in self.tensors:
            return self.tensors["log_threshold"].exp()
        return self.tensors.get("threshold")

    def named(self, pattern: str) -> re.Match[str] | None:
        """The last place in the path or id that fits."""
        found = list(re.finditer(pattern, self.names))
        return found[-1] if found else None

    def error(self, found: str, way_out: str) -> ModelError:
        """An error about this file."""
        return ModelError(f"{self.where}: {found}\n{way_out}")

    def decide_k(self, named: str = "") -> tuple[int, list[str]]:
        """What k a topk SAE has, and a note where a name gave it: from the file, else as given, else from `named`.

        Args:
            named: a pattern whose first group is k.

        Raises:
            SettingsError: given, and the file says otherwise.
            ModelError: nowhere.
        """
        stored, found = self.number("k"), self.named(named) if named else None
        if stored is not None and self.k not in (None, int(stored)):
            raise SettingsError(f"{self.where} says k = {int(stored)}, --sae-k says {self.k}\nLeave out --sae-k.")
        if stored is not None or self.k is not None:
            return int(stored if stored is not None else self.k or 0), []
        if found is None:
            raise self.error("it does not say how many latents a token keeps (k)", "Give it with --sae-k.")
        return int(found[1]), [f"k = {found[1]} is taken from the name {found[0]!r}; --sae-k says otherwise"]


@dataclass
class Draft:
    """An SAE as its reader understood it."""

    W_enc: torch.Tensor
    b_enc: torch.Tensor
    W_dec: torch.Tensor
    b_dec: torch.Tensor
    architecture: str
    centred: bool
    k: int = 0
    threshold: torch.Tensor | None = None
    input_norm: str = "none"
    hook_point: str = ""
    """As the file says."""
    model_name: str = ""
    l0: float | None = None
    explained_variance: float | None = None
    named: dict[str, tuple[str, str]] = field(default_factory=dict)
    """hook_point and model_name as a name says, each with that name."""
    notes: list[str] = field(default_factory=list)
    used: dict[str, Any] = field(default_factory=dict)
    """Settings beside the weights that change results: they go into the fingerprint."""

    @classmethod
    def of(cls, parts: Parts, architecture: str, *, centred: bool, **more: Any) -> Draft:
        """From the four tensors that every SAE has."""
        W_enc, b_enc, W_dec, b_dec = parts.need("W_enc", "b_enc", "W_dec", "b_dec")
        return cls(W_enc, b_enc, W_dec, b_dec, architecture, centred, **more)

    def limit(self, value: float) -> None:
        """One threshold for all latents."""
        self.threshold = torch.full_like(self.b_enc, value)
        self.used["threshold"] = value

    def scale_input(self, factor: float) -> None:
        """Read `factor` times the activation, write the same: x̂ is that of the raw one. Activations keep."""
        self.W_enc = self.W_enc * factor
        self.W_dec, self.b_dec = self.W_dec / factor, self.b_dec / factor
        self.used["input_scale"] = factor

    def scale_latents(self, factors: torch.Tensor) -> None:
        """Activations become `factors` [d_sae] times what they were; a threshold is set afterwards."""
        self.W_enc, self.b_enc = self.W_enc * factors, self.b_enc * factors
        self.W_dec = self.W_dec / factors[:, None]

    def unit_decoder(self) -> None:
        """Move the lengths of decoder rows into the activations; a row of zeros stays."""
        lengths = self.W_dec.norm(dim=1)
        self.scale_latents(torch.where(lengths > 0, lengths, 1.0))
        self.used["by_decoder_norm"] = True

    @classmethod
    def gated(cls, parts: Parts, **more: Any) -> Draft:
        """A gated SAE as the jumprelu one that it equals.

        With u = (x - b_dec) W_enc it fires where u + b_gate > 0, with ReLU(u·exp(r_mag) + b_mag). Both are affine in
        u, and exp(r_mag) > 0: it fires where its magnitude is above b_mag - exp(r_mag)·b_gate, and above 0.
        Source: the gated encoder with tied weights of arXiv 2404.16014.
        """
        W_enc, W_dec, b_dec, b_gate, b_mag, r_mag = parts.need("W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag")
        ratio = r_mag.exp()
        return cls(W_enc * ratio, b_mag, W_dec, b_dec, "jumprelu", threshold=b_mag - ratio * b_gate, **more)
