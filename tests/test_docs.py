"""What the documents tell a user to type, typed: every code block of every page, page by page, in its order."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from facsynth.cli.console import cache_folder
from facsynth.model.embedded import embedded_model
from facsynth.settings import parse_settings
from facsynth.tasks import load_task
from fault_server import MODEL, Act, FaultServer
from test_understand import answer

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
PAGES = [page for page in PAGES if page not in {"docs/LOG.md", "docs/cli.md"}]
SHIMS = 'srun() { "$@"; }; vllm() { :; }; pip() { :; }; export SLURM_ARRAY_TASK_ID=1\n'
"""For what no test machine has, and what CI does anyway."""
ELSEWHERE = re.compile(r"^(make |source |.*--push |.*--ray-address ).*\n?", re.M)
"""Lines that need a hub or a cluster; make is what runs this."""


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of each code block."""
    return re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)


def prose() -> list[dict[str, Any]]:
    """Lines of these pages, which are no requests."""
    lines = [line for page in PAGES for line in (ROOT / page).read_text("utf-8").splitlines() if len(line) > 60]
    return [{"messages": [{"role": "user", "content": line}]} for line in lines]


def corpora(folder: Path) -> None:
    """The data sets that the pages speak of: messages with replies."""
    rows = {
        name: [json.loads(line) for line in (ROOT / "examples" / f"{name}.jsonl").read_text("utf-8").splitlines()]
        for name in ("seed", "anchor")
    }
    for number, row in enumerate(every := [*rows["seed"], *rows["anchor"]]):
        reply = every[(number + 7) % len(every)]["messages"][0]["content"]
        row["messages"].append({"role": "assistant", "content": f"Let me think about that. {reply}"})
    seed, anchor = rows["seed"], rows["anchor"]
    for names, part in (
        (("my", "mine"), seed[:30]), (("other", "yours", "big"), anchor[200:240]), (("broad", "corpus"), anchor[:200]),
        (("pool", "more"), anchor[240:300]), (("test",), anchor[300:310]), (("plain",), prose()),
    ):  # fmt: skip
        for name in names:
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    for name, part in (("labelled", seed[:20]), ("more-labelled", anchor[40:60]), ("labelled-test", seed[20:40])):
        labelled = [row | {"label": n % 2} for n, row in enumerate(part)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled), encoding="utf-8")


def models(folder: Path) -> None:
    """A chat model, its base model without a chat template, and an SAE, by the names that the pages use."""
    model = embedded_model(cache_folder())
    (folder / "my-model").symlink_to(model)
    (folder / "my-sae").symlink_to(ROOT / "src" / "facsynth" / "data" / "smollm2-135m-instruct-layers.14")
    base = folder / "my-base-model"
    base.mkdir()
    for path in model.iterdir():
        if path.name not in {"chat_template.jinja", "tokenizer_config.json"}:
            (base / path.name).symlink_to(path)
    config = json.loads((model / "tokenizer_config.json").read_text("utf-8"))
    config.pop("chat_template", None)
    (base / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def reply(body: dict[str, Any], seen: int) -> Act:
    """Of an annotator and judge where one is asked; else any words."""
    asked = {'"explanation"', '"fits"', '"verdict"'}
    return answer(body, seen) if any(key in body["messages"][0]["content"] for key in asked) else Act()


def run(words: list[str], text: str, folder: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        words, input=text, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (text, done.stdout[-2000:], done.stderr[-4000:])


def test_every_make_target_of_the_readme_is_there() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    named = re.findall(r"^make (\S+)", "".join(text for _, text in blocks("README.md")), re.M)
    assert set(named) >= {"demo", "test"} and set(named) <= set(targets)


def test_every_block_says_what_it_is() -> None:
    assert {language for page in PAGES for language, _ in blocks(page)} <= {"bash", "python", "yaml", "text"}


def test_the_reference_is_what_help_prints() -> None:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert spec is not None and spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert reference.page() == written, "docs/cli.md is stale: run `make docs`"


def test_settings_and_tasks_of_the_pages_are_such(tmp_path: Path) -> None:
    for page in PAGES:
        for language, text in blocks(page):
            if language != "yaml":
                continue
            if "rubric" in yaml.safe_load(text):
                (tmp_path / "task.yaml").write_text(text, encoding="utf-8")
                assert load_task(str(tmp_path / "task.yaml")).rubric
            else:
                assert parse_settings(yaml.safe_load(text), page).writer.endpoint


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if {"bash", "python"} & {lang for lang, _ in blocks(page)}])
def test_what_a_page_says_to_type_runs(page: str, tmp_path: Path, server: FaultServer) -> None:
    server.script = reply
    corpora(tmp_path)
    models(tmp_path)
    told = {
        "http://localhost:8000/v1": server.url, "Qwen/Qwen2.5-32B-Instruct": MODEL, " --device cuda": "",
        "--judge-url URL": f"--judge-url {server.url}", "--judge-model NAME": f"--judge-model {MODEL}",
        "~/.cache/facsynth": str(cache_folder()), "max_tokens: 40000": "max_tokens: 3000",
    }  # fmt: skip
    for language, written in blocks(page):
        text = written
        for words, instead in told.items():
            text = text.replace(words, instead)
        if language == "python":
            pytest.importorskip("trl", reason="TRL is not installed")
            run([sys.executable, "-"], text, tmp_path)
        elif language == "bash":
            run(["bash", "-e"], SHIMS + ELSEWHERE.sub("", text), tmp_path)
    shutil.rmtree(tmp_path)
