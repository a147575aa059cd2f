"""The settings files that ship, as they are: each opens a model of its architecture and an SAE file of its layout.

Both are tiny and random, and lie on a Hub of this test's making under the names that the file says.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from huggingface_hub.utils import filter_repo_objects

import foreign
import tiny
import tiny_run
from facsynth.assemble import open_space
from facsynth.cli.ready import READY
from facsynth.settings import RunSettings, load_settings, parse_settings
from facsynth.text.corpus import read_corpus
from test_template import LLAMA31, MISTRAL02, QWEN3, QWEN25
from tiny_cli import facsynth

WIDE = foreign.weights(32, 128)


def fac(repository: Path, file: str) -> None:
    foreign.fac(repository / file, WIDE, d_inp=32, d_hide=128, topK=20)
    (repository / "README.md").write_text("no SAE")


def llama_scope(repository: Path) -> None:
    for layer in (14, 15):
        hook = f"blocks.{layer}.hook_resid_post"
        sizes = {"d_model": 32, "d_sae": 128, "expansion_factor": 4}
        folder = repository / f"Llama3_1-8B-Base-L{layer}R-8x"
        foreign.llama_scope(folder, WIDE, hook_point_in=hook, hook_point_out=hook, **sizes)


def qwen_scope(repository: Path) -> None:
    for layer in (17, 18):
        foreign.qwen_scope(repository, WIDE, file=f"layer{layer}.sae.pt")


@dataclass(frozen=True)
class Case:
    """What a settings file stands for."""

    family: str
    hook_point: str
    n_blocks: int
    template: str
    make_sae: Callable[[Path], None]
    k: int
    architecture: str = "topk"


CASES = {
    "llama-3.1-8b": Case("llama", "layers.15", 18, LLAMA31, lambda p: fac(p, "TopK7_l16_h4096_epoch3.pth"), 20),
    "mistral-7b-v0.2": Case("mistral", "layers.15", 18, MISTRAL02, lambda p: fac(p, "TopK7_l16_h4096_epoch3.pth"), 20),
    "qwen2.5-7b": Case("qwen2", "layers.13", 16, QWEN25, lambda p: fac(p, "TopK7_l14_h3584_epoch3.pth"), 20),
    "llama-scope": Case("llama", "layers.15", 18, LLAMA31, llama_scope, 0, "jumprelu"),
    "qwen-scope": Case("qwen3", "layers.18", 20, QWEN3, qwen_scope, 50),
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hub in a folder: of a repository, the files that were asked for."""

    def snapshot_download(repository: str, *, allow_patterns: list[str]) -> str:
        source = tmp_path / "hub" / repository
        assert source.is_dir(), f"{repository} was asked for"
        place = tmp_path / "cache" / f"models--{repository.replace('/', '--')}" / "snapshots" / "0a1b2c"
        names = [str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()]
        for name in filter_repo_objects(names, allow_patterns=allow_patterns):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, place / name)
        return str(place)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return tmp_path / "hub"


def written(name: str, folder: Path) -> tuple[Path, RunSettings]:
    """The file as `init` writes it, and what it says."""
    path = folder / f"{name}.yaml"
    assert facsynth("init", path, "--for", name).code == 0
    return path, load_settings(path)


def fill(hub: Path, case: Case, settings: RunSettings) -> None:
    chat, base = tiny.tokenizer("llama3", chat_template=case.template), tiny.tokenizer("llama3", chat_template=None)
    borrowed = settings.model.chat_template_from
    tiny.save_model(hub / settings.model.path, case.family, n_blocks=case.n_blocks, tokens=base if borrowed else chat)
    if borrowed:
        chat.save_pretrained(hub / borrowed)
        (hub / borrowed / "model.safetensors").write_bytes(b"weights that nobody asks for")
    case.make_sae(hub / settings.sae.path.removeprefix("hf:").partition(":")[0])


def test_every_file_that_ships_is_listed_and_tested() -> None:
    folder = files("facsynth").joinpath("configs")
    assert sorted(path.name.removesuffix(".yaml") for path in folder.iterdir()) == sorted(READY) == sorted(CASES)
    unknown = facsynth("init", "/nowhere/x.yaml", "--for", "llama-3.1")
    assert unknown.code == 1
    done = facsynth("init", "x.yaml", "--for", "llama-3.1")
    assert done.code == 2
    assert "Did you mean llama-3.1-8b? There are: llama-3.1-8b, llama-scope, mistral-7b-v0.2" in done.stderr
    assert not Path("x.yaml").exists()
    for name in READY:
        assert name in " ".join(facsynth("init", "--help").stdout.split())


@pytest.mark.parametrize("name", CASES)
def test_a_settings_file_that_ships_opens_and_encodes(name: str, hub: Path, tmp_path: Path) -> None:
    case = CASES[name]
    _, settings = written(name, tmp_path)
    assert (settings.model.hook_point, settings.sae.check) == (case.hook_point, "refuse")
    fill(hub, case, settings)
    on_cpu = settings.model_copy(update={"model": settings.model.model_copy(update={"device": "cpu"})})
    space = open_space(on_cpu, tmp_path / "facsynth")
    assert space.backbone.model.config.model_type == case.family
    assert space.backbone.hook_point == space.sae.hook_point == case.hook_point
    assert (space.sae.architecture, space.sae.k, space.precision) == (case.architecture, case.k, "torch.bfloat16")
    unnamed = open_space(
        on_cpu.model_copy(update={"model": on_cpu.model.model_copy(update={"hook_point": None})}), tmp_path / "facsynth"
    )
    assert unnamed.sae.hook_point == case.hook_point, "by its own names"
    samples = list(read_corpus(tiny_run.corpus(tmp_path / "seed.jsonl", 5, 1)))
    pooled = space.pool(samples)
    assert (len(pooled.sample_ids), pooled.failures) == (5, [])
    assert len(set(pooled.entries.feature.tolist())) > 5


@pytest.mark.parametrize("name", ["llama-scope", "qwen2.5-7b"])
def test_a_settings_file_that_ships_measures_from_the_command_line(name: str, hub: Path, tmp_path: Path) -> None:
    path, settings = written(name, tmp_path)
    fill(hub, CASES[name], settings)
    raw = yaml.safe_load(path.read_text("utf-8"))
    raw["data"] = {
        "seed": [str(tiny_run.corpus(tmp_path / "my.jsonl", 6, 1))],
        "anchor": [str(tiny_run.corpus(tmp_path / "broad.jsonl", 40, 2))],
    }
    assert parse_settings(raw, "test").model.chat_template_from == settings.model.chat_template_from
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    done = facsynth("check", path, "--device", "cpu")
    assert (done.code, f"{settings.sae.path}: explained" in done.stderr) == (3, True), (
        done.stderr
    )  # random weights fit nothing
    out = tmp_path / "run"
    done = facsynth("missing", raw["data"]["seed"][0], "-c", path, "--device", "cpu", "--sae-check", "off", "-o", out)
    assert done.code == 0, done.stderr
    assert "features to fill" in done.stdout
