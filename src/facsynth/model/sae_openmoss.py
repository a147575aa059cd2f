"""SAEs of OpenMOSS' library (lm-saes, llamascopium): Llama Scope, its R1 distillation, and what it trains today.

Units: those of the residual stream, with decoder rows of length 1, which is the library's own form for inference
(`standardize_parameters_of_dataset_norm`, then `transform_to_unit_decoder_norm`). An activation is then the length of
what its feature writes, whatever the constants of the checkpoint. SAELens leaves the stream scaled to a mean norm of
sqrt(d_in), so its activations are sqrt(d_in) / norm_in times ours, with the same x̂.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from facsynth.model.sae_draft import Draft, Parts


def read_openmoss(parts: Parts) -> Draft:
    """Fold norm and decoder lengths of an OpenMOSS SAE.

    As trained, with s = sqrt(d_in) / norm_in and n the lengths of decoder rows:

        pre_acts = s·x W_enc + b_enc;  fires where f(pre_acts·n) does;  s·x̂ = acts W_dec + b_dec

    Everything divided by s, with n moved into the activations, is what is given back. A `jump_relu_threshold` in the
    config was measured in that form and stays; a stored log threshold was trained in the other, and is divided by s.
    """
    if not parts.configured:
        raise parts.error(
            "hyperparams.json or config.json is missing", "It says how activations are scaled; get the whole folder."
        )
    if "b_dec" not in parts.tensors:
        parts = replace(parts, tensors={**parts.tensors, "b_dec": torch.zeros(_width(parts))})
    found = Draft.of(parts, "standard", centred=bool(parts.config.get("centred", False)))
    found.hook_point = parts.word("hook_point")
    if model := parts.named(r"Llama3_1-8B-Base|Llama-Scope-R1-Distill"):
        found.named["model_name"] = "meta-llama/Llama-3.1-8B", model[0]
    s = _input_scale(parts, found)
    _activation(parts, found, s)
    found.b_enc, found.b_dec = found.b_enc / s, found.b_dec / s
    if s != 1:
        found.used["input_scale"] = s
        found.notes.append(
            "activations are in units of the residual stream, decoder rows have length 1, as in OpenMOSS' own form for "
            f"inference; SAELens gives {s:.4g} times as much"
        )
    if parts.config.get("by_decoder_norm", True):
        lengths = found.W_dec.norm(dim=1)
        if bool(((lengths - 1).abs() > 0.01).any()):
            found.notes.append(
                f"decoder rows are {float(lengths.min()):.3g} to {float(lengths.max()):.3g} long in the file; their "
                "lengths are moved into the activations, which SAELens does not do"
            )
        found.unit_decoder()
    return found


def _width(parts: Parts) -> int:
    return int(parts.need("W_enc")[0].shape[0])


def _input_scale(parts: Parts, found: Draft) -> float:
    """s; 1 where nothing is left to fold."""
    how = parts.word("input_norm", "dataset-wise")
    if how == "inference":
        return 1.0
    if how == "token-wise":
        found.input_norm = "constant_norm_rescale"
        return 1.0
    if how != "dataset-wise":
        raise parts.error(f"its norm is {how}: codes depend on the batch", "Known are dataset-wise and token-wise.")
    norm_in = parts.number("norm_in")
    norm_out = parts.number("norm_out") or norm_in
    if not norm_in or norm_in < 0:
        raise parts.error("its dataset-wise norm is not there", "Save it with its average activation norm.")
    if norm_out != norm_in:
        raise parts.error(f"it reads norms of {norm_in} and writes {norm_out}, as a transcoder", "Take an SAE.")
    return float(_width(parts) ** 0.5 / norm_in)


def _activation(parts: Parts, found: Draft, s: float) -> None:
    word, limit, stored = parts.word("activation", "relu").lower(), parts.number("limit"), parts.threshold()
    if word == "topk" and limit:
        word = "jumprelu"  # as OpenMOSS does for inference
        found.notes.append(f"topk by its config, used with its threshold {limit} as OpenMOSS does for inference")
    if word == "jumprelu" and stored is not None:
        found.architecture, found.threshold = "jumprelu", stored / s
    elif word == "jumprelu" and limit is not None:
        found.architecture = "jumprelu"
        found.limit(limit)
    elif word == "topk":
        found.architecture = "topk"
        found.k, notes = parts.decide_k()
        found.notes += notes
    elif word != "relu":
        raise parts.error(
            f"its activation is {word}, with {'no' if limit is None else 'a'} threshold",
            "Known are relu, topk, and jumprelu with a threshold; convert it in OpenMOSS' library.",
        )
    found.l0 = parts.figure("k") if found.architecture == "jumprelu" else None
