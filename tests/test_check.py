"""The self-check on models: an SAE at its place fits, and at another one that place is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from facsynth.assemble import open_space
from facsynth.cli.console import cache_folder
from facsynth.demo import demo_settings, example_file
from facsynth.errors import ModelError
from facsynth.features.check import check_space
from facsynth.features.encode import EncodeSettings, FeatureSpace
from facsynth.model.backbone import Backbone
from facsynth.model.sae import Sae
from facsynth.model.sae_check import DOUBTFUL, FITS, REFUSED
from facsynth.model.sites import activations_at, beside, elsewhere
from facsynth.records import Message, Sample
from facsynth.text.corpus import read_corpus

SAMPLES = tiny.chats(60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("check")


@pytest.fixture(scope="module")
def model(folder: Path) -> Backbone:
    return tiny.backbone(tiny.save_model(folder / "model", n_blocks=5), "layers.2")


def space(backbone: Backbone, sae: Sae, hook_point: str = "layers.2", form: str = "message") -> FeatureSpace:
    return FeatureSpace(
        backbone.hooked_at(hook_point), replace(sae, hook_point=hook_point), EncodeSettings(form, max_tokens=128)
    )


@pytest.mark.parametrize("hook_point", ["layers.0", "layers.2", "layers.4", "layers.2.mlp"])
def test_an_sae_fits_where_it_was_made(hook_point: str, model: Backbone) -> None:
    sae = tiny.fitted_sae(model.hooked_at(hook_point), SAMPLES)
    checked = check_space(space(model, sae, hook_point), SAMPLES)
    assert checked is not None
    assert (checked.verdict.word, checked.verdict.reasons) == (FITS, ())
    assert 512 <= checked.found.n_tokens < 700


@pytest.mark.parametrize(
    ("made_at", "read_at"),
    [("layers.2", "layers.1"), ("layers.2", "layers.3"), ("layers.0", "layers.4"), ("layers.2.mlp", "layers.2"),
     ("layers.3.mlp", "layers.2.mlp")],
)  # fmt: skip
def test_at_another_place_its_own_is_named(made_at: str, read_at: str, model: Backbone) -> None:
    sae = tiny.fitted_sae(model.hooked_at(made_at), SAMPLES, n_directions=12)
    checked = check_space(space(model, sae, read_at), SAMPLES)
    assert checked is not None
    assert checked.verdict.word in {DOUBTFUL, REFUSED}
    assert any(f"it fits at {made_at} (" in reason for reason in checked.verdict.reasons), checked.verdict.reasons


def test_random_weights_fit_nowhere(model: Backbone) -> None:
    for architecture in ("topk", "standard", "jumprelu"):
        sae = tiny.random_sae(32, 128, architecture, hook_point="layers.2")
        checked = check_space(space(model, sae), SAMPLES)
        assert checked is not None
        assert (checked.verdict.word, checked.verdict.better) == (REFUSED, None)


def test_an_sae_of_the_base_model_is_at_most_doubtful_on_its_chat_sibling(folder: Path, model: Backbone) -> None:
    sae = tiny.fitted_sae(model, SAMPLES, n_directions=12)
    words = set()
    for change in (0.02, 0.7):
        sibling = tiny.save_model(folder / f"sibling-{change}", n_blocks=5)
        tensors = load_file(sibling / "model.safetensors")
        rng = torch.Generator().manual_seed(3)
        for tensor in tensors.values():
            tensor.add_(change * tensor.std(correction=0) * torch.randn(tensor.shape, generator=rng))
        save_file(tensors, sibling / "model.safetensors", metadata={"format": "pt"})
        told = replace(
            sae, model_name="base", declared=replace(sae.declared, model_name="base", explained_variance=0.7)
        )
        checked = check_space(space(tiny.backbone(sibling, "layers.2"), told), SAMPLES)
        assert checked is not None
        words.add(checked.verdict.word)
    assert words == {FITS, DOUBTFUL}


def test_too_few_tokens_decide_nothing_and_samples_that_cannot_be_read_are_left_out(model: Backbone) -> None:
    sae = tiny.random_sae(hook_point="layers.2")
    few = [Sample((Message("user", "river field"),))]
    assert check_space(space(model, sae), few) is None
    assert check_space(space(model, sae), []) is None
    unreadable = Sample((Message("user", "<s></s>"),))
    with_it, without = (check_space(space(model, sae), samples) for samples in ([unreadable, *SAMPLES], SAMPLES))
    assert with_it == without


def test_a_hook_that_gives_no_activations_says_so(model: Backbone) -> None:
    sae = tiny.random_sae(hook_point="layers.2")
    with pytest.raises(ModelError, match="rotary_emb of model gives no activations of width 32"):
        check_space(space(model, sae, "rotary_emb"), SAMPLES)


@pytest.mark.parametrize(
    ("family", "stem"), [("llama", "layers."), ("gpt2", "h."), ("gpt2", "layers."), ("gemma2", "model.layers.")]
)
def test_other_places_are_those_of_the_model(family: str, stem: str, folder: Path) -> None:
    path = folder / f"places-{family}"
    backbone = tiny.backbone(path if path.exists() else tiny.save_model(path, family), f"{stem}1")
    assert beside(backbone.model, f"{stem}1") == [f"{stem}0", f"{stem}2"]
    assert beside(backbone.model, f"{stem}0") == [f"{stem}1"]
    assert beside(backbone.model, f"{stem}0.mlp") == [f"{stem}1.mlp"]
    others = elsewhere(backbone.model, f"{stem}1")
    assert others[:2] == [f"{stem}0", f"{stem}2"]
    assert f"{stem}1.mlp" in others
    assert {f"{stem}1", f"{stem}0.mlp", f"{stem}2.mlp"} <= set(elsewhere(backbone.model, f"{stem}1.mlp"))
    assert beside(backbone.model, "norm") == elsewhere(backbone.model, "norm") == []


def test_several_places_in_one_pass_are_those_of_single_passes(model: Backbone) -> None:
    tokens = [space(model, tiny.random_sae()).template.tokenize(sample, {"user"}, 128) for sample in SAMPLES[:5]]
    ids, keep = [t.ids for t in tokens], [t.content for t in tokens]
    names = ["layers.3", "layers.1.mlp", "layers.1", "rotary_emb"]
    at = activations_at(model, names, ids, keep)
    assert list(at) == names[:3]
    for name, found in at.items():
        torch.testing.assert_close(found, model.hooked_at(name).activations(ids, keep))


@pytest.fixture(scope="module")
def shipped() -> FeatureSpace:
    """The embedded model with the SAE that ships, on the examples."""
    return open_space(demo_settings(), cache_folder())


def read_as(name: str, sae: Sae) -> Sae:
    """The SAE that ships, read wrongly in one way."""
    rng = torch.Generator().manual_seed(0)
    order = torch.randperm(sae.d_in, generator=rng)
    W = torch.randn((sae.d_in, sae.d_sae), generator=rng) / sae.d_in**0.5
    return {
        "rightly": sae,
        "uncentred": replace(sae, centred=False),
        "relu": replace(sae, architecture="standard", k=0),
        "unfolded": replace(sae, W_enc=sae.W_enc * 8, W_dec=sae.W_dec / 8, b_dec=sae.b_dec / 8),
        "of another model": replace(sae, W_enc=sae.W_enc[order], W_dec=sae.W_dec[:, order], b_dec=sae.b_dec[order]),
        "random": replace(sae, W_enc=W, W_dec=W.T.contiguous(), b_enc=0 * sae.b_enc, b_dec=0 * sae.b_dec),
    }[name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "hook_point", "word", "told"),
    [
        ("rightly", "layers.14", FITS, ""),
        ("rightly", "layers.13", DOUBTFUL, "it fits at layers.14 (0.8"),
        ("rightly", "layers.15", DOUBTFUL, "it fits at layers.14 (0.8"),
        ("rightly", "layers.5", REFUSED, "it fits at layers.14 (0.8"),
        ("rightly", "layers.20", REFUSED, "it fits at layers.14 (0.8"),
        ("rightly", "layers.14.mlp", REFUSED, "it fits at layers.14 (0.8"),
        ("rightly", "layers.14.self_attn", REFUSED, "it fits at layers.14 (0.8"),
        ("uncentred", "layers.14", REFUSED, "it fits with b_dec subtracted from the input (0.8"),
        ("relu", "layers.14", DOUBTFUL, "it fits as topk with k = 64 (0.8"),
        ("unfolded", "layers.14", REFUSED, "it fits on activations times 0.125 (0.8"),
        ("of another model", "layers.14", REFUSED, "worse than their mean"),
        ("random", "layers.14", REFUSED, "worse than their mean"),
    ],
)
def test_the_bounds_hold_on_the_sae_that_ships(
    name: str, hook_point: str, word: str, told: str, shipped: FeatureSpace
) -> None:
    sae = replace(read_as(name, shipped.sae), hook_point=hook_point)
    moved = FeatureSpace(shipped.backbone.hooked_at(hook_point), sae, shipped.settings)
    checked = check_space(moved, read_corpus(example_file("anchor.jsonl")))
    assert checked is not None
    assert checked.verdict.word == word, checked
    assert told in " ".join(checked.verdict.reasons)
