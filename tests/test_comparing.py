"""Sets side by side: figures as of coverage alone, files that show them, and sets that cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tiny_run
from facsynth.comparing import compare_sets
from facsynth.errors import SettingsError
from facsynth.names import names_of
from facsynth.report.comparison import RECORD, headline
from facsynth.settings import parse_settings
from facsynth.store import read_json
from tiny_cli import Parts, facsynth


def long_ones(path: Path, source: Path) -> Path:
    """Each text of `source` joined with the next one."""
    texts = [json.loads(line)["messages"][0]["content"] for line in source.read_text().splitlines()]
    pairs = zip(texts[::2], texts[1::2], strict=True)
    rows = [{"messages": [{"role": "user", "content": f"{a} {b}"}]} for a, b in pairs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    parts = Parts(tmp_path_factory.mktemp("parts"))
    tiny_run.corpus(parts.folder / "wide.jsonl", 30, 5)
    tiny_run.corpus(parts.folder / "narrow.jsonl", 40, 6, tiny_run.WORDS[:4])
    long_ones(parts.folder / "long.jsonl", tiny_run.corpus(parts.folder / "other.jsonl", 60, 7))
    return parts


def compared(parts: Parts, folder: Path, *names: str) -> dict:  # type: ignore[type-arg]
    raw = {**parts.settings, "data": {**parts.settings["data"], "seed": [str(parts.folder / name) for name in names]}}
    return read_json(compare_sets(parse_settings(raw, "the test"), folder / "out", folder / "cache") / RECORD)


def test_the_figures_are_those_of_each_set_alone(parts: Parts, tmp_path: Path) -> None:
    found = compared(parts, tmp_path, "wide.jsonl", "narrow.jsonl")
    for one in found["sets"]:
        words = (parts.folder / one["name"], *parts.options, "--json", "-o", tmp_path / one["name"])
        done = facsynth("coverage", *words, "--config", parts.config)
        assert done.code == 0, done.stderr
        alone = json.loads(done.stdout)
        assert one["value"] == alone["value"]
        assert one["ci95"] == pytest.approx(alone["ci95"])
        assert found["n_target"] == alone["n_target"]
    wide, narrow = found["sets"]
    assert wide["value"] > narrow["value"]
    assert wide["at_equal_samples"] == wide["value"], "it has the fewest samples"
    assert narrow["at_equal_samples"] < narrow["value"] or narrow["n_samples"] == wide["n_samples"]
    (pair,) = found["pairs"]
    assert pair["at_equal_tokens"]["value"] == pytest.approx(narrow["at_equal_tokens"] - wide["at_equal_tokens"])
    low, high = pair["at_equal_tokens"]["ci95"]
    assert low < pair["at_equal_tokens"]["value"] < high < 0
    assert len(pair["only_first"]) - len(pair["only_other"]) == wide["n_covered"] - narrow["n_covered"]


def test_features_that_one_set_fires_more_often_come_with_spans_of_that_set(parts: Parts, tmp_path: Path) -> None:
    tiny_run.corpus(parts.folder / "all.jsonl", 120, 8)
    tiny_run.corpus(parts.folder / "few.jsonl", 120, 9, tiny_run.WORDS[:4])
    (pair,) = compared(parts, tmp_path, "all.jsonl", "few.jsonl")["pairs"]
    texts = {name: (parts.folder / name).read_text() for name in ("all.jsonl", "few.jsonl")}
    assert {row["log_odds"] > 0 for row in pair["differences"]} == {True, False}
    for row in pair["differences"]:
        spans = [row["span"]["text"], *(span["text"] for span in row["more"])]
        where = texts["all.jsonl" if row["log_odds"] > 0 else "few.jsonl"]
        assert all(span in where for span in spans)
        assert len({*spans}) == len(spans) == 3


def test_longer_samples_of_the_same_source_are_told_to_be_just_longer(parts: Parts, tmp_path: Path) -> None:
    (pair,) = compared(parts, tmp_path, "wide.jsonl", "long.jsonl")["pairs"]
    low, high = pair["at_equal_tokens"]["ci95"]
    assert low <= 0 <= high
    assert pair["at_equal_samples"]["value"] > pair["at_equal_tokens"]["value"]
    assert "cannot be told from <bdi>wide.jsonl</bdi>" in headline(pair)


def test_a_set_against_itself_differs_in_nothing_and_is_said_to_be_the_same(parts: Parts, tmp_path: Path) -> None:
    found = compared(parts, tmp_path, "wide.jsonl", "wide.jsonl")
    (pair,) = found["pairs"]
    assert (pair["first"], pair["other"]) == ("wide.jsonl (1)", "wide.jsonl (2)")
    assert pair["at_equal_tokens"] == {"value": 0.0, "ci95": [0.0, 0.0]}
    assert pair["only_first"] == pair["only_other"] == pair["differences"] == []
    assert any("30 samples of wide.jsonl (1) are in wide.jsonl (2) too" in note for note in found["notes"])


def test_what_a_set_shares_with_the_anchor_is_said(parts: Parts, tmp_path: Path) -> None:
    lines = parts.anchor.read_text().splitlines(keepends=True)
    (parts.folder / "taken.jsonl").write_text("".join(lines[:20]))
    found = compared(parts, tmp_path, "wide.jsonl", "taken.jsonl")
    assert any("20 of the 20 samples of taken.jsonl are in the anchor too" in note for note in found["notes"])


def test_a_set_that_all_are_cut_down_to_is_said(parts: Parts, tmp_path: Path) -> None:
    tiny_run.corpus(parts.folder / "tiny.jsonl", 2, 11)
    found = compared(parts, tmp_path, "wide.jsonl", "narrow.jsonl", "tiny.jsonl")
    assert any("tokens of tiny.jsonl; without it" in note for note in found["notes"])
    assert not any(
        "without it" in note for note in compared(parts, tmp_path / "b", "wide.jsonl", "tiny.jsonl")["notes"]
    )


def test_the_same_samples_in_another_file_are_told_by_its_name(parts: Parts, tmp_path: Path) -> None:
    text = (parts.folder / "narrow.jsonl").read_text()
    (tmp_path / "bad.jsonl").write_text(text + "7\n")
    (tmp_path / "good.jsonl").write_text(text)
    for name, n_notes in (("bad.jsonl", 1), ("good.jsonl", 0)):
        done = facsynth("compare", parts.folder / "wide.jsonl", tmp_path / name, *parts.options)
        assert done.code == 0, done.stderr
        assert f"{name} against wide.jsonl" in done.stdout
        assert done.stderr.count("rows that could not be used") == n_notes
        alone = facsynth("coverage", tmp_path / name, *parts.options)
        assert alone.stderr.count("rows that could not be used") == n_notes


def test_fewer_tokens_than_a_sample_compare_nothing(parts: Parts, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": tiny_run.WORDS[0]}]}
    (parts.folder / "word.jsonl").write_text(json.dumps(row) + "\n")
    sets = [parts.folder / name for name in ("long.jsonl", "word.jsonl")]
    done = facsynth("compare", *sets, *parts.options, "-o", tmp_path / "c")
    assert done.code == 0, done.stderr
    assert "fewer tokens than a sample" in done.stdout
    (pair,) = read_json(tmp_path / "c" / RECORD)["pairs"]
    assert pair["at_equal_tokens"] == {"value": None, "ci95": None}
    assert "fewer tokens than a sample" in (tmp_path / "c" / "report.html").read_text()


def test_the_order_of_samples_changes_nothing(parts: Parts, tmp_path: Path) -> None:
    lines = (parts.folder / "wide.jsonl").read_text().splitlines()
    shuffled = np.random.default_rng(0).permutation(lines)
    (parts.folder / "shuffled.jsonl").write_text("\n".join(shuffled) + "\n")
    a = compared(parts, tmp_path / "a", "wide.jsonl", "narrow.jsonl")["sets"][0]
    b = compared(parts, tmp_path / "b", "shuffled.jsonl", "narrow.jsonl")["sets"][0]
    assert {key: value for key, value in b.items() if key != "name"} == {k: v for k, v in a.items() if k != "name"}


def test_the_command_prints_it_writes_a_report_and_takes_what_is_encoded(parts: Parts, tmp_path: Path) -> None:
    sets = [parts.folder / name for name in ("wide.jsonl", "narrow.jsonl", "long.jsonl")]
    done = facsynth("compare", *sets, *parts.options, "-o", tmp_path / "c")
    assert done.code == 0, done.stderr
    assert "narrow.jsonl against wide.jsonl" in done.stdout
    assert "covers less" in done.stdout
    assert "Side by side" in (tmp_path / "c" / "report.html").read_text()
    again = facsynth("compare", *sets, *parts.options, "-o", tmp_path / "c", "--json")
    assert json.loads(again.stdout) == read_json(tmp_path / "c" / "comparison.json")
    encoded = tmp_path / "c" / "features" / "set-2"
    found = facsynth("compare", sets[0], encoded, *parts.options, "-o", tmp_path / "d", "--json")
    assert found.code == 0, found.stderr
    assert json.loads(found.stdout)["sets"][1]["value"] == json.loads(again.stdout)["sets"][1]["value"]
    other = facsynth("compare", sets[0], encoded, *parts.options, "-o", tmp_path / "e", "--codes", "relu")
    assert other.code == 1
    assert "codes" in other.stderr


def test_a_file_may_be_named_anything(parts: Parts, tmp_path: Path) -> None:
    evil = parts.folder / "<img src=x onerror=alert(1)>\u202e.jsonl"
    evil.write_bytes((parts.folder / "narrow.jsonl").read_bytes())
    done = facsynth("compare", parts.folder / "wide.jsonl", evil, *parts.options, "-o", tmp_path / "c")
    assert done.code == 0, done.stderr
    html = (tmp_path / "c" / "report.html").read_text("utf-8")
    assert "<img" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;\u202e.jsonl</bdi> covers" in html


def test_what_cannot_be_compared_is_refused(parts: Parts, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="two data sets or more"):
        compared(parts, tmp_path, "wide.jsonl")
    done = facsynth("compare", parts.seed, parts.anchor, *parts.options, "--relevance", "judge", "--task", "toxicity")
    assert done.code == 2
    assert "does not ask a judge" in done.stderr


def test_a_part_of_a_corpus_is_refused(parts: Parts, tmp_path: Path) -> None:
    done = facsynth("encode", parts.folder / "wide.jsonl", *parts.space, "--shard", "2/2", "-o", tmp_path / "part")
    assert done.code == 0, done.stderr
    done = facsynth("compare", parts.folder / "narrow.jsonl", tmp_path / "part", *parts.options)
    assert done.code == 1
    assert "is part 2/2 of a corpus" in done.stderr and "facsynth merge" in done.stderr


def test_a_file_that_was_changed_is_compared_again(parts: Parts, tmp_path: Path) -> None:
    mine = tmp_path / "mine.jsonl"
    values = []
    for name in ("narrow.jsonl", "wide.jsonl"):
        mine.write_bytes((parts.folder / name).read_bytes())
        done = facsynth("compare", parts.folder / "wide.jsonl", mine, *parts.options, "--json")
        assert done.code == 0, done.stderr
        values.append(json.loads(done.stdout)["sets"][1]["value"])
    assert values[0] < values[1]


def test_names_are_those_of_the_files_with_a_number_where_they_are_equal() -> None:
    assert names_of(["a/x.jsonl", "b/x.jsonl", "y.jsonl", "hf:owner/name"]) == [
        "x.jsonl (1)",
        "x.jsonl (2)",
        "y.jsonl",
        "name",
    ]
    assert names_of(["a/x (1)", "b/x", "c/x"]) == ["x (1)", "x (2)", "x (3)"]
