"""csv and tsv: what a quote that is never closed costs is told, with where it was opened and what it took in."""

from __future__ import annotations

from pathlib import Path

import pytest

from facsynth.errors import InputError
from facsynth.text import read_corpus, tables


def table(path: Path, n_rows: int, **changed: str) -> Path:
    """Rows `n,text`; `row_3=…` puts another line in the place of row 3."""
    rows = [changed.get(f"row_{n}", f"{n},a text of some words") for n in range(1, n_rows + 1)]
    path.write_text("\n".join(["id,text", *rows]) + "\n", encoding="utf-8")
    return path


def test_a_quote_that_is_never_closed_tells_how_many_lines_it_took_in(tmp_path: Path) -> None:
    corpus = read_corpus(table(tmp_path / "x.csv", 10_000, row_3='3,"a stray one'))
    (failure,) = corpus.failures
    assert len(corpus) == 2
    assert failure.where == f"{tmp_path / 'x.csv'}, line 4"
    assert failure.reason == (
        "not a row of the table: the quote opened on line 4 is never closed and took in 9,997 lines"
    )
    assert failure.raw.startswith('3,"a stray one\n4,a text')
    assert len(failure.raw) <= 200


def test_a_quote_closed_by_a_later_one_tells_what_lies_between(tmp_path: Path) -> None:
    path = table(tmp_path / "x.csv", 30, row_3='3,"a stray one', row_20='20,"quoted"')
    corpus = read_corpus(path)
    (failure,) = corpus.failures
    assert len(corpus) == 12
    assert "was opened on line 4 and took in 17 lines" in failure.reason
    assert failure.raw.startswith('3,"a stray one\n')


def test_a_quote_opened_on_the_last_line_took_in_nothing(tmp_path: Path) -> None:
    corpus = read_corpus(table(tmp_path / "x.csv", 3, row_3='3,"cut off'))
    assert corpus.failures[0].reason.endswith("the quote opened on line 4 is never closed")


def test_a_cell_that_is_too_long_is_told_from_a_quote_that_is_not_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MAX_CELL_CHARS", 100)
    corpus = read_corpus(table(tmp_path / "x.csv", 40, row_3='3,"a stray one', row_39=f"39,{'x' * 101}"))
    first, *others = corpus.failures
    assert "the quote opened on line 4 is not closed within 100 characters and took in 4 lines" in first.reason
    assert [f.reason for f in others] == ["not a row of the table: a cell is longer than 100 characters"]


def test_a_header_whose_quote_is_never_closed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('id,"text\n1,a\n2,b\n', encoding="utf-8")
    with pytest.raises(InputError, match="the quote opened on line 1 is never closed and took in 2 lines"):
        read_corpus(path)
