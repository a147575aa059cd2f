"""The self-check on models: an SAE at its place fits, at another one that place is named, and what commands do then."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import tiny
from facsynth import selfcheck
from facsynth.assemble import open_backbone, open_space
from facsynth.cli.console import cache_folder
from facsynth.demo import demo_settings, example_file
from facsynth.errors import ModelError
from facsynth.features.check import check_space
from facsynth.features.encode import EncodeSettings, FeatureSpace
from facsynth.model.backbone import Backbone
from facsynth.model.sae import Sae
from facsynth.model.sae_check import DOUBTFUL, FITS, REFUSED
from facsynth.model.sae_saelens import save_sae
from facsynth.model.sites import activations_at, beside, elsewhere
from facsynth.records import Message, Sample
from facsynth.settings import parse_settings
from facsynth.text.corpus import read_corpus
from tiny_cli import Parts, facsynth

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
    assert {f"{stem}1", f"{stem}0.mlp", f"{stem}1"} <= set(elsewhere(backbone.model, f"{stem}1.mlp"))
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
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """The parts of other tests, and beside the random SAE one that fits, one that boasts, and one of another block."""
    made = Parts(tmp_path_factory.mktemp("parts"))
    samples = list(read_corpus(made.anchor))
    backbone = tiny.backbone(made.model)
    for name, at, fvu in (("fits", "layers.1", 0.2), ("boasts", "layers.1", 0.01), ("shifted", "layers.0", 0.2)):
        sae = tiny.fitted_sae(backbone.hooked_at(at), samples, n_directions=14)
        save_sae(replace(sae, hook_point="layers.1"), made.folder / name, metadata={"l0": 14.0, "fvu": fvu})
    return made


@pytest.fixture
def options(parts: Parts) -> Callable[..., list[Any]]:
    def options(sae: str, *more: object) -> list[Any]:
        model = ["--model", parts.model, "--dtype", "float32", "--sae", parts.folder / sae]
        return ["--anchor", parts.anchor, "--relevance", "all", *model, *more]

    return options


def test_an_sae_that_fits_is_measured_without_a_word_and_checked_once(
    parts: Parts, options: Callable[..., list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACSYNTH_CACHE", str(tmp_path))
    first, again = (facsynth("coverage", parts.seed, *options("fits"), "-o", tmp_path / n) for n in ("a", "b"))
    assert (first.code, "checking the SAE" in first.stderr, "note: SAE" in first.stderr) == (0, True, False), first
    assert (again.code, "checking the SAE" in again.stderr) == (0, False)
    (kept,) = (tmp_path / "checks").iterdir()
    assert json.loads(kept.read_text("utf-8"))["verdict"] == FITS
    other = facsynth("coverage", parts.anchor, *options("fits"), "-o", tmp_path / "other")
    assert (other.code, "checking the SAE" in other.stderr) == (0, True), "figures are those of the data at hand"
    for damage in ("{", '{"verdict": "fits", "reasons": 3}'):
        kept.write_text(damage, encoding="utf-8")
        done = facsynth("coverage", parts.seed, *options("fits"), "-o", tmp_path / "c")
        assert (done.code, "checking the SAE" in done.stderr) == (0, True)


def test_an_sae_that_does_not_fit_is_refused_before_anything_is_encoded(
    parts: Parts, options: Callable[..., list[Any]], tmp_path: Path
) -> None:
    for _ in range(2):  # a refusal that was kept is found anew
        done = facsynth("coverage", parts.seed, *options("sae"), "-o", tmp_path)
        assert (done.code, done.stdout) == (1, "")
        for words in (
            "facsynth: the SAE does not fit the model\n",
            f"  SAE    {parts.sae}: topk of 64 features, trained on tiny\n",
            f"  model  {parts.model} at layers.1, ",
            "worse than their mean",
            "No other block, part of a block, scale or convention fits either",
            "Measure with it all the same: sae.check: warn (--sae-check warn).",
        ):
            assert words in done.stderr
        assert not (tmp_path / "features").exists()
    warned = facsynth("coverage", parts.seed, *options("sae", "--sae-check", "warn"), "-o", tmp_path)
    assert warned.code == 0
    assert "note: SAE: does not fit: explained variance" in warned.stderr
    notes = json.loads((tmp_path / "coverage" / "before.json").read_text("utf-8"))["notes"]
    assert notes[0].startswith("SAE: does not fit: explained variance")


def test_a_doubtful_sae_is_measured_and_noted(parts: Parts, options: Callable[..., list[Any]], tmp_path: Path) -> None:
    done = facsynth("missing", parts.seed, *options("boasts"), "-o", tmp_path)
    assert done.code == 0, done.stderr
    assert re.search(
        r"note: SAE: doubtful: explained variance 0\.\d+, declared 0\.99: it loses more than twice", done.stderr
    )


def test_encode_and_run_check_too(parts: Parts, tmp_path: Path) -> None:
    words = ["--model", parts.model, "--sae", parts.sae, "--dtype", "float32"]
    assert facsynth("encode", parts.seed, *words, "-o", tmp_path / "encoded").code == 1
    assert not (tmp_path / "encoded" / "manifest.json").exists()
    settings = {**parts.settings, "sae": {"path": str(parts.sae)}}
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert "the SAE does not fit the model" in facsynth("run", config, "-o", tmp_path / "run").stderr


def test_check_off_is_read_as_a_word_and_as_yaml_has_it(parts: Parts) -> None:
    for value in ("off", False):
        settings = parse_settings({**parts.settings, "sae": {"path": str(parts.sae), "check": value}}, "test")
        assert settings.sae.check == "off"
    done = facsynth("coverage", parts.seed, *parts.options, "--sae-check", "never")
    assert (done.code, "`sae.check` is 'never': Input should be 'refuse', 'warn' or 'off'" in done.stderr) == (2, True)


def test_check_compares_saes_on_the_users_data(parts: Parts) -> None:
    names = [parts.folder / name for name in ("fits", "boasts", "shifted", "gone")]
    words = [word for name in names for word in ("--sae", name)]
    done = facsynth("check", parts.anchor, "--model", parts.model, "--dtype", "float32", *words)
    assert done.code == 3, done.stderr
    for verdict in ("fits", "doubtful", "does not fit", "cannot be opened"):
        assert verdict in done.stdout
    assert re.search(r"14\.0 \(14\.0\) +0\.\d\d \(0\.99\)", done.stdout)
    assert f"2 of 4 SAEs cannot be used here: {names[2]}, {names[3]}" in done.stderr
    assert f"{names[2]}: it fits at layers.0 (" in done.stderr
    rows = json.loads(
        facsynth("check", parts.anchor, "--model", parts.model, "--dtype", "float32", *words, "--json").stdout
    )
    assert [row["verdict"] for row in rows] == [FITS, DOUBTFUL, REFUSED, "cannot be opened"]
    assert [row["sae"] for row in rows] == [str(name) for name in names]
    assert rows[0]["declared"] == {"model": "tiny", "l0": 14.0, "explained_variance": 0.8}
    assert (rows[0]["format"], rows[0]["hook_point"], rows[0]["d_sae"]) == ("SAELens", "layers.1", 28)
    assert rows[0].keys() == rows[3].keys()


def test_check_loads_the_model_once_and_reads_no_more_than_it_needs(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def counted(*args: Any, **options: Any) -> Backbone:
        loaded.append(args[1])
        return open_backbone(*args, **options)

    monkeypatch.setattr(selfcheck, "open_backbone", counted)
    save_sae(replace(tiny.random_sae(d_in=20), hook_point="layers.1"), tmp_path / "narrow", metadata={})
    many = tmp_path / "many.jsonl"
    many.write_text(parts.anchor.read_text("utf-8") * 40 + "{", encoding="utf-8")
    saes = (tmp_path / "narrow", parts.folder / "fits")
    done = facsynth("check", many, "--model", parts.model, *(word for sae in saes for word in ("--sae", sae)), "--json")
    assert [row["verdict"] for row in json.loads(done.stdout)] == ["cannot be opened", FITS], done.stderr
    assert loaded == ["layers.1"]
    assert len(many.read_text("utf-8").splitlines()) > 1024


def test_check_takes_a_settings_file_and_needs_no_data(parts: Parts) -> None:
    config = parts.write("check.yaml", parts.changed("sae", "path", str(parts.folder / "fits")))
    done = facsynth("check", config)
    assert (done.code, "fits" in done.stdout) == (0, True), done.stderr
    without = facsynth("check", "--model", parts.model, "--sae", parts.sae)
    assert (without.code, "does not fit" in without.stdout) == (3, True)
    both = facsynth("check", config, config)
    assert (both.code, "are both settings files" in both.stderr) == (2, True)


def test_check_of_what_cannot_be_opened_says_why(parts: Parts) -> None:
    gone = parts.folder / "gone"
    done = facsynth("check", parts.anchor, "--model", parts.model, "--sae", gone, "--sae", gone)
    assert (done.code, done.stdout, f"facsynth: no SAE at {gone}" in done.stderr) == (1, "", True)
    done = facsynth("check", parts.anchor, "--model", parts.model, "--sae", gone, "--sae", parts.seed)
    assert (done.code, done.stdout.count("cannot be opened")) == (3, 2)
    assert f"{gone}: no SAE at {gone}" in done.stderr and f"{parts.seed} is no file of weights" in done.stderr
    few = parts.write("few.jsonl", '{"text": "river field oven"}\n')
    done = facsynth("check", few, "--model", parts.model, "--sae", parts.sae)
    assert (done.code, "not checked" in done.stdout, "fewer than 64 content tokens" in done.stderr) == (0, True, True)


def test_the_verdict_does_not_depend_on_which_codes_are_measured(parts: Parts, tmp_path: Path) -> None:
    settings = parse_settings({**parts.settings, "sae": {"path": str(parts.folder / "fits")}}, "test")
    relu = settings.model_copy(update={"sae": settings.sae.model_copy(update={"codes": "relu"})})
    samples = list(read_corpus(parts.anchor))
    assert check_space(open_space(settings, tmp_path), samples) == check_space(open_space(relu, tmp_path), samples)


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
