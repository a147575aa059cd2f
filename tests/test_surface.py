"""The surface is what it says, is light to load, and the tests themselves stay at home."""

from __future__ import annotations

import ast
import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest

import conftest
import facsynth
from facsynth.cli.options import KEYS

HEAVY = ("torch", "transformers")

HELP = """
sys.argv = ["facsynth", "--help"]
from facsynth.__main__ import main
try:
    code = main()
except SystemExit as stop:
    code = stop.code
assert not code, code
"""


def heavy_modules_loaded_by(code: str) -> str:
    """Which of the heavy packages a fresh interpreter holds after running `code`."""
    report = f"\nprint('HEAVY', [name for name in {HEAVY} if name in sys.modules])"
    command = [sys.executable, "-c", "import sys\n" + code + report]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_all_is_what_dir_shows() -> None:
    shown = {name for name in dir(facsynth) if not name.startswith("_")}
    parts = {name for name in shown if isinstance(getattr(facsynth, name), ModuleType)}
    assert shown - parts == {name for name in facsynth.__all__ if not name.startswith("_")}


def test_every_name_in_all_resolves() -> None:
    assert len(facsynth.__all__) == len(set(facsynth.__all__))
    for name in facsynth.__all__:
        assert getattr(facsynth, name) is not None, name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        facsynth.no_such_name  # noqa: B018


def test_import_loads_neither_torch_nor_transformers() -> None:
    assert heavy_modules_loaded_by("import facsynth") == "HEAVY []"


def test_help_loads_neither_torch_nor_transformers() -> None:
    assert heavy_modules_loaded_by(HELP) == "HEAVY []"


def texts_of(path: Path) -> list[str]:
    """The string literals of a module; of an f-string all that stands in it, {} for its values."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


def test_an_option_in_a_message_of_the_library_is_named_with_its_key_in_a_settings_file() -> None:
    package = Path(facsynth.__file__).parent
    parts = ("assemble.py", "measure.py", "pipeline.py", "text/*.py", "coverage/*.py", "meaning/*.py")
    for path in sorted(path for part in parts for path in package.glob(part)):
        for text in texts_of(path):
            for option in re.findall(r"(?<=[ (])--([a-z-]+)", text):
                key = KEYS[option.replace("-", "_")]
                assert key.rpartition(".")[2] in text.replace(f"--{option}", ""), (path, text)


def test_no_test_reaches_another_machine() -> None:
    # The broadcast address: TCP refuses it before anything is sent, should the guard be gone.
    with socket.socket() as sock, pytest.raises(conftest.NetworkBlockedError):
        sock.connect(("255.255.255.255", 9))
    with pytest.raises(conftest.NetworkBlockedError):
        socket.getaddrinfo("host.invalid", 80)


def test_loopback_is_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(("localhost", server.getsockname()[1])).close()


def test_caches_are_in_a_temp_folder() -> None:
    root = os.environ.get("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    for name in ("FACSYNTH_CACHE", "HF_HOME"):
        assert Path(os.environ[name]).is_relative_to(root), name
