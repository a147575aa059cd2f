"""The report: everything that was found is on the page, in figures, rows and bars that anybody can read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from facsynth.report import plots
from facsynth.report.build import build_report
from facsynth.report.excerpts import ending, excerpt
from facsynth.report.features import Features
from facsynth.report.read import read_run
from facsynth.store import read_jsonl, write_json, write_jsonl
from fake_run import make_run
from outline import outline, words

STYLE = Path(plots.__file__).with_name("style.css")


def test_an_under_represented_feature_counts_every_sample_that_fires_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo")
    targets, rows = json.loads((run / "targets.json").read_text()), read_jsonl(run / "provenance.jsonl")
    lacking = targets["attempted"][2]
    lacking |= {"kind": "under", "n_wanted": 2}
    for row in rows[:2]:
        row["fires"].append(lacking["feature_id"])
    (run / "targets.json").write_text(json.dumps(targets))
    write_jsonl(run / "provenance.jsonl", rows)
    found = Features(read_run(run))[lacking["feature_id"]]
    assert (len(found.accepted), found.state, found.tone) == (2, "2 of 2 wanted", "good")
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
            "covers 53.7 % of them, and the ceiling is 97.1 %", "above 0.5 of about the most it reaches",
            "1,044 of them for the chance level alone; in 288 calls",
                "written, 31", "In the eyes of the judge", "from cheap to dear",
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
    assert "Accepted samples, the strongest 2.75\u00a0× threshold" in html, "in the rows for the script, too"


def test_missing_features_that_were_not_attempted_are_listed_up_to_fifty(tmp_path: Path) -> None:
    few = build_report(make_run(tmp_path / "few", n_others=7)).read_text("utf-8")
    many = build_report(make_run(tmp_path / "many", n_others=70)).read_text("utf-8")
    listed = [html[html.index("Missing and not attempted") : html.index("What was added")] for html in (few, many)]
    assert [part.count("<tr><td") for part in listed] == [7, 50]
    assert "The first 50 of 70" in listed[1]


def test_accepted_samples_are_listed_with_where_they_come_from(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo", n_features=40)
    rows = [json.loads(line) for line in (run / "provenance.jsonl").read_text().splitlines()]
    write_jsonl(run / "provenance.jsonl", [rows[0] | {"source": "selected", "fires": [1, 2, 3]}, *rows[1:]])
    html = build_report(run).read_text("utf-8")
    listed = html[html.index("What was added") : html.index("Rejected by")]
    assert listed.count("<tr><td") == 30 < len(rows)
    assert f"The first 30 of {len(rows)} accepted samples" in listed
    assert (listed.count("chosen from the pool"), listed.count(">written<")) == (1, 29)
    assert "fires 2 more of the attempted features" in listed


def test_features_that_come_to_be_covered_unasked_are_told_apart(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo", n_features=3, n_others=4)
    assert "Newly covered" not in build_report(run).read_text("utf-8")
    after = json.loads((run / "coverage/after.json").read_text())
    tried = {row["feature_id"] for row in json.loads((run / "targets.json").read_text())["attempted"]}
    lost = [i for i in after["missing"] if i in tried]
    (run / "coverage/after.json").write_text(json.dumps(after | {"missing": lost}))
    said = "Newly covered: 6 features, 2 of those attempted, and 4 that samples for others fire too."
    assert said in build_report(run).read_text("utf-8")
    plan = (run / "plan.csv").read_text("utf-8")
    (run / "plan.csv").write_text(plan.replace(",yes,", ",no,"), "utf-8")
    features = Features(read_run(run))
    states = {(features[i].state, features[i].tone) for i in features.ids if i not in tried}
    assert states == {("left out, yet covered", "good")}


def test_under_represented_features_have_rates_and_a_span(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo", n_features=2, n_others=2)
    before = json.loads((run / "coverage/before.json").read_text())
    (run / "coverage/before.json").write_text(json.dumps(before | {"under": [70_000]}))
    row = {"feature_id": 70_000, "anchor_rate": 0.4, "seed_rate": 0.01, "span": "what fires it most"}
    (run / "coverage/under.json").write_text(json.dumps({"features": [row]}))
    found = Features(read_run(run))[70_000]
    assert (found.state, found.rates) == ("under-represented", (0.4, 0.01))
    assert (found.span.head + found.span.span, found.span.token) == ("what fires it ", "most")


def test_missing_features_are_listed_without_a_plan(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo", n_others=3)
    (run / "plan.csv").unlink()
    html = build_report(run).read_text("utf-8")
    assert html[html.index("Missing and not attempted") : html.index("What was added")].count("<tr><td") == 3


def test_the_order_of_the_plan_is_claimed_only_of_what_is_in_the_plan(tmp_path: Path) -> None:
    def said(name: str, n_kept: int) -> str:
        run = make_run(tmp_path / name, 2, 4)
        lines = (run / "plan.csv").read_text("utf-8").splitlines(keepends=True)
        (run / "plan.csv").write_text("".join(lines[: 1 + n_kept]), "utf-8")
        return words(outline(run)).partition("Missing and not attempted")[2].partition("Feature")[0].strip()

    assert said("whole", 6) == "4, in the order of the plan."
    assert said("shortened", 4) == "4: those of the plan in its order, then 2 that are not in it."
    assert said("emptied", 0) == "4, by number: none of them is in the plan."


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
    block = re.findall(r":root \{(.*?)\}", STYLE.read_text("utf-8"), re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#\w{6});", block))

    def contrast(one: str, other: str) -> float:
        high, low = sorted((luminance(colours[one]), luminance(colours[other])), reverse=True)
        return (high + 0.05) / (low + 0.05)

    texts = [("ink", s) for s in ("page", "soft", "span", "token", "notice")]
    texts += [(text, "page") for text in ("quiet", "gain", "bad")]
    assert {pair: contrast(*pair) for pair in texts if contrast(*pair) < 4.5} == {}
    shapes = [("base", "page"), ("gain", "page"), ("bad", "page"), ("notice-line", "page"), ("base", "track")]
    assert {pair: contrast(*pair) for pair in shapes if contrast(*pair) < 3} == {}
