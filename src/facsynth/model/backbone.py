"""A causal language model, run up to one hook point and no further.

Before: `text.template` gives token ids. After: `model.sae` turns activations into codes. The forward pass ends
in a private exception right behind the hook, and logits are never computed: on SmolLM2 with the hook after block
14 of 30 that is less than half of the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache, PreTrainedModel

from facsynth.errors import ModelError, SettingsError
from facsynth.model.batching import padded_and_kept, token_budget
from facsynth.model.hashes import model_hash
from facsynth.model.loading import chosen_dtype, load_model, load_tokenizer, max_positions
from facsynth.model.prefix import PrefixCache


class _StopForwardError(Exception):
    """Raised by the hook, caught right above it; carries nothing."""


class Backbone:
    """A model with its tokenizer, hooked at one module."""

    def __init__(self, model: Any, tokenizer: Any, *, hook_point: str, name: str, fingerprint: str) -> None:
        """Wrap a loaded `AutoModelForCausalLM`, or one for pictures and text.

        Args:
            model: any causal LM; its decoder is run, its head and what sees pictures are not.
            tokenizer: a fast tokenizer.
            hook_point: module path, from 0: `layers.14` is the residual stream after block 14.
            name: what reports call it.
            fingerprint: of weights and tokenizer.

        Raises:
            SettingsError: no module of that name.
        """
        self.model = model.eval()
        self.decoder = _decoder(model)
        """All blocks and the last norm, without what reads pictures and without the head."""
        self.tokenizer = tokenizer
        self.hook_point = hook_point
        self.name = name
        self.fingerprint = fingerprint
        self._module = hooked_module(model, hook_point)
        self._prefixes = PrefixCache(model.config, lambda ids, past: self.outputs(ids, [self._module], past))

    def hooked_at(self, hook_point: str) -> Backbone:
        """The same model, hooked elsewhere.

        Raises:
            SettingsError: no module of that name.
        """
        return Backbone(self.model, self.tokenizer, hook_point=hook_point, name=self.name, fingerprint=self.fingerprint)

    def is_hooked_at(self, hook_point: str) -> bool:
        """Whether that is the same module, by whatever name."""
        try:
            return hooked_module(self.model, hook_point) is self._module
        except SettingsError:
            return False

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of weights and activations."""
        return next(self.model.parameters()).dtype

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        config = self.model.config
        return int(getattr(config, "hidden_size", 0) or config.get_text_config().hidden_size)

    @property
    def has_rms_norm(self) -> bool:
        """Whether the mean of an activation matters to the model, as it does not where LayerNorm takes it away."""
        return any("RMSNorm" in type(module).__name__ for module in self.decoder.modules())

    @property
    def token_budget(self) -> int:
        """Padded tokens a forward pass."""
        return token_budget(self.device)

    @property
    def max_positions(self) -> int:
        """The longest sequence the model knows positions for; no limit where its config says nothing."""
        return max_positions(self.model.config)

    @torch.inference_mode()
    def activations(
        self, ids: Sequence[npt.NDArray[np.int32]], keep: Sequence[npt.NDArray[np.bool_]], shared: int = 0
    ) -> torch.Tensor:
        """Residual stream at the hook point, at the kept positions of every sequence, in order.

        Args:
            ids: token ids, one array [n_tokens] a sequence.
            keep: which positions are wanted, same shapes.
            shared: so many tokens all sequences begin with, none of them kept: they are run once.

        Returns:
            [sum of kept positions, d_model] in the model's own dtype.

        Raises:
            ModelError: a sequence is longer than the model knows; the module is not reached, gives something else,
                or gives NaN or infinity.
        """
        if (longest := max(map(len, ids))) > self.max_positions:
            raise ModelError(
                f"a text of {longest} tokens is longer than {self.name} knows positions for ({self.max_positions})\n"
                f"Set max_tokens to at most {self.max_positions}."
            )
        past = self._prefixes.repeated(ids[0][:shared], len(ids)) if shared else None
        shared = 0 if past is None else shared
        padded, kept = padded_and_kept([row[shared:] for row in ids], [mask[shared:] for mask in keep])
        output = self.outputs(padded, [self._module], past)[0]
        if getattr(output, "shape", None) != (*padded.shape, self.d_model):
            raise ModelError(
                f"{self.hook_point} of {self.name} gives no activations of width {self.d_model} for every token\n"
                "Name a block, as in layers.14."
            )
        found: torch.Tensor = output[kept.to(self.device)]
        if not bool(torch.isfinite(found.sum(dtype=torch.float32))):
            raise ModelError(
                f"{self.name} gives NaN or infinity at {self.hook_point} in {self.dtype}\nTry float32 or bfloat16."
            )
        return found

    def outputs(self, ids: torch.Tensor, modules: Sequence[Any], past: DynamicCache | None = None) -> list[Any]:
        """What each of the modules gives for padded ids; None of one that the forward pass does not reach.

        It goes no further than the last of them. `past`: keys and values of what comes before; these are added to it.
        """
        caught: dict[Any, Any] = {}

        def hook(module: Any, inputs: Any, output: Any) -> None:
            caught.setdefault(module, output[0] if isinstance(output, tuple) else output)
            if len(caught) == len(handles):
                raise _StopForwardError

        handles = [module.register_forward_hook(hook) for module in set(modules)]
        try:
            # Padding stands on the right, where a causal model never looks from a real token: positions are the
            # default ones, and without a mask attention takes its fastest way.
            kept = {} if past is None else {"past_key_values": past}
            self.decoder(input_ids=ids.to(self.device), use_cache=past is not None, **kept)
        except _StopForwardError:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return [caught.get(module) for module in modules]


