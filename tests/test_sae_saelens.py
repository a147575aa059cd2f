"""SAELens folders of every version against numpy, and against SAELens itself in the slow tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import foreign
import tiny
from facsynth.assemble import join_space
from facsynth.errors import ModelError
from facsynth.model.sae_formats import open_local
from facsynth.model.sae_saelens import save_sae
from facsynth.settings import parse_settings
from foreign import D_IN, Array, W, X, centred, check, decoded, jump, plain, top


def gated(x: Array = X) -> Array:
    more = {key: value.double().numpy() for key, value in foreign.gate(W).items()}
    u = (x.astype(np.float64) - W.b_dec) @ W.W_enc
    return np.where(u + more["b_gate"] > 0, np.maximum(u * np.exp(more["r_mag"]) + more["b_mag"], 0), 0)


REFERENCES = {
    "standard": lambda x: np.maximum(centred(x=x), 0),
    "topk": lambda x: top(centred(x=x), 5),
    "jumprelu": lambda x: jump(centred(x=x), W.threshold),
    "gated": gated,
}


def folder_of(path: Path, architecture: str, **config: Any) -> Path:
    more: dict[str, Any] = {"k": 5} if architecture == "topk" else {}
    tensors = {"tensors": foreign.gate(W)} if architecture == "gated" else {}
    return foreign.saelens(path, W, architecture, **more, **tensors, **config)


@pytest.mark.parametrize("architecture", REFERENCES)
def test_each_architecture(architecture: str, tmp_path: Path) -> None:
    acts = REFERENCES[architecture](X)
    sae = check(folder_of(tmp_path, architecture), acts, decoded(acts))
    assert (sae.hook_point, sae.model_name, sae.notes) == ("layers.3", "gpt2", ())


@pytest.mark.parametrize("architecture", REFERENCES)
def test_layer_norm_is_kept_with_its_lopsided_inverse(architecture: str, tmp_path: Path) -> None:
    x = X.astype(np.float64)
    mean, deviation = x.mean(1, keepdims=True), x.std(1, ddof=1, keepdims=True)
    acts = REFERENCES[architecture]((x - mean) / (deviation + 1e-5))
    folder = folder_of(tmp_path, architecture, normalize_activations="layer_norm")
    assert check(folder, acts, decoded(acts) * deviation + mean).input_norm == "layer_norm"


@pytest.mark.parametrize("architecture", REFERENCES)
def test_constant_norm_rescale_is_kept(architecture: str, tmp_path: Path) -> None:
    scale = np.linalg.norm(X.astype(np.float64), axis=1, keepdims=True) / D_IN**0.5
    acts = REFERENCES[architecture](X / scale)
    check(folder_of(tmp_path, architecture, normalize_activations="constant_norm_rescale"), acts, decoded(acts) * scale)


def test_a_token_of_zeros_is_no_nan(tmp_path: Path) -> None:
    for norm in ("layer_norm", "constant_norm_rescale"):
        sae = open_local(folder_of(tmp_path / norm, "standard", normalize_activations=norm)).sae
        codes = sae.encode(torch.zeros((2, D_IN)))
        assert bool(torch.isfinite(sae.decode(codes)).all())


def test_activations_rescaled_by_decoder_norm_are_folded(tmp_path: Path) -> None:
    n = np.linalg.norm(W.W_dec, axis=1)
    acts = top(centred() * n, 5)
    sae = check(folder_of(tmp_path, "topk", rescale_acts_by_decoder_norm=True), acts, decoded(acts / n))
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(24))


@pytest.mark.parametrize("rescaled", [True, False])
@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
def test_a_checkpoint_of_batchtopk_is_used_by_its_threshold(architecture: str, rescaled: bool, tmp_path: Path) -> None:
    n = np.linalg.norm(W.W_dec, axis=1) if rescaled else 1
    folder = foreign.saelens(
        tmp_path, W, architecture, k=5.5, rescale_acts_by_decoder_norm=rescaled,
        tensors={"topk_threshold": torch.tensor(0.9, dtype=torch.float64)},
    )  # fmt: skip
    acts = jump(centred() * n, 0.9)
    assert check(folder, acts, decoded(acts / n)).architecture == "jumprelu"


def test_the_factor_of_a_checkpoint_is_folded_from_the_file_beside_it(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "jumprelu", normalize_activations="expected_average_only_in")
    with pytest.raises(ModelError, match=r"(?s)'expected_average_only_in'.*The factor is not in this folder"):
        open_local(folder)
    foreign.put_json(folder / "activation_scaler.json", scaling_factor=0.4, has_whitening=False)
    acts = REFERENCES["jumprelu"](0.4 * X)
    check(folder, acts, decoded(acts) / 0.4)


def test_scaling_of_a_batchtopk_checkpoint_reaches_its_threshold(tmp_path: Path) -> None:
    folder = foreign.saelens(
        tmp_path, W, "batchtopk", k=5, rescale_acts_by_decoder_norm=True, tensors={"topk_threshold": torch.tensor(0.9)},
        normalize_activations="expected_average_only_in",
    )  # fmt: skip
    foreign.put_json(folder / "activation_scaler.json", scaling_factor=0.4)
    n = np.linalg.norm(W.W_dec, axis=1)
    acts = jump(centred(x=0.4 * X) * n, 0.9)
    check(folder, acts / 0.4, decoded(acts / n) / 0.4)


@pytest.mark.parametrize(
    ("config", "architecture"),
    [
        ({"activation_fn_str": "relu", "hook_point": "blocks.3.hook_resid_post"}, "standard"),
        ({"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}, "hook_name": "blocks.3.hook_resid_post"},
         "topk"),
        ({"activation_fn": "topk", "activation_fn_kwargs": {"k": 5}, "hook_point": "blocks.4.hook_resid_pre",
          "normalize_activations": False}, "topk"),
        ({"architecture": "jumprelu", "activation_fn_str": "relu", "hook_name": "blocks.3.hook_resid_post",
          "normalize_activations": None}, "jumprelu"),
    ],
)  # fmt: skip
def test_flat_configs_from_before_version_6(config: dict[str, Any], architecture: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, architecture)
    foreign.put_json(folder / "cfg.json", model_name="gpt2-small", d_in=8, d_sae=24, prepend_bos=True, **config)
    acts = REFERENCES[architecture](X)
    sae = check(folder, acts, decoded(acts))
    assert (sae.hook_point, sae.model_name) == ("layers.3", "gpt2-small")


def test_an_input_that_is_not_centred(tmp_path: Path) -> None:
    acts = np.maximum(plain(), 0)
    assert not check(folder_of(tmp_path, "standard", apply_b_dec_to_input=False), acts, decoded(acts)).centred


def test_a_log_threshold_is_one_of_older_checkpoints(tmp_path: Path) -> None:
    folder = foreign.saelens(tmp_path, W, "standard", tensors={"log_threshold": W.torch("threshold").log()})
    foreign.put_json(folder / "cfg.json", architecture="jumprelu")
    acts = REFERENCES["jumprelu"](X)
    check(folder, acts, decoded(acts))


def test_a_centred_stream_is_centred_here_too(tmp_path: Path) -> None:
    metadata = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    plain = open_local(folder_of(tmp_path / "plain", "standard"))
    centred = open_local(folder_of(tmp_path / "centred", "standard", metadata=metadata))
    assert "centred stream" in centred.sae.notes[0]
    assert dict(centred.used) == {**plain.used, "input_norm": "centred"}
    x = torch.from_numpy(X) + 3.0
    s = {name: getattr(centred.sae, name).numpy() for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    mean = x.numpy().mean(1, keepdims=True)
    acts = np.maximum((x.numpy() - mean - s["b_dec"] * centred.sae.centred) @ s["W_enc"] + s["b_enc"], 0)
    codes = centred.sae.encode(x)
    found = np.zeros_like(acts)
    found[codes.token, codes.feature] = codes.act
    np.testing.assert_allclose(found, acts, rtol=1e-4, atol=1e-4)
    expected = acts @ s["W_dec"] + s["b_dec"] + mean
    np.testing.assert_allclose(centred.sae.decode(codes), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("family", "norm"), [("gpt2", "centred"), ("llama", "none")])
def test_a_model_with_rms_norm_is_never_centred(family: str, norm: str, tmp_path: Path) -> None:
    backbone = tiny.backbone(tiny.save_model(tmp_path / family, family), "layers.1")
    settings = parse_settings({"data": {"seed": ["a"], "anchor": ["a"]}}, "the test")
    sae = replace(tiny.random_sae(), input_norm="centred")
    assert join_space(backbone, sae, settings).sae.input_norm == norm


@pytest.mark.parametrize(
    ("hook_name", "norm"),
    [("blocks.3.hook_resid_pre", "centred"), ("blocks.3.hook_mlp_out", "centred"), ("hook_embed", "centred"),
     ("blocks.3.ln1.hook_normalized", "none"), ("blocks.3.mlp.hook_post", "none")],
)  # fmt: skip
def test_only_the_stream_and_what_is_written_to_it_is_centred(hook_name: str, norm: str, tmp_path: Path) -> None:
    metadata = {"model_from_pretrained_kwargs": {"center_writing_weights": True}, "hook_name": hook_name}
    sae = open_local(folder_of(tmp_path, "standard", metadata=metadata)).sae
    assert (sae.input_norm, len(sae.notes)) == (norm, norm == "centred")


@pytest.mark.parametrize("norm", ["layer_norm", "constant_norm_rescale", "centred"])
def test_an_input_norm_is_saved_and_read_back(norm: str, tmp_path: Path) -> None:
    sae = replace(tiny.random_sae(), input_norm=norm)
    save_sae(sae, tmp_path, metadata={})
    found, x = open_local(tmp_path).sae, tiny_activations()
    torch.testing.assert_close(found.encode(x).act, sae.encode(x).act)
    assert found.input_norm == norm


def test_an_architecture_that_saelens_lacks_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="a groupmax SAE cannot be saved"):
        save_sae(tiny.random_sae(architecture="groupmax"), tmp_path, metadata={})


def tiny_activations() -> torch.Tensor:
    return torch.from_numpy(foreign.activations(32))
