"""The house stands: imports point down the bands of DESIGN 3, files and functions stay short."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "facsynth"
FILES = sorted(PACKAGE.rglob("*.py"))

BANDS = (
    {"errors", "records", "protocols", "store", "lock", "bins", "incidence", "names", "profile", "strata", "prompts"},
    {"text", "model", "llm"},
    {"features", "meaning", "coverage", "synthesis", "diversity"},
    {"blocks"},
    {"tasks", "baselines", "report"},
    {"asked", "limits"},
    {"settings"},
    {"assemble", "scale", "recipe"},
    {"measure"},
    {"side_by_side"},
    {
        "curves",
        "labelling",
        "outcome",
        "proof",
        "run_folder",
        "shaded",
        "screening",
        "selecting",
        "selfcheck",
        "writers",
    },
    {"explain", "planning"},
    {"gate", "judging", "label_check"},
    {"filling"},
    {"pipeline"},
    {"comparing", "evaluating", "matching", "variety", "demo", "exporting", "forecast", "understand"},
    {"experimenting"},
    {"cli"},
)
"""From the ground up. Those of the surface, from settings on, build on each other in this order."""
BAND_OF = {part: level for level, band in enumerate(BANDS) for part in band}

FILE_LINES, FUNCTION_LINES = 300, 50
"""Files and functions stay under these."""


def imports(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """(line, part of facsynth) of each import in a module that lies in `package`, wherever in the file it stands.

    A name taken from facsynth itself, which is no part of it, counts as that name.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            source = [*base, *filter(None, [node.module])]
            found = [".".join([*source, alias.name]) for alias in node.names]
        else:
            continue
        for name in found:
            root, _, rest = name.partition(".")
            if root == "facsynth":
                yield node.lineno, rest.partition(".")[0]


def wrong_imports(source: str, path: Path) -> list[str]:
    """Imports in the file at `path`, relative to the package, that point up or sideways."""
    here = path.parts[0].removesuffix(".py")
    wrong = []
    for line, part in imports(ast.parse(source), ("facsynth", *path.parent.parts)):
        if part in (here, "__version__") or (BAND_OF.get(here) == BAND_OF.get(part) == 0):
            continue
        if BAND_OF.get(part, len(BANDS)) >= BAND_OF.get(here, 0):
            wrong.append(f"{path}:{line}: {here} must not import {part or 'facsynth itself'}")
    return wrong


def test_every_part_has_a_band() -> None:
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES}
    assert parts - {"__init__", "__main__"} <= BAND_OF.keys()


def test_imports_point_down_the_bands() -> None:
    inside = [path.relative_to(PACKAGE) for path in FILES if path.parent != PACKAGE or not path.stem.startswith("__")]
    assert len(inside) > 3
    assert [row for path in inside for row in wrong_imports((PACKAGE / path).read_text("utf-8"), path)] == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("store.py", "from facsynth.text import corpus"),
        ("text/corpus.py", "from facsynth.model.sae import SAE"),
        ("text/corpus.py", "def f():\n    import facsynth.features.encode"),
        ("model/sae.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from facsynth import pipeline"),
        ("features/encode.py", "from ..coverage import plan"),
        ("synthesis/loop.py", "from facsynth import load_task"),
        ("diversity.py", "from .features import profile"),
        ("pipeline.py", "import facsynth"),
        ("demo.py", "from facsynth.cli.main import main"),
    ],
)
def test_an_import_up_or_sideways_is_found(path: str, source: str) -> None:
    assert len(wrong_imports(source, Path(path))) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("store.py", "from facsynth.errors import InputError"),
        ("text/corpus.py", "from facsynth import __version__\nfrom . import forms\nfrom .forms import Form"),
        ("features/encode.py", "import torch\nfrom ..model.sae import SAE\nfrom facsynth.features.profile import x"),
        ("cli/main.py", "from facsynth.pipeline import run\nfrom facsynth.demo import demo"),
    ],
)
def test_an_import_down_or_inside_is_fine(path: str, source: str) -> None:
    assert wrong_imports(source, Path(path)) == []


def test_files_are_short() -> None:
    lines = {str(path.relative_to(PACKAGE)): path.read_text("utf-8").count("\n") for path in FILES}
    assert {name: n for name, n in lines.items() if n >= FILE_LINES} == {}


def test_functions_are_short() -> None:
    lengths = {
        f"{path.relative_to(PACKAGE)}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name for name, n in lengths.items() if n >= FUNCTION_LINES} == set()
