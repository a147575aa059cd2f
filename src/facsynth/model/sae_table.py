"""The one place where other libraries' names stand: which keys make a format, and what each is called here.

A format is known by its container and its keys. `model.sae_formats` finds the row of a file and hands its tensors and
settings, under our names, to the row's reader. A new format: a row here, a reader, a test.

In `tensors`, `W_enc.T` is stored transposed, a key ending in `*` stands for all that begin so, and `-` is known and of
no effect. In `config`, a file's path is relative to the folder of the weights, `` the .pt file itself; keys inside
keys are joined by dots, and of several with one meaning the first that is there counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from facsynth.model import sae_readers as readers
from facsynth.model.sae_draft import Draft, Parts
from facsynth.model.sae_openmoss import read_openmoss
from facsynth.model.sae_saelens import read_saelens


@dataclass(frozen=True)
class Format:
    """One row."""

    name: str
    container: str
    tensors: Mapping[str, str]
    """Key in the file → ours: W_enc, b_enc, W_dec, b_dec, threshold and what readers fold into those."""
    needed: frozenset[str]
    """Ours that must be there."""
    reader: Callable[[Parts], Draft]
    config: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Config file → key in it → ours."""

    def ours(self, key: str) -> str | None:
        """Our name of a tensor, perhaps with `.T`; None of a key that this format does not have."""
        if key in self.tensors:
            return self.tensors[key]
        fitting = [start for start in self.tensors if start.endswith("*") and key.startswith(start[:-1])]
        return self.tensors[max(fitting, key=len)] if fitting else None


