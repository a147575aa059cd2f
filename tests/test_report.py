"""The report: everything that was found is on the page, nothing that was found can act on it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from facsynth.errors import InputError
from facsynth.report import plots
from facsynth.report.build import build_report, ending, excerpt, page
from facsynth.report.read import read_run
from facsynth.store import read_jsonl, write_json, write_jsonl
from fake_run import make_run

TEMPLATE = Path(plots.__file__).with_name("template.html")


class Outline(HTMLParser):
    """What a browser would act on, and the text it would show."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.attributes: list[tuple[str, str, str | None]] = []
        self.open: list[str] = []
        self.shown = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in ("meta", "rect", "line"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.shown += data


def outline(run: Path) -> Outline:
    """The report of a run, parsed; its elements are closed in order."""
    page = Outline(build_report(run).read_text("utf-8"))
    assert page.open == []
    return page


def words(page: Outline) -> str:
    return re.sub(r"\s+", " ", page.shown)


def test_an_under_represented_feature_counts_every_sample_that_fires_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo")
    targets, rows = json.loads((run / "targets.json").read_text()), read_jsonl(run / "provenance.jsonl")
    lacking = targets["attempted"][2]
    lacking |= {"kind": "under", "n_wanted": 2}
    for row in rows[:2]:
        row["fires"].append(lacking["feature_id"])
    (run / "targets.json").write_text(json.dumps(targets))
    write_jsonl(run / "provenance.jsonl", rows)
    (found,) = [row for row in page(read_run(run))["features"] if row.feature == lacking["feature_id"]]
    assert (found.n_accepted, found.state, found.tone) == (2, "2 of 2 wanted", "good")
    assert found.sample is not None
    assert (found.sample.span, found.sample.token, found.best) == ("", "", None), "nothing marked that another fires"
    assert found.accepted_for == rows[0]["feature"] != found.feature


def test_the_figures_of_the_run_are_on_the_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo")
    summary = json.loads((run / "summary.json").read_text())
    shown = words(outline(run))
    for wanted in (
        plots.percent(summary["before"]), plots.percent(summary["after"]), "98.6 %", "123 of 217", "83.3 %",
        "20 of 24", "38.3 %", "41.7 %", "53.7 %", "48,213", "23,417", "SmolLM2-135M-Instruct", "layers.14", "r0.5",
        "contrast", "every feature tried", "does not fire", "gave up: cap of 12 candidates", "0.81 × threshold",
        "facsynth verify demo", "5f2c5f2c", "model: {name: embedded}", "95 % interval 51.7 to 61.7 %",
            "53.7 %, ceiling 97.1 %", "1,044 of them for the chance level alone; in 288 calls",
                "written, 31", "In the eyes of the judge", "From cheap to dear",
            "29 plain samples; where more would be needed",
    ):  # fmt: skip
        assert re.sub(r"\s+", " ", wanted) in shown, wanted
    assert "–" not in shown


def test_each_attempted_feature_has_its_row_and_state(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo")
    html = build_report(run).read_text("utf-8")
    rows = html[html.index("Attempted features") : html.index("Missing and not attempted")].split("<tr>")[2:]
    targets = json.loads((run / "targets.json").read_text())["attempted"]
    missing = json.loads((run / "coverage/after.json").read_text())["missing"]
    assert len(rows) == len(targets)
    for row, target in zip(rows, targets, strict=True):
        assert f'<span class="id">{target["feature_id"]}</span>' in row
        assert ("not recovered" in row) == (target["feature_id"] in missing)


def test_the_best_accepted_sample_is_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo", n_features=1)
    row = json.loads((run / "provenance.jsonl").read_text().splitlines()[0])
    better = row | {"activation": row["threshold"] * 2.75, "span": "a second one, which fires"}
    message = {"messages": [{"role": "user", "content": "Here is a second one, which fires more."}]}
    for name, new in (("provenance", better), ("samples", message)):
        with (run / f"{name}.jsonl").open("a") as handle:
            handle.write(json.dumps(new) + "\n")
    html = build_report(run).read_text("utf-8")
    assert 'Here is <mark>a second one, which </mark><mark class="token">fires</mark> more.' in html
    assert "2.75\u00a0× threshold" in html


def test_missing_features_that_were_not_attempted_are_listed_up_to_fifty(tmp_path: Path) -> None:
    few = build_report(make_run(tmp_path / "few", n_others=7)).read_text("utf-8")
    many = build_report(make_run(tmp_path / "many", n_others=70)).read_text("utf-8")
    listed = [html[html.index("Missing and not attempted") : html.index("Rejected by")] for html in (few, many)]
    assert [part.count("<tr><td") for part in listed] == [7, 50]
    assert "The first 50 of 70" in listed[1]


def test_missing_features_are_listed_without_a_plan(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo", n_others=3)
    (run / "plan.csv").unlink()
    html = build_report(run).read_text("utf-8")
    assert html[html.index("Missing and not attempted") : html.index("Rejected by")].count("<tr><td") == 3


def test_the_page_asks_nothing_of_any_server_and_runs_nothing(tmp_path: Path) -> None:
    page = outline(make_run(tmp_path / "demo"))
    assert not page.tags.keys() & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "a", "image"}
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


def test_the_order_of_the_plan_is_claimed_only_of_what_is_in_the_plan(tmp_path: Path) -> None:
    def said(name: str, n_kept: int) -> str:
        run = make_run(tmp_path / name, 2, 4)
        lines = (run / "plan.csv").read_text("utf-8").splitlines(keepends=True)
        (run / "plan.csv").write_text("".join(lines[: 1 + n_kept]), "utf-8")
        return words(outline(run)).partition("Missing and not attempted")[2].partition("Feature")[0].strip()

    assert said("whole", 6) == "4, in the order of the plan."
    assert said("shortened", 4) == "4: those of the plan in its order, then 2 that are not in it."
    assert said("emptied", 0) == "4, by number: none of them is in the plan."


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


def test_recovered_at_the_chance_level_is_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo", 6, 2)
    assert "does not exceed the chance level" not in outline(run).shown
    summary = json.loads((run / "summary.json").read_text())
    write_json(run / "summary.json", summary | {"recovered_chance": summary["recovered_of_attempted"]})
    assert "does not exceed the chance level" in outline(run).shown


def test_a_feature_recovered_by_other_samples_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo", 8, 2)
    after = json.loads((run / "coverage/after.json").read_text())
    write_json(run / "coverage/after.json", after | {"missing": []})
    assert words(outline(run)).count("recovered by others") == 1


def test_an_under_represented_feature_is_measured_by_what_it_wants(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo", 2, 0)
    targets = json.loads((run / "targets.json").read_text())
    for row in targets["attempted"]:
        row |= {"kind": "under", "n_wanted": 2}
    write_json(run / "targets.json", targets)
    html = build_report(run).read_text("utf-8")
    assert re.findall(r'class="state (\w+)">([^<]+)<', html) == [("bad", "1 of 2 wanted"), ("good", "2 of 2 wanted")]


def test_the_same_run_gives_the_same_bytes_and_nothing_else_is_written(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo", 4, 2)
    before = set(run.rglob("*"))
    first = build_report(run).read_bytes()
    assert build_report(run).read_bytes() == first
    assert set(run.rglob("*")) - before == {run / "report.html"}


def test_no_run_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run folder"):
        build_report(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no file of a run"):
        build_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_large_run_stays_small_and_counts_what_it_leaves_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo", 1500, 3000)
    page = outline(run)
    assert "1,100 more are in targets.json." in page.shown
    assert (run / "report.html").stat().st_size < 2_000_000


def test_an_excerpt_puts_together_the_text() -> None:
    text = "one two three four"
    part = excerpt(text, 4, 13, "three")
    assert (part.head, part.span, part.token, part.tail) == ("one ", "two ", "three", " four")
    assert ending("up to here", " here").token == "here"
    assert ending("a line\n", "\n").token == "\n"
    assert ending("", "").token == ""
    assert ending("no such", "token").token == ""
    assert ending("the last word ").token == "word "
    assert ending("没有空格的句子" * 9).token == ""


def test_a_bar_is_as_long_as_its_share_and_never_longer_than_the_axis() -> None:
    bars = [plots.Bar("a", share, "") for share in (0.25, 1.7, -1.0)]
    widths = re.findall(r'class="gain" width="([\d.]+)%"', plots.bars("title", bars))
    assert [float(width) for width in widths] == [25, 100, 0]


def test_a_label_cannot_leave_its_figure() -> None:
    svg = plots.bars('</svg><b>"', [plots.Bar("<b>", 0.5, "<i>", "&", "\"'")]) + plots.count_figure("x", {"<b>": 3})
    assert Outline(svg).tags.keys() == {"svg", "rect", "line", "text", "tspan"}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.3728, "37.3\u00a0%"),
        (0, "0.0\u00a0%"),
        (0.00041, "0.041\u00a0%"),
        (None, "–"),
        (float("nan"), "–"),
        ("x", "–"),
    ],
)
def test_percent_says_what_is_no_number(value: object, said: str) -> None:
    assert plots.percent(value) == said


def test_a_meter_needs_a_threshold_above_zero() -> None:
    assert plots.meter(1.0, 0.0) == plots.meter(None, 1.0) == ""
    assert plots.times(0.37, 0.0) == "activation 0.37"
    assert 'class="gain"' in plots.meter(1.1, 1.0)
    assert 'class="bad"' in plots.meter(0.9, 1.0)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast_meets_wcag_aa(scheme: int) -> None:
    block = re.findall(r":root \{(.*?)\}", TEMPLATE.read_text("utf-8"), re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#\w{6});", block))

    def contrast(one: str, other: str) -> float:
        high, low = sorted((luminance(colours[one]), luminance(colours[other])), reverse=True)
        return (high + 0.05) / (low + 0.05)

    texts = [("ink", s) for s in ("page", "soft", "span", "token", "notice")]
    texts += [(text, "page") for text in ("quiet", "gain", "bad")]
    assert {pair: contrast(*pair) for pair in texts if contrast(*pair) < 4.5} == {}
    shapes = [("base", "page"), ("gain", "page"), ("bad", "page"), ("notice-line", "page"), ("base", "track")]
    assert {pair: contrast(*pair) for pair in shapes if contrast(*pair) < 3} == {}
