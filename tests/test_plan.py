"""The plan ranks what lacks most, and comes back from a spreadsheet as it was or with the cell that is wrong."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facsynth.coverage.coverage import coverage, targets, under_represented
from facsynth.coverage.plan import COLUMNS, Meaning, PlanRow, attempted, make_plan, plan_text, read_plan
from facsynth.errors import InputError
from facsynth.store import write_text
from test_coverage import profile_of_counts

ROWS = [
    PlanRow(7, "missing", 1, 0.25, 0.0, True, weight=0.25, span="a pinch of salt"),
    PlanRow(3, "under", 12, 0.01, 0.0001, False, "fires anywhere", 7, 0.01, "Maybe", 0.75, "=1", '=HYPERLINK("x")'),
]


def write_plan(path: Path, rows: list[PlanRow]) -> None:
    write_text(path, plan_text(rows))


def plan_for(found: list[int], known: list[int], n_seed: int, n_anchor: int, per_feature: int = 1) -> list[PlanRow]:
    anchor, seed_set = profile_of_counts(np.array(known), n_anchor), profile_of_counts(np.array(found), n_seed)
    thresholds = np.zeros(len(known), np.float32)
    chosen = targets(anchor, thresholds)
    under = under_represented(seed_set, anchor, chosen, thresholds)
    known = {0: Meaning(span="first\nsecond\r\nthird")}
    measured = coverage(seed_set, chosen, thresholds)
    return make_plan(measured, under, seed_set, anchor, thresholds, known=known, per_feature=per_feature)


def test_a_large_seed_set_gets_the_union_ranked_by_rate_and_lack() -> None:
    rows = plan_for([0, 5, 0, 3000], [20, 60, 40, 30], 6000, 200)
    assert [(row.feature_id, row.kind, row.n_wanted) for row in rows] == [
        (1, "under", 175),  # 0.1 x 60/200 x 6000, less 5
        (2, "missing", 120),
        (0, "missing", 60),
    ]
    assert (rows[0].anchor_rate, rows[0].seed_rate, rows[0].keep) == (0.3, 0.000833333, True)
    assert rows[2].span == "first⏎second⏎third"


def test_a_small_seed_set_gets_what_is_missing_one_sample_each() -> None:
    found, known = [0, 5, 0, 300], [20, 60, 40, 30]
    assert [(row.feature_id, row.n_wanted) for row in plan_for(found, known, 4000, 200)] == [(2, 1), (0, 1)]
    assert [row.feature_id for row in plan_for(found, known, 5001, 200)] == [1, 2, 0]
    assert [row.n_wanted for row in plan_for(found, known, 4000, 200, per_feature=3)] == [3, 3]


def test_attempted_are_kept_rows_drawn_with_the_rng_in_the_order_of_the_plan() -> None:
    plan = [PlanRow(i, "missing", 1, 0.1, 0.0, i % 3 > 0) for i in range(90)]
    drawn = attempted(plan, 20, np.random.default_rng(4))
    ids = [row.feature_id for row in drawn]
    assert ids == sorted(set(ids))
    assert len(ids) == 20
    assert all(row.keep for row in drawn)
    assert drawn == attempted(plan, 20, np.random.default_rng(4)) != attempted(plan, 20, np.random.default_rng(5))
    assert (
        len(attempted(plan, None, np.random.default_rng(4)))
        == len(attempted(plan, 999, np.random.default_rng(4)))
        == 60
    )


def test_members_of_a_concept_are_tried_through_the_one_that_stands_for_it() -> None:
    plan = [PlanRow(i, "missing", 1, 0.1, 0.0, True, group=group) for i, group in enumerate([None, 0, 1, 2, None, 99])]
    groups = {row.feature_id: row.group for row in attempted(plan, None, np.random.default_rng(0))}
    assert groups == {0: None, 1: 0, 2: None, 3: None, 4: None, 5: None}, "a member stands for nobody"
    one = attempted(plan, 1, np.random.default_rng(3))
    assert {row.feature_id for row in one} in ({0, 1}, {2}, {3}, {4}, {5})
    plan[0] = replace(plan[0], keep=False)
    groups = {row.feature_id: row.group for row in attempted(plan, None, np.random.default_rng(0))}
    assert groups == {1: None, 2: 1, 3: None, 4: None, 5: None}


def test_what_is_known_of_a_feature_weighs_and_screens() -> None:
    found, known = [0, 0, 0, 0, 0], [20, 60, 120, 40, 20]
    anchor, seed_set = profile_of_counts(np.array(known), 200), profile_of_counts(np.array(found), 100)
    thresholds = np.zeros(5, np.float32)
    chosen = targets(anchor, thresholds)
    measured = coverage(seed_set, chosen, thresholds)
    facts = {
        0: Meaning(verdict="Yes", score=1.0), 1: Meaning(verdict="Maybe", score=0.75),
        3: Meaning(why_not="punctuation"), 4: Meaning(verdict="No", score=0.4),
    }  # fmt: skip
    under = under_represented(seed_set, anchor, chosen, thresholds)
    rows = make_plan(measured, under, seed_set, anchor, thresholds, known=facts)
    weights = {row.feature_id: row.weight for row in rows}
    unknown = (1 + 0.5 + 0.1) / 3 * (1 + 0.5 + 0.1) / 3
    expected = {2: 0.6 * unknown, 3: 0.2 * unknown, 0: 0.1, 1: 0.3 * 0.5 * 0.5, 4: 0.1 * 0.1 * 0.1}
    assert weights == pytest.approx(expected, rel=1e-5)
    assert [row.feature_id for row in rows] == [2, 0, 1, 3, 4]
    assert {row.feature_id: row.why for row in rows if not row.keep} == {
        2: "fires in 60% of the anchor", 3: "punctuation"
    }  # fmt: skip


PRINTABLE = st.characters(codec="utf-8", exclude_categories=["Cc"]) | st.sampled_from("\n\r\t")
"""Others become U+FFFD: spreadsheets stumble over them."""


@settings(max_examples=50)
@given(st.text(PRINTABLE), st.floats(0, 1), st.booleans())
def test_any_span_and_rate_survive_the_file(
    tmp_path_factory: pytest.TempPathFactory, span: str, rate: float, keep: bool
) -> None:
    path = tmp_path_factory.mktemp("plan") / "plan.csv"
    rows = [
        PlanRow(1, "under", 3, rate, rate, keep, span=span, explanation=span),
        PlanRow(0, "missing", 1, 0.5, 0.0, True, span="'=1"),
    ]
    write_plan(path, rows)
    assert read_plan(path, [0, 1]) == rows


def test_no_cell_begins_as_a_formula_does(tmp_path: Path) -> None:
    spans = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "'=1", "plain", ""]
    write_plan(
        tmp_path / "p.csv", [PlanRow(i, "missing", 1, 0.1, 0.0, True, span=span) for i, span in enumerate(spans)]
    )
    with (tmp_path / "p.csv").open(encoding="utf-8-sig", newline="") as handle:
        cells = [cell for row in csv.reader(handle) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t"))]


def test_edits_of_a_spreadsheet_are_read(tmp_path: Path) -> None:
    path = tmp_path / "plan.csv"
    write_plan(path, ROWS)
    path.write_text(
        path.read_text("utf-8-sig").replace(",", ";").replace("0.", "0,").replace("\n", "\r\n"), "utf-8", newline=""
    )
    assert read_plan(path, [3, 7]) == ROWS, "in much of Europe"
    write_plan(path, ROWS)
    text = path.read_text("utf-8-sig").replace("7,missing,1,0.25,0.0,yes", "7,missing,4,0.25,0,NO ")
    path.write_bytes(b"\xef\xbb\xbf" + (text + ",,,,,,\n\n").encode())
    first, second = read_plan(path, [3, 7])
    assert (first.n_wanted, first.keep, second) == (4, False, ROWS[1])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("7,missing", "8,missing", "row 2, feature_id: 8 is neither missing nor under-represented"),
        ("7,missing", "3,missing", "row 3, feature_id: 3 is there twice"),
        ("7,missing", "7.5,missing", 'row 2, feature_id: found "7.5"'),
        ("0.0001,no", "0.0001,maybe", 'row 3, keep: found "maybe", wanted yes or no'),
        ("under,12", "under,0", 'row 3, n_wanted: found "0"'),
        ("under,12", "under,-3", 'row 3, n_wanted: found "-3"'),
        ("under,12", "lost,12", 'row 3, kind: found "lost"'),
        ("0.25", "often", 'row 2, anchor_rate: found "often"'),
        ("n_wanted,", "wanted,", "no column n_wanted; found: feature_id, kind, wanted"),
    ],
)
def test_a_wrong_cell_is_named_with_row_and_column(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "plan.csv"
    write_plan(path, ROWS)
    assert old in path.read_text("utf-8")
    path.write_text(path.read_text("utf-8").replace(old, new), "utf-8")
    with pytest.raises(InputError, match=message):
        read_plan(path, [3, 7])


def test_a_short_row_an_empty_file_and_no_file_are_input_errors(tmp_path: Path) -> None:
    path = tmp_path / "plan.csv"
    with pytest.raises(InputError, match="no plan"):
        read_plan(path, [])
    for data, message in ((b"", "an empty file"), (b"\xff\xfe\x00", "UTF-8")):
        path.write_bytes(data)
        with pytest.raises(InputError, match=message):
            read_plan(path, [])
    path.write_text(",".join(COLUMNS) + "\n7,missing\n", "utf-8")
    with pytest.raises(InputError, match="row 2, n_wanted"):
        read_plan(path, [7])
