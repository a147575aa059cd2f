"""An SAE against ten lines of numpy and against SAELens, on disk and back, and every file that is not one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import tiny
from facsynth.errors import ModelError, SettingsError
from facsynth.model.sae import BLOCK_TOKENS, Codes, Sae, reconstruction
from facsynth.model.sae_formats import load_sae
from facsynth.model.sae_saelens import save_sae

ARCHITECTURES = ("topk", "jumprelu", "standard", "groupmax")
SAVED = ("topk", "jumprelu", "standard")


def numpy_encode(sae: Sae, x: Any, codes: str) -> Any:
    """Slow and dense: [n, d_sae] in float64."""
    W_enc, b_enc, b_dec = (t.double().numpy() for t in (sae.W_enc, sae.b_enc, sae.b_dec))
    pre = (np.asarray(x, np.float64) - (b_dec if sae.centred else 0)) @ W_enc + b_enc
    acts = np.maximum(pre, 0)
    if codes == "native" and sae.architecture == "topk":
        for row in acts:
            row[np.argsort(row)[: -sae.k]] = 0
    if codes == "native" and sae.architecture == "groupmax":
        groups = acts.reshape(len(acts), sae.k, -1)
        acts = np.where(groups == groups.max(2, keepdims=True), groups, 0).reshape(acts.shape)
    if codes == "native" and sae.architecture == "jumprelu":
        assert sae.threshold is not None
        acts[pre <= sae.threshold.double().numpy()] = 0
    return acts


def dense(codes: Codes, d_sae: int) -> Any:
    out = np.zeros((codes.n_tokens, d_sae))
    out[codes.token.numpy(), codes.feature.numpy()] = codes.act.numpy()
    return out


def activations(n: int = 50, d_in: int = 32, rng_seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn((n, d_in), generator=torch.Generator().manual_seed(rng_seed))


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("codes", ["native", "relu"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_codes_are_those_of_numpy(architecture: str, codes: str, centred: bool) -> None:
    sae, x = tiny.random_sae(architecture=architecture, centred=centred), activations()
    found = sae.encode(x, codes)
    expected = numpy_encode(sae, x, codes)
    np.testing.assert_allclose(dense(found, sae.d_sae), expected, rtol=1e-4, atol=1e-5)
    assert len(found.act) == (expected > 0).sum()
    assert bool((found.act > 0).all())
    order = found.token * sae.d_sae + found.feature
    assert bool((order.diff() > 0).all()), "by token, then feature, each once"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_decoding_is_that_of_numpy(architecture: str) -> None:
    sae, x = tiny.random_sae(architecture=architecture), activations()
    expected = numpy_encode(sae, x, "native") @ sae.W_dec.double().numpy() + sae.b_dec.double().numpy()
    np.testing.assert_allclose(sae.decode(sae.encode(x)).numpy(), expected, rtol=1e-4, atol=1e-4)


def test_each_latent_of_a_hand_made_sae_is_known_by_name() -> None:
    found = tiny.named_sae(4).encode(torch.tensor([[2.0, -3.0, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0], [-1.0, 0, 0, 0]]))
    listed = zip(found.token.tolist(), found.feature.tolist(), found.act.tolist(), strict=True)
    assert list(listed) == [(0, 0, 2.0), (0, 3, 0.5), (0, 5, 3.0), (2, 4, 1.0)]


@given(st.integers(0, 3), st.sampled_from(ARCHITECTURES))
def test_many_tokens_are_encoded_as_one_by_one(rng_seed: int, architecture: str) -> None:
    sae, x = tiny.random_sae(architecture=architecture, rng_seed=rng_seed), activations(BLOCK_TOKENS + 5)
    whole = dense(sae.encode(x), sae.d_sae)
    for row in (0, 1, BLOCK_TOKENS - 1, BLOCK_TOKENS, BLOCK_TOKENS + 4):
        np.testing.assert_allclose(whole[row], dense(sae.encode(x[row : row + 1]), sae.d_sae)[0], rtol=1e-4, atol=1e-5)


def test_no_tokens_and_tokens_that_fire_nothing_have_no_codes() -> None:
    sae = replace(tiny.named_sae(4), b_enc=torch.full((8,), -10.0))
    for n in (0, 3):
        found = sae.encode(torch.ones((n, 4)))
        assert (len(found.token), len(found.feature), len(found.act), found.n_tokens) == (0, 0, 0, n)
        torch.testing.assert_close(sae.decode(found), torch.zeros((n, 4)))


def test_negative_top_values_are_not_active() -> None:
    sae = replace(tiny.random_sae(k=64), b_enc=torch.full((64,), -1.0))
    found = sae.encode(activations())
    assert 0 < len(found.act) < 50 * 64
    assert bool((found.act > 0).all())


def test_half_precision_activations_are_multiplied_in_float32() -> None:
    sae, x = tiny.random_sae(architecture="standard"), activations().bfloat16()
    np.testing.assert_allclose(dense(sae.encode(x), 64), numpy_encode(sae, x.float(), "native"), rtol=1e-4, atol=1e-5)


def test_unknown_codes_are_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="no codes 'raw'; known are native, relu"):
        tiny.random_sae().encode(activations(), "raw")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_reconstruction_is_that_of_numpy_in_any_blocks(architecture: str) -> None:
    sae, x = tiny.random_sae(architecture=architecture), activations(200) + 5
    codes = numpy_encode(sae, x, "native")
    rebuilt = codes @ sae.W_dec.double().numpy() + sae.b_dec.double().numpy()
    exact = x.double().numpy()
    fvu = ((rebuilt - exact) ** 2).sum() / ((exact - exact.mean(0)) ** 2).sum()
    for size in (200, 7):
        found = reconstruction(sae, iter(x.split(size)))
        assert found.fvu == pytest.approx(fvu, rel=1e-4)
        assert found.l0 == pytest.approx((codes > 0).sum(1).mean())
        assert found.dead_share == pytest.approx((codes == 0).all(0).mean())
        assert found.n_tokens == 200


def test_an_sae_that_rebuilds_everything_has_no_variance_left_and_one_that_gives_the_mean_all() -> None:
    sae, x = tiny.named_sae(8), activations(d_in=8)
    assert reconstruction(sae, iter([x])).fvu == pytest.approx(0, abs=1e-9)
    mean = replace(sae, W_dec=torch.zeros((16, 8)), b_dec=x.mean(0))
    assert reconstruction(mean, iter([x])).fvu == pytest.approx(1)


def test_reconstruction_of_no_tokens_is_an_error() -> None:
    with pytest.raises(ModelError, match="no tokens"):
        reconstruction(tiny.named_sae(4), iter([]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("architecture", SAVED)
def test_a_saved_sae_is_read_back(architecture: str, dtype: torch.dtype, tmp_path: Path) -> None:
    sae = tiny.random_sae(architecture=architecture, centred=architecture != "standard")
    save_sae(sae, tmp_path / "sae", metadata={"corpora": ["größer"]}, dtype=dtype)
    back = load_sae(tmp_path / "sae", fingerprint="f")
    for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"):
        before, after = getattr(sae, name), getattr(back, name)
        assert after is None if before is None else torch.equal(after, before.to(dtype).float())
    for name in ("architecture", "k", "centred", "hook_point", "model_name"):
        assert getattr(back, name) == getattr(sae, name)
    assert back.fingerprint == "f"
    assert load_file(tmp_path / "sae" / "sae_weights.safetensors")["W_enc"].dtype == dtype
    assert json.loads((tmp_path / "sae" / "cfg.json").read_text("utf-8"))["metadata"]["corpora"] == ["größer"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("architecture", SAVED)
@pytest.mark.filterwarnings("ignore")
def test_saelens_reads_what_we_write_and_encodes_the_same(
    architecture: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    sae_lens = pytest.importorskip("sae_lens")
    save_sae(tiny.random_sae(architecture=architecture), tmp_path, metadata={}, dtype=dtype)
    ours, theirs, x = load_sae(tmp_path), sae_lens.SAE.load_from_disk(str(tmp_path)), activations()
    codes = ours.encode(x)
    with torch.no_grad():
        expected = theirs.encode(x)
        np.testing.assert_allclose(dense(codes, 64), expected.numpy(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.decode(codes), theirs.decode(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "hook_point"),
    [
        ("layers.14", "layers.14"),
        ("blocks.14.hook_resid_post", "layers.14"),
        ("blocks.14.hook_resid_pre", "layers.13"),
        ("blocks.0.hook_resid_pre", "blocks.0.hook_resid_pre"),  # the embedding: no block's output
        ("blocks.3.hook_mlp_out", "blocks.3.hook_mlp_out"),
    ],
)
def test_names_of_transformer_lens_are_module_paths(name: str, hook_point: str, tmp_path: Path) -> None:
    save_sae(replace(tiny.random_sae(), hook_point=name), tmp_path, metadata={})
    assert load_sae(tmp_path).hook_point == hook_point


def test_a_model_of_another_width_is_refused_with_both_widths() -> None:
    with pytest.raises(ModelError, match=r"(?s)width 32, from layers.1 of tiny.*other has width 64"):
        tiny.random_sae().check_model(64, "other")
    tiny.random_sae().check_model(32, "other")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["W_enc", "b_enc", "W_dec", "b_dec", "threshold"])
def test_tensors_that_are_not_finite_are_refused_by_name(name: str, value: float) -> None:
    sae = tiny.random_sae(architecture="jumprelu")
    tensor = getattr(sae, name).clone()
    tensor[(0,) * tensor.dim()] = value
    with pytest.raises(ModelError, match=f"the SAE's {name} holds NaN or infinity"):
        replace(sae, **{name: tensor})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "gated"}, "no SAE architecture 'gated'"),
        ({"architecture": "groupmax", "k": 7}, "64 features, which k = 7 does not divide"),
        ({"input_norm": "batch"}, "no input norm 'batch'"),
        ({"k": 0}, "topk one with k = 0; k must lie between 1 and d_sae"),
        ({"k": 65}, "k = 65"),
        ({"architecture": "jumprelu"}, "threshold of shape None"),
        ({"architecture": "jumprelu", "threshold": torch.ones(3)}, r"64 features has a threshold of shape \(3,\)"),
        ({"b_enc": torch.zeros(63)}, "do not fit each other"),
        ({"W_dec": torch.zeros((32, 64))}, "do not fit each other"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        replace(tiny.random_sae(), **change)


def configure(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "cfg.json").read_text()) | changes
        (folder / "cfg.json").write_text(json.dumps(config))

    return change


def drop(folder: Path) -> None:
    tensors = load_file(folder / "sae_weights.safetensors")
    del tensors["b_enc"], tensors["W_dec"]
    save_file(tensors, folder / "sae_weights.safetensors")


def cut(folder: Path) -> None:
    data = (folder / "sae_weights.safetensors").read_bytes()
    (folder / "sae_weights.safetensors").write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "cfg.json").unlink(), "cfg.json is missing beside it"),
        (lambda folder: (folder / "sae_weights.safetensors").unlink(), "no SAE in "),
        (lambda folder: (folder / "cfg.json").write_text("{"), "cfg.json is not JSON"),
        (lambda folder: (folder / "cfg.json").write_bytes(b"\xff"), "cfg.json is not JSON"),
        (lambda folder: (folder / "cfg.json").write_text("[1]"), "holds no settings of an SAE, but a list"),
        (cut, "sae_weights.safetensors cannot be read as safetensors"),
        (drop, "For the nearest, SAELens, it lacks W_dec"),
        (configure(normalize_activations="covariance_whitening"), "normalize_activations is 'covariance_whitening'"),
        (configure(reshape_activations="hook_z"), "reshape_activations is 'hook_z'"),
        (configure(architecture="matryoshka"), "no SAE architecture 'matryoshka'"),
        (configure(architecture="jumprelu"), "its config says jumprelu, its tensors do not: .* hold nothing more"),
        (configure(d_in=33), "its config says d_in = 33, its weights have 32"),
        (configure(k="many"), "k is 'many', not a number"),
        (configure(k=0), "k = 0; k must lie"),
        (configure(activation_fn_str="tanh-relu"), "its activation_fn is 'tanh-relu'"),
    ],
)
def test_a_folder_that_is_no_sae_is_a_model_error(damage: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    save_sae(tiny.random_sae(), tmp_path, metadata={})
    damage(tmp_path)
    with pytest.raises(ModelError, match=message):
        load_sae(tmp_path)
