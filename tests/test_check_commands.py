"""What commands do with the self-check of an SAE: they measure, note or refuse, and `check` compares several."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny
from facsynth import assemble, selfcheck
from facsynth.assemble import open_backbone, open_space, read_data
from facsynth.features.check import check_space
from facsynth.model.backbone import Backbone
from facsynth.model.sae_check import DOUBTFUL, FITS, REFUSED
from facsynth.model.sae_saelens import save_sae
from facsynth.settings import parse_settings
from facsynth.text.corpus import Corpus, read_corpus
from tiny_cli import Parts, facsynth


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
    assert re.search(r"0\.\d\d \(0\.99\) +14\.0 \(14\.0\)", done.stdout)
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
    read: list[int] = []

    def counted(*args: Any, **options: Any) -> Backbone:
        loaded.append(args[1])
        return open_backbone(*args, **options)

    def read_and_counted(*args: Any) -> Corpus:
        corpus = read_data(*args)
        read.append(len(corpus))
        return corpus

    monkeypatch.setattr(selfcheck, "open_backbone", counted)
    monkeypatch.setattr(assemble, "read_data", read_and_counted)
    save_sae(replace(tiny.random_sae(d_in=20), hook_point="layers.1"), tmp_path / "narrow", metadata={})
    many = tmp_path / "many.jsonl"
    many.write_text(parts.anchor.read_text("utf-8") * 40, encoding="utf-8")
    saes = (tmp_path / "narrow", parts.folder / "fits")
    done = facsynth("check", many, "--model", parts.model, *(word for sae in saes for word in ("--sae", sae)), "--json")
    assert [row["verdict"] for row in json.loads(done.stdout)] == ["cannot be opened", FITS], done.stderr
    assert loaded == ["layers.1"]
    assert read == [1024]


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
