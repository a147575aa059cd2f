"""The wheel that users install: built without a network, whole, and enough by itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CLONED = ("pyproject.toml", "README.md", "LICENSE", "ATTRIBUTION.md", ".gitignore", "src", "examples", "tests", "docs")
PACKAGE = Path("src", "facsynth")


def done(*words: object, cwd: Path, pythonpath: Path | None = None) -> str:
    """Output of a Python command, in this environment but for what is on its path."""
    environment = {**os.environ, **({"PYTHONPATH": str(pythonpath)} if pythonpath else {})}
    command = [sys.executable, *map(str, words)]
    found = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clone, out = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("dist")
    for name in CLONED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, clone / name)
    done("-m", "build", "--wheel", "--no-isolation", "--outdir", out, cwd=clone)
    (built,) = out.iterdir()
    return built


@pytest.mark.slow
def test_the_wheel_holds_the_package_with_its_data_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        licences = {name.rpartition("/")[2] for name in file.namelist() if "/licenses/" in name}
    package = {str(path.relative_to("src")) for path in map(Path, files_of(PACKAGE))}
    examples = {str(Path("facsynth", "data", path)) for path in files_of(Path("examples"))}
    assert names == package | examples
    assert licences == {"LICENSE", "ATTRIBUTION.md"}
    sae = "facsynth/data/smollm2-135m-instruct-layers.14"
    assert {f"{sae}/{name}" for name in ("sae_weights.safetensors", "cfg.json", "background.npz")} <= names
    assert {"facsynth/data/examples/anchor.jsonl", "facsynth/data/examples/seed.jsonl"} <= names
    assert [name for name in names if name.startswith("facsynth/report/") and name.endswith(".html")]
    assert [name for name in names if name.startswith("facsynth/prompts/") and name.endswith(".txt")]
    assert wheel.stat().st_size < 25e6


def files_of(folder: Path) -> list[str]:
    """Files below a folder of the clone, caches left out."""
    found = [path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [str(path) for path in found if "__pycache__" not in path.parts]


@pytest.mark.slow
def test_an_installed_wheel_measures_a_file_far_from_the_clone(wheel: Path, tmp_path: Path) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    done("-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", site, wheel, cwd=work)
    where = done("-c", "import facsynth; print(facsynth.__file__)", cwd=work, pythonpath=site)
    assert Path(where.strip()).is_relative_to(site)
    rows = (ROOT / "examples" / "seed.jsonl").read_text(encoding="utf-8").splitlines()[:20]
    (work / "mine.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    found = json.loads(done("-m", "facsynth", "coverage", "mine.jsonl", "--json", cwd=work, pythonpath=site))
    assert found["n_samples"] == 20
    assert 0 < found["value"] <= 1 < found["n_target"]
