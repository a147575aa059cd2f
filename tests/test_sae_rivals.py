"""A file opened here and by the library it is from: SAELens, its converters, and sparsify. Slow, and optional."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import foreign
from facsynth.errors import ModelError
from facsynth.model.input_norm import CENTRED, normed
from facsynth.model.sae_formats import open_local
from facsynth.model.sae_hub import of_saelens, open_release
from foreign import D_IN, D_SAE, W, X, dense, linear

pytestmark = [
    pytest.mark.slow,
    # SAELens would rather be called by a release's name than by its repository, and has factors of releases alone;
    # its reader of sparsify makes a matrix of no rows before it fails.
    pytest.mark.filterwarnings("ignore:You are loading an SAE using the HuggingFace repo_id:UserWarning"),
    pytest.mark.filterwarnings("ignore:norm_scaling_factor not found:UserWarning"),
    pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning"),
]
x = torch.from_numpy(X)


@pytest.fixture(scope="module")
def lens() -> Any:
    return pytest.importorskip("sae_lens")


def compare(path: Path, theirs: Any, times: float = 1.0) -> None:
    """Our codes are theirs, `times` over; x̂ is the same."""
    sae = open_local(path).sae
    with torch.no_grad():
        expected = theirs.encode(x)
        rebuilt = theirs.decode(expected)
    codes = sae.encode(x)
    assert 0.02 < float((expected > 0).float().mean()) < 0.9
    np.testing.assert_allclose(times * dense(codes, D_SAE), expected.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sae.decode(codes).numpy(), rebuilt.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "gated", "standard"])
def test_folders_of_saelens(architecture: str, norm: str, lens: Any, tmp_path: Path) -> None:
    more: dict[str, Any] = {"k": 5} if architecture == "topk" else {}
    more |= {"tensors": foreign.gate(W)} if architecture == "gated" else {}
    foreign.saelens(tmp_path, W, architecture, normalize_activations=norm, **more)
    theirs = lens.SAE.load_from_disk(str(tmp_path))
    compare(tmp_path, theirs)
    theirs.save_model(str(tmp_path / "again"))
    compare(tmp_path / "again", theirs)
    ours = of_saelens(theirs, "saelens:x:y")
    np.testing.assert_array_equal(dense(ours.sae.encode(x), D_SAE), dense(open_local(tmp_path).sae.encode(x), D_SAE))
    assert (ours.sae.hook_point, len(ours.digest)) == ("layers.3", 64)


def test_activations_rescaled_by_decoder_norm(lens: Any, tmp_path: Path) -> None:
    foreign.saelens(tmp_path, W, "topk", k=5, rescale_acts_by_decoder_norm=True)
    compare(tmp_path, lens.SAE.load_from_disk(str(tmp_path)))


@pytest.mark.parametrize("kind", ["BatchTopK", "TopK", "JumpReLU", "Gated", "Standard"])
@pytest.mark.parametrize("scale", [None, 0.4])
def test_checkpoints_and_finished_saes_of_its_training(
    kind: str, scale: float | None, lens: Any, tmp_path: Path
) -> None:
    """A checkpoint, with the factor beside it, is what SAELens folds and saves when training ends."""
    config = getattr(lens, f"{kind}TrainingSAEConfig")(
        d_in=D_IN, d_sae=D_SAE, normalize_activations="expected_average_only_in" if scale else "none",
        **({"k": 4} if "TopK" in kind else {}),
    )  # fmt: skip
    training = getattr(lens, f"{kind}TrainingSAE")(config)
    with torch.no_grad():
        for index, parameter in enumerate(training.parameters()):
            rng = torch.Generator().manual_seed(index)
            parameter.copy_(0.3 + torch.rand(parameter.shape, generator=rng)) if parameter.dim() == 1 else (
                parameter.copy_(torch.randn(parameter.shape, generator=rng))
            )
    if kind == "BatchTopK":
        training.topk_threshold = torch.tensor(1.5, dtype=torch.double)
    training.save_model(str(tmp_path / "checkpoint"))
    if scale:
        foreign.put_json(tmp_path / "checkpoint" / "activation_scaler.json", scaling_factor=scale)
        training.fold_activation_norm_scaling_factor(scale)
    training.save_inference_model(str(tmp_path / "final"))
    theirs = lens.SAE.load_from_disk(str(tmp_path / "final"))
    compare(tmp_path / "final", theirs)
    compare(tmp_path / "checkpoint", theirs)


def converted(
    lens: Any, monkeypatch: pytest.MonkeyPatch, converter: str, repository: str, folder: str, root: Path
) -> Any:
    """An SAE through one of SAELens' converters, fed with local files in place of the Hub's."""
    from sae_lens.loading import pretrained_sae_loaders as loaders

    def local(repo_id: str, filename: str, subfolder: str = "", **_: Any) -> str:
        return str(root / subfolder / filename)

    monkeypatch.setattr(loaders, "hf_hub_download", local)
    return lens.SAE.from_pretrained(
        repository, folder, converter=loaders.NAMED_PRETRAINED_SAE_LOADERS[converter], device="cpu"
    )


def test_its_converter_of_gemma_scope(lens: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    w = foreign.weights(2304, 4096)  # it takes the widths from the names
    folder = "layer_20/width_4k/average_l0_71"
    foreign.gemma_scope(tmp_path / "gemma-scope-2b-pt-res" / folder, w)
    theirs = converted(
        lens, monkeypatch, "gemma_2", "google/gemma-scope-2b-pt-res", folder, tmp_path / "gemma-scope-2b-pt-res"
    )
    ours = open_local(tmp_path / "gemma-scope-2b-pt-res" / folder).sae
    wide = torch.from_numpy(foreign.activations(2304, 8))
    with torch.no_grad():
        np.testing.assert_allclose(dense(ours.encode(wide), 4096), theirs.encode(wide).numpy(), rtol=1e-3, atol=1e-2)
    assert ours.hook_point == "layers.20"
    assert theirs.cfg.metadata.hook_name == "blocks.20.hook_resid_post"


def test_its_converter_of_gemma_scope_2(lens: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from sae_lens.loading import pretrained_sae_loaders as loaders

    folder = "resid_post/layer_17_width_16k_l0_small"
    state = {{"W_enc": "w_enc", "W_dec": "w_dec"}.get(key, key): W.torch(key) for key in vars(W)}
    foreign.put(tmp_path / "gemma-scope-2-1b-pt" / folder / "params.safetensors", state)
    config = {
        "architecture": "jump_relu",
        "model_name": "google/gemma-3-1b-pt",
        "hf_hook_point_in": "model.layers.17.output",
    }
    foreign.put_json(tmp_path / "gemma-scope-2-1b-pt" / folder / "config.json", **config)
    monkeypatch.setattr(
        loaders, "get_safetensors_tensor_shapes", lambda *_: {k: list(t.shape) for k, t in state.items()}
    )
    root = tmp_path / "gemma-scope-2-1b-pt"
    compare(root / folder, converted(lens, monkeypatch, "gemma_3", "google/gemma-scope-2-1b-pt", folder, root))


def test_its_converter_of_llama_scope_gives_a_constant_more(
    lens: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unit = foreign.Weights(**{**vars(W), "W_dec": W.W_dec / np.linalg.norm(W.W_dec, axis=1, keepdims=True)})
    foreign.llama_scope(tmp_path / "L8R-8x", unit)
    s = D_IN**0.5 / 1.7
    theirs = converted(lens, monkeypatch, "llama_scope", "fnlp/Llama3_1-8B-Base-LXR-8x", "L8R-8x", tmp_path)
    theirs.fold_activation_norm_scaling_factor(s)  # as its registry does for its own releases
    compare(tmp_path / "L8R-8x", theirs, times=s)


def test_its_converter_of_the_r1_distillation(lens: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unit = foreign.Weights(**{**vars(W), "W_dec": W.W_dec / np.linalg.norm(W.W_dec, axis=1, keepdims=True)})
    state = {**linear(unit), "decoder.bias": unit.torch("b_dec"), "log_jumprelu_threshold": W.torch("threshold").log()}
    norm = {
        "dataset_average_activation_norm.in": torch.tensor(1.7),
        "dataset_average_activation_norm.out": torch.tensor(1.7),
    }
    folder = tmp_path / "x" / "L8R"
    foreign.put(folder / "sae_weights.safetensors", state)
    hook = "blocks.8.hook_resid_post"
    foreign.put_json(
        folder / "config.json", d_model=D_IN, expansion_factor=3, act_fn="jumprelu", hook_point_in=hook,
        hook_point_out=hook, norm_activation="dataset-wise", sparsity_include_decoder_norm=True,
    )  # fmt: skip
    theirs = converted(lens, monkeypatch, "llama_scope_r1_distill", "fnlp/Llama-Scope-R1-Distill", "x/L8R", tmp_path)
    theirs.fold_activation_norm_scaling_factor(s := D_IN**0.5 / 1.7)
    foreign.put(folder / "sae_weights.safetensors", {**state, **norm})
    compare(folder, theirs, times=s)


def test_its_converter_of_qwen_scope(lens: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from sae_lens.loading import pretrained_sae_loaders as loaders

    repository = "SAE-Res-Qwen3-8B-Base-W1K-L0_5"
    monkeypatch.setitem(loaders.QWEN_SCOPE_MODEL_INFO, "Qwen3-8B-Base", ("Qwen/Qwen3-8B-Base", D_IN))
    w = foreign.weights(D_IN, 1024)
    foreign.qwen_scope(tmp_path / repository, w)
    theirs = converted(lens, monkeypatch, "qwen_scope", f"Qwen/{repository}", "layer3.sae.pt", tmp_path / repository)
    ours = open_local(tmp_path / repository).sae
    with torch.no_grad():
        np.testing.assert_allclose(dense(ours.encode(x), 1024), theirs.encode(x).numpy(), rtol=1e-4, atol=1e-5)
    assert f"model.{ours.hook_point}" == theirs.cfg.metadata.hf_hook_name
    assert ours.model_name == theirs.cfg.metadata.model_name


@pytest.mark.parametrize(
    "dict_class", ["AutoEncoder", "AutoEncoderTopK", "BatchTopKSAE", "JumpReluAutoEncoder", "GatedAutoEncoder"]
)
def test_its_converter_of_dictionary_learning(
    dict_class: str, lens: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    more = {"k": torch.tensor(5), "threshold": torch.tensor(0.7), "b_dec": W.torch("b_dec")}
    gate = {{"b_gate": "gate_bias", "b_mag": "mag_bias"}.get(key, key): t for key, t in foreign.gate(W).items()}
    special = {
        "AutoEncoder": {**linear(W), "bias": W.torch("b_dec")},
        "JumpReluAutoEncoder": {key: W.torch(key) for key in vars(W)},
        "GatedAutoEncoder": {**linear(W), **gate, "decoder_bias": W.torch("b_dec")},
    }
    state = special.get(dict_class, {**linear(W), **more})
    if dict_class == "GatedAutoEncoder":
        del state["encoder.bias"]
    foreign.put(tmp_path / "t0" / "ae.pt", state)
    trainer = {
        "dict_class": dict_class,
        "layer": 3,
        "lm_name": "x/y",
        "activation_dim": D_IN,
        "dict_size": D_SAE,
        "k": 5,
    }
    foreign.put_json(tmp_path / "t0" / "config.json", trainer=trainer, buffer={"ctx_len": 128})
    theirs = converted(lens, monkeypatch, "dictionary_learning_1", "canrager/lm_sae", "t0", tmp_path)
    compare(tmp_path / "t0", theirs)


def test_its_converter_of_sparsify_does_not_read_what_sparsify_writes(lens: Any, tmp_path: Path) -> None:
    """The one difference that is expected; when this fails, their reader may have been mended."""
    from sae_lens.loading.pretrained_sae_loaders import sparsify_disk_loader

    foreign.sparsify(tmp_path / "layers.10", W)
    with pytest.raises(RuntimeError):
        lens.SAE.load_from_disk(tmp_path / "layers.10", converter=sparsify_disk_loader)


def test_a_release_that_saelens_cannot_get_is_a_message(lens: Any) -> None:
    with pytest.raises(ModelError, match=r"SAELens cannot open no-such-release x\n.*\nIts table of releases"):
        open_release("saelens:no-such-release:x")
    with pytest.raises(ModelError, match="SAELens cannot open gpt2-small-res-jb"):
        open_release("saelens:gpt2-small-res-jb:blocks.3.hook_resid_pre")


@pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")
@pytest.mark.parametrize("norm", ["LN", "RMS"])
def test_what_transformer_lens_centres_is_the_stream_of_a_model_with_layer_norm(norm: str, lens: Any) -> None:
    transformer_lens = pytest.importorskip("transformer_lens")
    config = transformer_lens.HookedTransformerConfig(
        n_layers=2, d_model=16, n_ctx=12, d_head=8, n_heads=2, d_mlp=16, d_vocab=30, act_fn="gelu",
        normalization_type=norm, device="cpu",
    )  # fmt: skip
    plain, centred = (transformer_lens.HookedTransformer(config) for _ in range(2))
    with torch.no_grad():
        for index, (name, parameter) in enumerate(plain.named_parameters()):
            rng = torch.Generator().manual_seed(index)
            parameter.copy_(torch.randn(parameter.shape, generator=rng) / 4 + name.endswith(".w") + 0.2)
    state = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    centred.load_and_process_state_dict(
        state, fold_ln=False, center_writing_weights=True, center_unembed=False, fold_value_biases=False
    )
    ids = torch.arange(12)[None]
    before, after = (model.run_with_cache(ids)[1] for model in (plain, centred))
    for name in before:
        ours, theirs = before[name].detach(), after[name].detach()
        is_written = re.fullmatch(r"hook_(pos_)?embed|blocks\.\d\.hook_(resid_(pre|mid|post)|attn_out|mlp_out)", name)
        if norm == "LN" and is_written:
            ours = normed(ours[0], CENTRED).x[None]
            assert float((before[name] - after[name]).abs().max()) > 0.1
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation", ["topk", "groupmax"])
def test_sparsify_writes_and_reads_what_is_opened_here(activation: str, tmp_path: Path) -> None:
    sparsify = pytest.importorskip("sparsify")
    config = sparsify.SparseCoderConfig(activation=activation, expansion_factor=3, k=4)
    coder = sparsify.SparseCoder(D_IN, config)
    with torch.no_grad():
        coder.b_dec.copy_(W.torch("b_dec"))
        coder.encoder.bias.copy_(W.torch("b_enc"))
    coder.save_to_disk(tmp_path / "layers.10")
    theirs = sparsify.SparseCoder.load_from_disk(tmp_path / "layers.10")
    with torch.no_grad():
        acts, indices, _ = theirs.encode(x)
        rebuilt = theirs.W_dec[indices].mul(acts[..., None]).sum(1) + theirs.b_dec  # its own decoder wants a GPU
    sae = open_local(tmp_path / "layers.10").sae
    codes = sae.encode(x)
    expected = torch.zeros((len(x), D_SAE)).scatter_(1, indices, acts).numpy()
    np.testing.assert_allclose(dense(codes, D_SAE), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sae.decode(codes).numpy(), rebuilt.numpy(), rtol=1e-4, atol=1e-4)
    shutil.rmtree(tmp_path / "layers.10")
