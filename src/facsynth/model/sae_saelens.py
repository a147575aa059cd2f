"""The SAELens folder layout, this project's own too: read of any version, written as version 6 does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from facsynth.errors import ModelError
from facsynth.model.input_norm import CENTRED, INPUT_NORMS
from facsynth.model.sae import Sae
from facsynth.model.sae_draft import Draft, Parts
from facsynth.store import write_atomic, write_json

SPECIAL = ("threshold", "log_threshold", "limit", "b_gate", "b_mag", "r_mag")
BY_ARCHITECTURE: Mapping[str, tuple[set[str], ...]] = {
    "standard": (set(),),
    "topk": (set(),),
    "jumprelu": ({"threshold"}, {"log_threshold"}),
    "gated": ({"b_gate", "b_mag", "r_mag"},),
    "batchtopk": ({"limit"},),
    "matryoshka_batchtopk": ({"limit"},),
}
"""What each architecture has beside the four tensors of all. The last two are checkpoints from the middle of training:
a finished one is saved as jumprelu."""
WITHIN_A_BLOCK = re.compile(r"blocks\.\d+\.\w+\.hook_\w+")
"""TransformerLens' `blocks.3.ln1.hook_normalized`, but not its `blocks.3.hook_resid_post`."""


def read_saelens(parts: Parts) -> Draft:
    """A SAE of SAELens; activations are those of SAELens, with every norm that it leaves to run time folded or kept.

    Raises:
        ModelError: a setting that cannot be kept exactly, or a config that does not belong to the tensors.
    """
    if not parts.configured:
        raise parts.error("cfg.json is missing beside it", "It says how activations are computed; get the folder.")
    architecture = _architecture(parts)
    _refuse(parts)
    centred = bool(parts.config.get("centred", True))
    if architecture == "gated":
        found = Draft.gated(parts, centred=centred)
    else:
        found = Draft.of(parts, "jumprelu", centred=centred, threshold=parts.threshold())
    if architecture == "topk":
        found.architecture = "topk"
        found.k, found.notes = parts.decide_k()
    elif architecture == "standard":
        found.architecture = "standard"
    _keep_norm(parts, found)
    batch, limit = architecture.endswith("batchtopk"), parts.number("limit") or 0.0
    if parts.config.get("by_decoder_norm", batch) and (batch or architecture == "topk"):
        found.unit_decoder()
        limit /= found.used.get("input_scale", 1.0)  # of activations times decoder lengths, which were just scaled
    if batch:
        found.limit(limit)
    found.hook_point, found.model_name = parts.word("hook_point"), parts.word("model_name")
    found.l0, fvu = parts.figure("l0"), parts.figure("fvu")
    found.explained_variance = None if fvu is None else 1 - fvu
    if parts.config.get("centred_stream"):
        _centre(found)
    return found


def _centre(found: Draft) -> None:
    """Of a SAE that saw each activation minus its own mean; `layer_norm` does the same by itself.

    Centred is the stream, and all that is written to it: not what a norm gives, nor what lies within MLP or attention.
    """
    if WITHIN_A_BLOCK.fullmatch(found.hook_point):
        return
    told = "it was trained on TransformerLens' centred stream (center_writing_weights): each activation minus its mean"
    if found.input_norm == "none":
        found.input_norm = CENTRED
        found.notes.append(f"{told}, which is subtracted here too, but for a model with RMSNorm, which is not centred")
    elif found.input_norm != "layer_norm":
        found.notes.append(f"{told}, which is not subtracted here")


