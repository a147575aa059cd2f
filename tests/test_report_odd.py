"""Reports of odd runs: hostile texts can do nothing on the page, and what is absent, damaged or large is said there."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from facsynth.errors import InputError
from facsynth.report import plots
from facsynth.report.build import build_report
from facsynth.store import write_json, write_jsonl
from fake_run import make_run
from outline import Outline, outline, words


def test_the_page_asks_nothing_of_any_server_and_runs_its_own_script_alone(tmp_path: Path) -> None:
    page = outline(make_run(tmp_path / "demo"))
    assert page.tags["script"] == 2, "the rows, as JSON, and the script"
    policy = next(value for _, name, value in page.attributes if name == "content" and value and "script-src" in value)
    script = Path(plots.__file__).with_name("table.js").read_bytes()
    assert f"script-src 'sha256-{b64encode(sha256(script).digest()).decode()}';" in policy
    assert not page.tags.keys() & {"link", "img", "iframe", "object", "embed", "base", "form", "a", "image"}
    assert {name for _, name, _ in page.attributes if name.startswith("on")} == set()
    assert not {name for _, name, _ in page.attributes} & {"href", "src", "srcset", "xlink:href", "action", "style"}
    html = (tmp_path / "demo/report.html").read_text("utf-8")
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src &#39;none&#39;" in html or "default-src 'none'" in html


HOSTILE = (
    "<script>alert(1)</script>",
    "</style></title></bdi><img src=x onerror=alert(1)>",
    "\"' onmouseover='alert(1)' x=\"",
    "{{ 7 * 7 }}{% raw %}",
    "]]><!-- <b>&amp;lt;",
    "\u202e\u2066 שלום עולם مرحبا",
    "\ud800 lone \udfff surrogates \x00\x07\x1b[31m\uffff",
    "z\u0301" * 400,
)


@pytest.mark.parametrize("evil", HOSTILE)
def test_hostile_texts_change_nothing_but_the_text(tmp_path: Path, evil: str) -> None:
    plain, hostile = make_run(tmp_path / "plain", 6, 4), make_run(tmp_path / "hostile", 6, 4, lambda text: text + evil)
    for name in ("summary", "coverage/before", "coverage/after"):
        path = hostile / f"{name}.json"
        write_json(path, edit_strings(json.loads(path.read_text("utf-8", "surrogatepass")), evil))
    for name in ("provenance", "rejected", "gave_up"):
        path = hostile / f"{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text("utf-8", "surrogatepass").splitlines() if line.strip()]
        write_jsonl(path, [{k: v + evil if k in ("explanation", "reason") else v for k, v in r.items()} for r in rows])
    (hostile / "facsynth.yaml").write_text(evil, "utf-8", "surrogatepass")
    expected, found = outline(plain), outline(hostile)
    assert found.tags.keys() == expected.tags.keys()
    names = [{(tag, name) for tag, name, _ in page.attributes} for page in (expected, found)]
    assert names[0] == names[1]
    readable = re.sub(r"[\ud800-\udfff\x00-\x08\x0e-\x1f\uffff]", "\ufffd", evil)
    assert readable[:300] in found.shown


def edit_strings(value: Any, evil: str) -> Any:
    """A JSON value with something at the end of each of its strings."""
    if isinstance(value, dict):
        return {k: edit_strings(v, evil) for k, v in value.items()}
    if isinstance(value, list):
        return [edit_strings(v, evil) for v in value]
    return value + evil if isinstance(value, str) else value


def test_a_hostile_folder_name_is_text_and_one_word_of_the_shell(tmp_path: Path) -> None:
    run = make_run(tmp_path / "<b>x; rm -r '$HOME'", 2, 1)
    shell_word = "'" + run.name.replace("'", "'\"'\"'") + "'"
    page = outline(run)
    assert "b" not in page.tags
    assert f"facsynth verify {shell_word}" in page.shown


def test_a_text_of_200_000_characters_is_cut_around_its_span(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo", 3, 2, lambda text: "y" * 100_000 + text + "n" * 100_000)
    page = outline(run)
    assert (run / "report.html").stat().st_size < 100_000
    assert "cut from 200," in page.shown


@pytest.mark.parametrize(
    "absent",
    [
        ["summary.json", "coverage/after.json"],
        ["coverage/before.json", "coverage/after.json"],
        ["summary.json", "coverage/before.json", "coverage/after.json", "targets.json", "plan.csv"],
        ["samples.jsonl"],
        ["samples.jsonl", "provenance.jsonl", "rejected.jsonl", "gave_up.jsonl"],
        ["targets.json", "facsynth.yaml"],
    ],
)
def test_a_run_in_the_making_is_reported_and_says_what_is_not_there(tmp_path: Path, absent: list[str]) -> None:
    run = make_run(tmp_path / "demo", 5, 3)
    for name in absent:
        (run / name).unlink()
    shown = words(outline(run))
    if "summary.json" in absent:
        assert "The run is not finished" in shown
    if "coverage/before.json" in absent:
        assert "Nothing has been measured yet" in shown
    elif "coverage/after.json" in absent:
        assert "Coverage after filling has not been measured yet" in shown
    if absent == ["samples.jsonl"]:
        assert "samples.jsonl has 0 rows and provenance.jsonl 6" in shown


def test_a_folder_with_its_settings_alone_is_a_run(tmp_path: Path) -> None:
    (tmp_path / "facsynth.yaml").write_text("model: embedded\n")
    assert "model: embedded" in outline(tmp_path).shown


def test_zero_rows_everywhere_are_reported(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo", 0, 0)
    summary = json.loads((run / "summary.json").read_text())
    nothing = {"recovered": None, "recovered_of_attempted": None, "recovered_chance": None}
    write_json(run / "summary.json", summary | nothing | {"n_rejected": {}})
    shown = words(outline(run))
    assert "No sample was accepted." in shown
    assert "100.0 %" in shown


@pytest.mark.parametrize("key", ["ceiling", "ci95", "at_equal_tokens", "at_equal_samples"])
def test_a_figure_that_was_not_measured_is_left_out(tmp_path: Path, key: str) -> None:
    run = make_run(tmp_path / "demo", 2, 1)
    for name in ("before", "after"):
        path = run / f"coverage/{name}.json"
        write_json(path, json.loads(path.read_text()) | {key: None})
    assert "None" not in outline(run).shown


@pytest.mark.parametrize("key", ["n_thin", "min_support", "fingerprints", "missing"])
def test_a_file_without_a_figure_that_is_always_measured_is_named_and_left_out(tmp_path: Path, key: str) -> None:
    run = make_run(tmp_path / "demo", 2, 1)
    path = run / "coverage/after.json"
    write_json(path, json.loads(path.read_text()) | {key: None})
    shown = words(outline(run))
    assert (
        f"coverage/after.json could not be read and is left out: does not hold what it should: {key} is null" in shown
    )
    assert "has not been measured yet" not in shown


@pytest.mark.parametrize(
    "name", ["summary.json", "coverage/after.json", "provenance.jsonl", "targets.json", "plan.csv"]
)
@pytest.mark.parametrize("content", [b'{"a": ', b"\xff\xfe\x00", b"[1, 2]\n"])
def test_a_damaged_file_is_named_and_the_rest_is_shown(tmp_path: Path, name: str, content: bytes) -> None:
    run = make_run(tmp_path / "demo", 4, 2)
    (run / name).write_bytes(content)
    shown = words(outline(run))
    assert "layers.14" in shown or name == "summary.json"
    if name != "plan.csv" or content.startswith(b"\xff"):
        assert name in shown.split("Model")[0]


def test_no_run_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run folder"):
        build_report(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no file of a run"):
        build_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_large_run_stays_small_and_counts_what_it_leaves_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo", 1500, 3000)
    page = outline(run)
    assert "1,400 more are in targets.json." in page.shown
    assert (run / "report.html").stat().st_size < 4_000_000


def test_a_label_cannot_leave_its_figure() -> None:
    svg = plots.bars('</svg><b>"', [plots.Bar("<b>", 0.5, "<i>", "&", "\"'")]) + plots.count_figure("x", {"<b>": 3})
    assert Outline(svg).tags.keys() == {"svg", "rect", "line", "text", "tspan"}