def load_backbone(folder: Path, *, hook_point: str, dtype: str = "auto", device: str = "cpu", cache: Path) -> Backbone:
    """Load a model and its tokenizer from a local folder.

    Args:
        folder: a Hugging Face model folder with safetensors weights.
        hook_point: as in `Backbone`.
        dtype: float32, bfloat16, float16, or auto: bfloat16 where the machine multiplies it in hardware.
        device: a torch device.
        cache: where file hashes are remembered.

    Raises:
        ModelError: the folder cannot be loaded, its weights are not finite or not all there, or memory is too small.
        SettingsError: no such dtype, device or hook point.
    """
    tokenizer = load_tokenizer(folder)
    model = load_model(folder, chosen_dtype(dtype, device), device)
    return Backbone(model, tokenizer, hook_point=hook_point, name=folder.name, fingerprint=model_hash(folder, cache))


def hooked_module(model: Any, hook_point: str) -> Any:
    """The module that `hook_point` names, from the decoder or from the top; GPT-2's `h.N` answers to `layers.N` too."""
    inside = dict(_decoder(model).named_modules())
    names = dict(model.named_modules()) | dict(model.base_model.named_modules()) | inside
    for name in (hook_point, hook_point.replace("layers.", "h."), hook_point.replace("layers.", "model.layers.")):
        if name and name in names:
            return names[name]
    numbered = [name for name in inside if name.rsplit(".", 1)[-1].isdigit()]
    blocks = [name for name in numbered if name.count(".") == numbered[0].count(".")]
    listed = f"{blocks[0]} to {blocks[-1]}" if blocks else ", ".join(list(names)[1:6])
    raise SettingsError(
        f"{model.config.model_type} has no module {hook_point!r}; its blocks are {listed}\n"
        "Name one: model.hook_point (--hook-point). An SAE that names another block is another model's."
    )


def _decoder(model: Any) -> Any:
    """What gives the residual stream: the body, or its language model beside what sees pictures."""
    found = model.get_decoder()
    return found if isinstance(found, PreTrainedModel) else model.base_model  # ModernBERT's is its head