def _architecture(parts: Parts) -> str:
    word, named = parts.word("activation", "relu"), parts.word("architecture", "standard")
    if word == "topk" and named == "standard":
        named = "topk"  # as before version 6, where the activation said it
    elif word not in ("relu", "topk"):
        raise parts.error(f"its activation_fn is {word!r}", "Known are relu and topk.")
    if named not in BY_ARCHITECTURE:
        raise parts.error(f"no SAE architecture {named!r}", f"Known of SAELens are {', '.join(BY_ARCHITECTURE)}.")
    special = {name for name in SPECIAL if name in parts.tensors or name in parts.config}
    if special not in BY_ARCHITECTURE[named]:
        expected = " or ".join(", ".join(sorted(kind)) or "nothing more" for kind in BY_ARCHITECTURE[named])
        raise parts.error(
            f"its config says {named}, its tensors do not: beside the usual four they hold "
            f"{', '.join(sorted(special)) or 'nothing more'}, not {expected}",
            "Config and weights are of different SAEs; get both again.",
        )
    return named


def _refuse(parts: Parts) -> None:
    """What no field of `Sae` can say."""
    reshape = parts.word("reshape", "hook_z" if "hook_z" in parts.word("hook_point") else "none")
    if reshape != "none":
        raise parts.error(
            f"reshape_activations is {reshape!r}: it reads the heads of an attention",
            "Take one that reads the residual stream.",
        )
    if parts.config.get("head") is not None:
        raise parts.error(f"it reads head {parts.config['head']} alone", "Take one that reads the residual stream.")
    finetuned = parts.tensors.get("finetuned_scale")
    if finetuned is not None and bool((finetuned != 1).any()):
        raise parts.error(
            "it has scaling factors of a fine-tuning",
            "SAELens since 6 does not apply them: take another of its release.",
        )


def _keep_norm(parts: Parts, found: Draft) -> None:
    """Fold the norm where a constant does it, keep it where it depends on the token."""
    norm = parts.word("input_norm", "none")
    norm = {"True": "expected_average_only_in", "False": "none"}.get(norm, norm)  # as the oldest configs say it
    if norm in INPUT_NORMS and norm != CENTRED:
        found.input_norm = norm
        if norm != "none":
            found.used["input_norm"] = norm
        return
    scale = parts.number("input_scale")
    if norm == "expected_average_only_in" and scale:
        found.scale_input(scale)
        return
    ways = {
        "expected_average_only_in": "The factor is not in this folder, and SAELens' load_from_disk leaves it out too. "
        "Open it with\nsae_lens.SAE.from_pretrained, which folds the factor that its release names, and save_model; or "
        "take the SAE that was\nsaved when training ended, where it is folded.",
        "covariance_whitening": "Take the SAE that was saved when training ended: SAELens folds the whitening into it.",
    }
    raise parts.error(f"normalize_activations is {norm!r}", ways.get(norm, f"Known are {', '.join(INPUT_NORMS)}."))


def save_sae(sae: Sae, folder: Path, *, metadata: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> None:
    """Write `cfg.json` and `sae_weights.safetensors` as SAELens 6 reads them.

    Args:
        sae: what to write.
        folder: made if needed.
        metadata: more keys for the config's `metadata` (training figures, corpora).
        dtype: of the weights on disk; they are float32 again after loading.

    Raises:
        ModelError: SAELens has no such architecture.
    """
    if sae.architecture not in BY_ARCHITECTURE:
        raise ModelError(f"a {sae.architecture} SAE cannot be saved: SAELens has none\nKeep the file it came from.")
    tensors = {"W_enc": sae.W_enc, "b_enc": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    if sae.threshold is not None:
        tensors["threshold"] = sae.threshold
    stored = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()}
    write_atomic(folder / "sae_weights.safetensors", lambda path: save_file(stored, path))
    stream: dict[str, Any] = {}
    if sae.input_norm == CENTRED:
        stream = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    config: dict[str, Any] = {
        "architecture": sae.architecture,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": sae.centred,
        "normalize_activations": "none" if stream else sae.input_norm,
        "reshape_activations": "none",
        "metadata": {
            "model_name": sae.model_name,
            "hook_name": sae.hook_point,
            "hf_hook_name": f"model.{sae.hook_point}",
        }
        | stream
        | dict(metadata),
    }
    if sae.architecture == "topk":
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    write_json(folder / "cfg.json", config)
