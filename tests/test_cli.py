"""The command line on tiny parts: help, exit code, stdout, stderr and files of all commands but those of a run."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import resource
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest
from typer.main import get_command

from facsynth import __version__
from facsynth.cli import console, measuring
from facsynth.cli.main import PANELS, app
from facsynth.settings import RunSettings, load_settings
from facsynth.store import read_json
from tiny_cli import Parts, facsynth

ROOT = Path(__file__).parent.parent
NAMES = [name for commands in PANELS.values() for name in commands]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return Parts(tmp_path_factory.mktemp("parts"))


def options_of(command_line: str) -> dict[str, Any]:
    """The parameters that a written command line gives; an option that does not exist is an error."""
    _, name, *words = shlex.split(command_line, comments=True)
    return dict(get_command(app).commands[name].make_context(name, words).params)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", NAMES)
def test_help_says_what_a_command_does_and_gives_an_example_that_parses(name: str) -> None:
    done = facsynth(name, "--help")
    usage, summary, example = done.stdout.split("\n\n")[:3]
    assert done.code == 0
    assert usage.startswith(f"Usage: facsynth {name} ")
    assert summary[:2] == "  "
    assert summary.strip()[0].isupper()
    assert example.strip().startswith(f"Example:  facsynth {name}")
    options_of(example.strip().removeprefix("Example:  "))


def test_help_lists_every_command_once_by_panel() -> None:
    text = facsynth("--help").stdout
    headings = re.findall(r"^(\w+):$", text, re.MULTILINE)
    assert headings == ["Options", *PANELS]
    assert list(PANELS) == [name for name in ("Measure", "Explain", "Fill", "Prove", "Advanced") if name in PANELS]
    assert re.findall(r"^  ([a-z][\w-]*)  ", text, re.MULTILINE) == NAMES


def test_help_costs_under_three_tenths_of_a_second() -> None:
    costs = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "facsynth", "--help"], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(costs) < 0.3, costs


def test_every_command_of_the_readme_exists_with_its_options() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    lines = [line for line in blocks.splitlines() if line.startswith("facsynth ")]
    assert len(lines) > 3
    for line in lines:
        options_of(line)
    for name in re.findall(r"`facsynth ([a-z][\w-]*)", text):
        assert name in NAMES, name


def test_words_that_are_no_command_end_with_exit_code_two_and_the_nearest_one() -> None:
    assert facsynth().code == 2
    done = facsynth("coverag", "my.jsonl")
    assert done.code == 2
    assert "Did you mean 'coverage'?" in done.stderr
    assert facsynth("coverage").code == 2
    assert "--limit" in facsynth("coverage", "my.jsonl", "--limit", "0").stderr
    assert facsynth("--version").stdout == f"{__version__}\n"


def test_coverage_prints_its_figures_and_says_on_stderr_what_to_know(tiny: Parts) -> None:
    out = tiny.folder / "measured"
    done = facsynth("coverage", tiny.seed, *tiny.options, "-o", out)
    record = read_json(out / "coverage" / "before.json")
    assert done.code == 0
    assert re.search(rf"coverage +{100 * record['value']:.1f} %", done.stdout)
    assert re.search(rf"missing +{record['n_missing']} ", done.stdout)
    assert "encoding anchor 80/80" in done.stderr
    assert [line.removeprefix("note: ") for line in done.stderr.splitlines() if line.startswith("note: ")] == record[
        "notes"
    ]
    again = facsynth("coverage", tiny.seed, *tiny.options, "-o", out, "--json")
    assert json.loads(again.stdout) == record


def test_coverage_needs_no_folder_and_follows_a_file_that_changes(tiny: Parts) -> None:
    seed = tiny.write("changing.jsonl", '{"text": "river field oven"}\n')
    first = json.loads(facsynth("coverage", seed, *tiny.options, "--json").stdout)
    tiny.write("changing.jsonl", '{"text": "river field oven"}\n{"text": "salt garden bank letter"}\n')
    second = json.loads(facsynth("coverage", seed, *tiny.options, "--json").stdout)
    assert (first["n_samples"], second["n_samples"]) == (1, 2)
    assert set(second["missing"]) < set(first["missing"])


def test_a_seed_set_may_come_as_csv_or_from_stdin(tiny: Parts) -> None:
    texts = ["river field oven", "salt garden bank letter"]
    table = tiny.write("seed.csv", "id,body\n" + "".join(f"{n},{text}\n" for n, text in enumerate(texts)))
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    records = [
        json.loads(facsynth("coverage", table, *tiny.options, "--text-field", "body", "--json").stdout),
        json.loads(facsynth("coverage", "-", *tiny.options, "--json", stdin=lines).stdout),
        json.loads(facsynth("coverage", "-", *tiny.options, "--json", stdin="\n".join(texts)).stdout),
    ]
    assert records[0] == records[1] == records[2]
    assert records[0]["n_samples"] == 2


def test_fail_under_ends_with_exit_code_three_after_the_figures(tiny: Parts) -> None:
    done = facsynth("coverage", tiny.seed, *tiny.options, "--fail-under", "0.999", "--json")
    assert done.code == 3
    assert f"coverage is {json.loads(done.stdout)['value']:.3f}, below the limit of 0.999" in done.stderr
    assert facsynth("coverage", tiny.seed, *tiny.options, "--fail-under", "0.001").code == 0


def test_without_an_anchor_it_is_a_first_look_and_says_how_to_take_a_second(tiny: Parts) -> None:
    done = facsynth("coverage", tiny.seed, *tiny.space, "--relevance", "all", "--limit", "20")
    assert done.code == 0
    assert "This is a first look, on the example anchor" in done.stderr
    assert options_of(done.stderr.splitlines()[-1].strip())["limit"] == 20, "what was asked for is asked for again"
    assert "first look" not in facsynth("coverage", tiny.seed, *tiny.options).stderr


def test_coverage_and_missing_say_which_files_are_seed_set_and_which_anchor(tiny: Parts) -> None:
    slip = (tiny.seed, "--anchor", tiny.anchor, tiny.config.with_name("more.jsonl"), *tiny.space, "--relevance", "all")
    tiny.write("more.jsonl", '{"text": "river field oven"}\n')
    said = "seed set: seed.jsonl, more.jsonl   anchor: anchor.jsonl"  # and how was measured, after that
    for command in ("coverage", "missing"):
        done = facsynth(command, *slip)
        assert done.stdout.startswith(said)
        done = facsynth(command, *slip, "--json")
        assert said in done.stderr.splitlines()
        json.loads(done.stdout)
    assert "repeat it for several" in facsynth("coverage", "--help").stdout


def test_measurements_without_a_folder_are_told_of_and_the_oldest_go(
    tiny: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACSYNTH_CACHE", str(tiny.folder / "own-cache"))
    monkeypatch.setattr(measuring, "N_KEPT", 2)
    for limit in (3, 4, 5):
        done = facsynth("coverage", tiny.seed, *tiny.options, "--limit", limit)
        assert "note: kept in" in done.stderr
    kept = list((tiny.folder / "own-cache" / "runs").iterdir())
    assert len(kept) == 2
    assert {load_settings(folder / "facsynth.yaml").data.limit for folder in kept} == {4, 5}


def test_a_seed_set_that_covers_nothing_has_no_interval_and_says_why() -> None:
    assert "nothing is covered" in measuring.interval_of({"ci95": None, "n_samples": 6, "value": 0.0})
    assert "too few samples" in measuring.interval_of({"ci95": None, "n_samples": 3, "value": 0.5})


def test_encode_leaves_a_folder_that_serves_as_a_background(tiny: Parts) -> None:
    out = tiny.folder / "background"
    done = facsynth("encode", tiny.anchor, *tiny.space, "-o", out, "--json")
    assert done.code == 0
    assert json.loads(done.stdout) == read_json(out / "manifest.json")
    assert "80 samples" in facsynth("encode", tiny.anchor, *tiny.space, "-o", out).stdout
    options = [*tiny.options[:-1], "contrast", "--background", str(out)]
    done = facsynth("coverage", tiny.seed, *options)
    assert done.code == 1  # an anchor against itself: nothing sets it apart
    assert "there are no target features" in done.stderr


def test_train_sae_prints_what_it_measured(tiny: Parts) -> None:
    out = tiny.folder / "trained"
    corpora = f"[{{path: {tiny.anchor.name}, form: message}}]"
    recipe = tiny.write(
        "recipe.yaml",
        f"model: {tiny.model}\nhook_point: layers.1\ncorpora: {corpora}\nharvest: {{chunk_tokens: 512}}\n"
        "train: {d_sae: 64, k: 4, n_tokens: 2000, batch_tokens: 256}\nbackground_pieces: 10\n",
    )
    done = facsynth("train-sae", recipe, "--data", tiny.folder, "-o", out, "--json")
    assert done.code == 0
    assert json.loads(done.stdout) == read_json(out / "manifest.json")
    assert (out / "background.npz").exists()
    words = ["coverage", tiny.seed, "--anchor", tiny.anchor, "--model", tiny.model, "--sae", out]
    assert facsynth(*words, "--relevance", "all").code == 0
    contrasted = facsynth(*words)  # 10 pieces set nothing apart; but they are found, beside the SAE
    assert (contrasted.code, "no target features" in contrasted.stderr) == (1, True)
    assert "needs a background" not in contrasted.stderr


def test_init_writes_the_defaults_in_words(tmp_path: Path) -> None:
    done = facsynth("init", tmp_path / "none" / "facsynth.yaml")
    assert (done.code, (tmp_path / "none").exists()) == (1, False)
    path = tmp_path / "facsynth.yaml"
    done = facsynth("init", path)
    assert (done.code, done.stdout) == (0, f"{path}\n")
    written = load_settings(path)
    assert written == RunSettings(data=written.data)
    assert (written.data.seed, written.data.anchor) == (("my.jsonl",), ("broad.jsonl",))
    options_of(path.read_text("utf-8").splitlines()[0].partition(":  ")[2])
    assert facsynth("init", path).code == 1


@contextlib.contextmanager
def terminal() -> Iterator[tuple[TextIO, list[str]]]:
    """A terminal to write to, and what it was sent once it is closed; read all the while, as a full one blocks."""
    master, slave = pty.openpty()
    pieces, shown = [], []

    def read() -> None:
        with contextlib.suppress(OSError):  # how a terminal ends
            while piece := os.read(master, 1 << 16):
                pieces.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with os.fdopen(slave, "w") as screen:
            yield screen, shown
    finally:
        reader.join()
        os.close(master)
        shown.append(b"".join(pieces).decode("utf-8", "replace"))


@pytest.mark.slow
def test_results_stay_apart_from_a_bar_on_a_terminal(tiny: Parts) -> None:
    command = [sys.executable, "-m", "facsynth", "coverage", str(tiny.seed), *tiny.options, "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm", "COLUMNS": "100", "PYTHONIOENCODING": "ascii"}
    with terminal() as (screen, shown):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=screen, env=environment, check=False, timeout=300)
    assert done.returncode == 0, shown
    assert 0 < json.loads(done.stdout)["value"] < 1
    assert "\x1b[" in shown[0]
    assert "starting" in shown[0]
    assert "Loading weights" not in shown[0]


def test_a_bar_moves_with_its_step_and_reads_no_name_as_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    with terminal() as (screen, shown), monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", screen)
        with console.shown_progress() as progress:
            progress("loading the model", 0, None)
            progress("read a[/b].jsonl", 3, 7)
            progress("read a[/b].jsonl", 7, 7)
    assert "read a[/b].jsonl" in shown[0]
    assert "7/7" in shown[0]


def test_without_a_terminal_there_is_a_line_when_a_step_begins_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with console.shown_progress() as progress:
        progress("loading the model", 0, None)
        for done in range(101):
            progress("encoding", done, 100)
    assert capsys.readouterr().err.splitlines() == [
        "starting", "loading the model", "encoding 0/100", "encoding 100/100",
    ]  # fmt: skip


def test_texts_of_corpora_cannot_move_the_cursor_or_style_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table("[red]t", ("text",), [("\x1b[2Jgone",), ("[bold]a\nb",)])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "[red]t" in shown
    assert "[bold]a⏎b" in shown
