"""The sheet of features: what a person changes is known for it and kept; what is wrong is named."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facsynth.errors import InputError
from facsynth.meaning.score import Detection
from facsynth.meaning.sheet import HUMAN, MODEL, UNJUDGED, UNSCORED, Note, read_notes, write_notes

NOTES = [
    Note(7, "ovens and stoves", MODEL, 0.9, 0.6, 0.95, 0.5, "Yes", "cooking, as asked", MODEL, "baking", "", '"oven"'),
    Note(3, "", MODEL, fires_on='"the"'),
    Note(5, "=HYPERLINK(1)", MODEL, verdict="No", judged_by=MODEL),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_notes(tmp_path / "features.csv", NOTES)
    return tmp_path / "features.csv"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), "utf-8")


def test_what_nobody_changed_comes_back_as_it_was(path: Path) -> None:
    assert read_notes(path) == {note.feature_id: note for note in NOTES}
    assert list(read_notes(path)) == [3, 5, 7]
    assert read_notes(path.parent / "nothing.csv") == {}


def test_a_changed_explanation_is_a_persons_and_its_score_no_longer_holds(path: Path) -> None:
    edit(path, "ovens and stoves", "hot kitchens")
    note = read_notes(path)[7]
    assert note == replace(NOTES[0], explanation="hot kitchens", explained_by=HUMAN, **UNSCORED, **UNJUDGED)
    write_notes(path, read_notes(path).values())
    assert read_notes(path)[7] == note, "and stays so"


def test_a_changed_verdict_is_a_persons(path: Path) -> None:
    edit(path, ",Yes,", ", no ,")
    note = read_notes(path)[7]
    assert (note.verdict, note.judged_by, note.explained_by, note.score) == ("No", HUMAN, MODEL, 0.9)
    assert note.reason == "", "it was for the other verdict"
    edit(path, "cooking, as asked", "I know")
    assert read_notes(path)[7].reason == "I know"


def test_a_row_that_a_person_added_is_read(path: Path) -> None:
    with path.open("a", encoding="utf-8") as handle:
        handle.write("11,my own words,,,,,,maybe\n")
    note = read_notes(path)[11]
    assert note == Note(11, "my own words", HUMAN, verdict="Maybe", judged_by=HUMAN)


def test_an_emptied_cell_is_empty_again(path: Path) -> None:
    edit(path, ",Yes,", ",,")
    edit(path, "ovens and stoves", "")
    note = read_notes(path)[7]
    assert (note.verdict, note.judged_by, note.explanation, note.explained_by) == ("", "", "", "")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [(",Yes,", ",perhaps,", 'row 4, verdict: found "perhaps", wanted Yes, Probably, Maybe, No'),
     ("0.95", "good", 'row 4, score_high: found "good"'), ("7,ovens", "3,ovens", "row 4, feature_id: 3 is there twice"),
     ("0.95", "9.5", 'score_high: found "9.5", wanted a number from 0 to 1'),
     ("explanation,", "text,", "no column explanation")],
)  # fmt: skip
def test_a_wrong_cell_is_named(path: Path, old: str, new: str, message: str) -> None:
    edit(path, old, new)
    with pytest.raises(InputError, match=message):
        read_notes(path)


PRINTABLE = st.characters(codec="utf-8", exclude_categories=["Cc"]) | st.sampled_from("\n\r\t")
"""Others become U+FFFD: spreadsheets stumble over them."""


@settings(max_examples=50)
@given(st.text(PRINTABLE), st.text(PRINTABLE))
def test_any_words_survive_the_file(tmp_path_factory: pytest.TempPathFactory, explanation: str, reason: str) -> None:
    path = tmp_path_factory.mktemp("sheet") / "features.csv"
    words, reason = " ".join(explanation.split()), " ".join(reason.split())
    note = Note(1, words, MODEL, 0.5, verdict="Yes", reason=reason, judged_by=MODEL)
    write_notes(path, [note])
    assert read_notes(path) == {1: note}


def test_edits_that_were_saved_since_it_was_read_win_and_columns_of_ones_own_stay(path: Path) -> None:
    read = read_notes(path)
    with path.open(encoding="utf-8-sig", newline="") as handle:
        rows = list(csv.reader(handle))
    rows[0].append("mine")
    for row in rows[1:]:
        row.append("=look")
    edited = next(row for row in rows if row[0] == "7")
    edited[1] = "hot kitchens"
    next(row for row in rows if row[0] == "5")[rows[0].index("verdict")] = "yes"
    with path.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([*rows, ["12", "one more"]])
    answered = {i: replace(note, explanation="something else", verdict="Maybe") for i, note in read.items()}
    found = write_notes(path, answered.values())
    assert found == read_notes(path)
    assert (found[7].explanation, found[7].explained_by, found[7].score) == ("hot kitchens", HUMAN, None)
    assert (found[7].verdict, found[7].judged_by) == ("", ""), "the verdict was on other words"
    assert (found[5].verdict, found[5].reason, found[5].judged_by) == ("Yes", "", HUMAN)
    assert found[3] == answered[3] and found[12].explanation == "one more"
    with path.open(encoding="utf-8-sig", newline="") as handle:
        assert {row["mine"] for row in csv.DictReader(handle)} == {"'=look", ""}


def test_it_begins_with_the_mark_by_which_excel_knows_utf_8(path: Path) -> None:
    assert path.read_bytes().startswith(b"\xef\xbb\xbffeature_id,")


def test_a_remark_in_a_column_without_a_name_stays(path: Path) -> None:
    with path.open(encoding="utf-8-sig", newline="") as handle:
        rows = list(csv.reader(handle))
    rows[0].append("")
    rows[1].append("look at this")
    rows[2] += ["", "and at this"]
    with path.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows(rows)
    for _ in range(2):
        write_notes(path, read_notes(path).values())
    assert path.read_text("utf-8-sig").count("look at this") == path.read_text("utf-8-sig").count("and at this") == 1


def test_a_spreadsheet_of_much_of_europe_sets_semicolons_and_decimal_commas(path: Path) -> None:
    with path.open(encoding="utf-8-sig", newline="") as handle:
        rows = list(csv.reader(handle))
    with path.open("w", encoding="utf-8-sig", newline="") as handle:
        csv.writer(handle, delimiter=";", quoting=csv.QUOTE_ALL).writerows(
            [[cell.replace("0.", "0,") for cell in row] for row in rows]
        )
    assert read_notes(path) == {note.feature_id: note for note in NOTES}


def test_without_its_marks_the_sheet_is_refused_before_everything_counts_as_human(path: Path) -> None:
    edit(path, ",mark", ",remark")
    with pytest.raises(InputError, match="row 2, mark: it is empty, and tells what a person changed"):
        read_notes(path)


def test_a_score_of_zero_survives_the_file(tmp_path: Path) -> None:
    """Its interval ended below zero by rounding, and no later command could read the sheet."""
    interval = Detection(10, 10, 0, 10).interval
    assert interval.low == 0 and Detection(10, 10, 10, 0).interval.high == 1
    note = Note(1, "ovens", MODEL, 0.0, interval.low, 0.2)
    write_notes(tmp_path / "features.csv", [note])
    assert read_notes(tmp_path / "features.csv") == {1: note}


def test_the_verdict_on_an_explanation_that_a_person_changed_no_longer_holds(path: Path) -> None:
    edit(path, "ovens and stoves", "hot kitchens")
    edit(path, ",Yes,", ",Maybe,")
    assert (read_notes(path)[7].verdict, read_notes(path)[7].judged_by) == ("Maybe", HUMAN)