LINEAR = {"encoder.weight": "W_enc.T", "encoder.bias": "b_enc", "decoder.weight": "W_dec.T"}
PLAIN = {"W_enc": "W_enc", "b_enc": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec", "threshold": "threshold"}
BOTH = frozenset({"W_enc", "W_dec", "b_dec"})

SAELENS_CONFIG = {
    "architecture": "architecture", "d_in": "d_in", "d_sae": "d_sae", "k": "k", "activation_fn_kwargs.k": "k",
    "activation_fn_str": "activation", "activation_fn": "activation", "apply_b_dec_to_input": "centred",
    "normalize_activations": "input_norm", "reshape_activations": "reshape",
    "rescale_acts_by_decoder_norm": "by_decoder_norm", "metadata.hf_hook_name": "hook_point",
    "hf_hook_name": "hook_point", "metadata.hook_name": "hook_point", "hook_name": "hook_point",
    "hook_point": "hook_point", "metadata.hook_head_index": "head", "hook_head_index": "head",
    "hook_point_head_index": "head", "metadata.model_name": "model_name", "model_name": "model_name",
    "metadata.l0": "l0", "metadata.training_architecture_details.k": "l0", "metadata.fvu": "fvu",
    "metadata.model_from_pretrained_kwargs.center_writing_weights": "centred_stream",
    "model_from_pretrained_kwargs.center_writing_weights": "centred_stream",
}  # fmt: skip
OPENMOSS_CONFIG = {
    "d_model": "d_in", "d_sae": "d_sae", "expansion_factor": "expansion", "act_fn": "activation", "top_k": "k",
    "jump_relu_threshold": "limit",
    "dataset_average_activation_norm.in": "norm_in", "dataset_average_activation_norm.out": "norm_out",
    "norm_activation": "input_norm", "sparsity_include_decoder_norm": "by_decoder_norm",
    "apply_decoder_bias_to_pre_encoder": "centred", "use_glu_encoder": "glu", "hook_point_in": "hook_point",
    "hook_point_out": "hook_point_out", "sae_type": "kind",
}  # fmt: skip
OPENMOSS_TENSORS = {
    **LINEAR, "decoder.bias": "b_dec", "W_E": "W_enc", "b_E": "b_enc", "W_D": "W_dec", "b_D": "b_dec",
    "log_jumprelu_threshold": "log_threshold", "activation_function.log_jumprelu_threshold": "log_threshold",
    "dataset_average_activation_norm.out": "norm_out", "dataset_average_activation_norm.*": "norm_in",
    "tokens_since_last_activation": "-", "is_dead": "-",
}  # fmt: skip
OPENMOSS_FILES = {"config.json": OPENMOSS_CONFIG, "hyperparams.json": OPENMOSS_CONFIG,
                  "../config.json": OPENMOSS_CONFIG, "../hyperparams.json": OPENMOSS_CONFIG}  # fmt: skip
SPARSIFY_CONFIG = {
    "d_in": "d_in", "num_latents": "d_sae", "expansion_factor": "expansion", "k": "k", "activation": "activation",
    "transcode": "transcoder", "skip_connection": "skip", "signed": "signed",
}  # fmt: skip
DICTIONARY_FILES = {
    "config.json": {
        "trainer.dict_class": "dict_class", "trainer.activation_dim": "d_in", "trainer.dict_size": "d_sae",
        "trainer.k": "k", "trainer.layer": "layer", "trainer.lm_name": "model_name", "buffer.io": "side",
        "trainer.submodule_name": "site",
    },
    "eval_results.json": {"l0": "l0", "frac_variance_explained": "explained_variance"},
}  # fmt: skip

SAELENS = Format(
    "SAELens", "safetensors",
    {**PLAIN, "log_threshold": "log_threshold", "topk_threshold": "limit", "b_gate": "b_gate", "b_mag": "b_mag",
     "r_mag": "r_mag", "scaling_factor": "finetuned_scale"},
    BOTH, read_saelens,
    {"cfg.json": SAELENS_CONFIG, "activation_scaler.json": {"scaling_factor": "input_scale"}},
)  # fmt: skip
FORMATS = (
    SAELENS,
    Format(
        "Gemma Scope", "npz", {**PLAIN, "w_enc": "W_enc", "w_dec": "W_dec"},
        BOTH | {"b_enc", "threshold"}, readers.gemma_scope,
    ),
    Format(
        "Gemma Scope 2", "safetensors",
        {"w_enc": "W_enc", "w_dec": "W_dec", "b_enc": "b_enc", "b_dec": "b_dec", "threshold": "threshold"},
        BOTH | {"b_enc", "threshold"}, readers.gemma_scope_2,
        {"config.json": {
            "model_name": "model_name", "hf_hook_point_in": "hook_point", "hf_hook_point_out": "hook_point_out",
            "architecture": "activation", "l0": "l0", "width": "d_sae", "type": "kind", "affine_connection": "skip",
        }},
    ),
    Format("OpenMOSS", "safetensors", OPENMOSS_TENSORS, frozenset({"W_enc", "W_dec", "b_enc"}), read_openmoss,
           OPENMOSS_FILES),
    Format("OpenMOSS", "pt", {f"sae.{key}": ours for key, ours in OPENMOSS_TENSORS.items()},
           frozenset({"W_enc", "W_dec", "b_enc"}), read_openmoss, OPENMOSS_FILES),
    Format(
        "sparsify", "safetensors",
        {"encoder.weight": "W_enc.T", "encoder.bias": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"},
        BOTH | {"b_enc"}, readers.sparsify,
        {"cfg.json": SPARSIFY_CONFIG, "../config.json": {"model": "model_name"},
         "../../config.json": {"model": "model_name"}},
    ),
    Format("dictionary_learning", "pt", {**LINEAR, "bias": "b_dec"}, BOTH | {"b_enc"}, readers.dictionary_standard,
           DICTIONARY_FILES),
    Format("dictionary_learning", "pt", {**LINEAR, "b_dec": "b_dec", "k": "k", "threshold": "limit"},
           BOTH | {"b_enc"}, readers.dictionary_topk, DICTIONARY_FILES),
    Format("dictionary_learning", "pt", {**PLAIN, "k": "k", "group_sizes": "-"},
           BOTH | {"b_enc", "threshold"}, readers.dictionary_jumprelu, DICTIONARY_FILES),
    Format("dictionary_learning", "pt",
           {"encoder.weight": "W_enc.T", "decoder.weight": "W_dec.T", "decoder_bias": "b_dec", "r_mag": "r_mag",
            "gate_bias": "b_gate", "mag_bias": "b_mag"},
           BOTH | {"r_mag", "b_gate", "b_mag"}, readers.dictionary_gated, DICTIONARY_FILES),
    Format("dictionary_learning", "pt", {**LINEAR, "decoder.bias": "b_dec"}, BOTH | {"b_enc"}, readers.dictionary_new,
           DICTIONARY_FILES),
    Format(
        "Qwen-Scope", "pt", {"W_enc": "W_enc.T", "b_enc": "b_enc", "W_dec": "W_dec.T", "b_dec": "b_dec"},
        BOTH | {"b_enc"}, readers.qwen_scope,
    ),
    Format(
        "Goodfire", "pt",
        {"encoder_linear.weight": "W_enc.T", "encoder_linear.bias": "b_enc",
         "decoder_linear.weight": "W_dec.T", "decoder_linear.bias": "b_dec"},
        BOTH | {"b_enc"}, readers.goodfire,
    ),
    Format(
        "FAC-Synthesis", "pt",
        {"weight.W_enc": "W_enc", "weight.b_enc": "b_enc", "weight.b_dec": "b_dec", "weight.mask": "mask"},
        frozenset({"W_enc", "b_enc", "b_dec"}), readers.fac_synthesis,
        {"": {"config.d_inp": "d_in", "config.d_hide": "d_sae", "config.topK": "k"}},
    ),
)  # fmt: skip

REFUSED = {
    "W_skip": "a skip connection, so it is a transcoder",
    "affine_skip_connection": "a skip connection, so it is a transcoder",
    "W_E_glu": "a gated (GLU) encoder", "sae.W_E_glu": "a gated (GLU) encoder",
    "encoder_glu.weight": "a gated (GLU) encoder", "sae.encoder_glu.weight": "a gated (GLU) encoder",
}  # fmt: skip
"""Tensors that say what cannot be read here, and why."""

WEIGHT_FILES = (
    "sae_weights.safetensors", "sae_weights.pt", "sae.safetensors", "params.npz", "params.safetensors", "ae.pt",
    "checkpoints/pruned.safetensors", "checkpoints/pruned.pt", "checkpoints/final.safetensors", "checkpoints/final.pt",
)  # fmt: skip
"""What a folder's SAE is called, where the format fixes it."""
WEIGHT_PATTERNS = ("TopK*_l*_h*.pth",)
"""And what it is named like where that says more (FAC-Synthesis): fetched from the Hub, found by being the only one."""
COMPANIONS = frozenset({
    "sparsity.safetensors", "activation_whitening.safetensors", "activations_store_state.safetensors",
    "trainer_state.pt", "examples.safetensors", "background.npz", "checkpoint.safetensors",
})  # fmt: skip
"""What lies beside SAEs and is none."""
CONFIG_FILES = frozenset(name for row in FORMATS for name in row.config if name)
