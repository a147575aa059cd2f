"""What the documents tell a user to type, typed."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fault_server import MODEL, FaultServer
from test_understand import answer

ROOT = Path(__file__).parents[1]


def typed(document: str) -> Iterator[list[str]]:
    """The words of every shell line in the code blocks, comments left out."""
    for block in re.findall(r"^```\w*\n(.*?)^```", (ROOT / document).read_text(encoding="utf-8"), re.M | re.S):
        for line in block.splitlines():
            if line.startswith(("facsynth ", "make ")):
                yield shlex.split(line, comments=True)


def test_every_make_target_of_the_readme_is_there() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    named = [words[1] for words in typed("README.md") if words[0] == "make"]
    assert set(named) >= {"demo", "test"} and set(named) <= set(targets)


@pytest.mark.slow
def test_the_commands_of_the_readme_run_in_their_order(tmp_path: Path, server: FaultServer) -> None:
    for name, source, rows in (
        ("my", "seed", slice(30)), ("other", "anchor", slice(200, 240)), ("broad", "anchor", slice(200)),
    ):  # fmt: skip
        lines = (ROOT / "examples" / f"{source}.jsonl").read_text(encoding="utf-8").splitlines()[rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    commands = [words for words in typed("README.md") if words[0] == "facsynth"]
    assert [words[1] for words in commands] == [
        "coverage",
        "coverage",
        "compare",
        "missing",
        "interpret",
        "synthesize",
        "verify",
        "export",
    ]
    server.script = answer
    named = {"URL": server.url, "NAME": MODEL}
    for words in commands:
        line = [sys.executable, "-m", "facsynth", *(named.get(word, word) for word in words[1:])]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (words, done.stderr)
        assert done.stdout.strip()
    assert (tmp_path / "runs" / "a" / "samples.jsonl").read_text(encoding="utf-8")
