"""What reaches a terminal or a program: texts of corpora cannot steer the one and cannot break the other."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facsynth.cli.console import print_json, print_table

TEXTS = st.text(st.characters(), max_size=20)
"""Of any characters, lone surrogates among them."""
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def printed(value: Any, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    print_json(value)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "sign", ["\x00", "\x1b", "\x7f", "\x9b", "\u200b", "\u2028", "\u202e", "\u2066", "\ufeff", "\ud800", "\U000e0041"]
)
def test_signs_that_steer_a_terminal_are_escaped_in_json(sign: str, capsys: pytest.CaptureFixture[str]) -> None:
    value = {f"key{sign}": [f"before{sign}[2Jafter"]}
    out = printed(value, capsys)
    assert sign not in out
    assert json.loads(out) == value


def test_letters_and_signs_of_any_script_stay_readable_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    text = "Größe, чайник, 湯, مرحبا, नमस्ते, 🙂, „…“ – °"
    out = printed({"text": text}, capsys)
    assert text in out
    assert json.loads(out) == {"text": text}


@given(value=VALUES)
def test_any_value_comes_back_equal_from_its_json(value: Any) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        print_json(value)
    assert json.loads(out.getvalue()) == value
    assert all(character.isprintable() or character == "\n" for character in out.getvalue())


def test_a_table_that_needs_more_than_80_columns_is_not_cropped(capsys: pytest.CaptureFixture[str]) -> None:
    row = ("shuffled-spans", "1,500", "0.438", "0.372-0.523", "-0.003", "-0.012 to +0.007", "1.000")
    print_table("table", ("method", "samples", "mean", "95 %", "change", "95 %", "p"), [row, row])
    lines = capsys.readouterr().out.splitlines()
    assert sum(all(cell in line for cell in row) for line in lines) == 2, lines


def test_on_a_narrow_terminal_words_are_broken_and_figures_are_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    row = ("shuffled-spans", "0.438", "0.372-0.523", "-0.003", "-0.012 to +0.007", "1.000")
    print_table("table", ("method", "mean", "95 %", "change", "95 %", "p"), [row])
    out = capsys.readouterr().out
    assert all(cell in out for cell in row[1:]) and row[0] not in out, out


def test_a_terminal_that_is_too_narrow_for_all_columns_loses_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    row = ("plain", "5", "1", "0.382", "0.28 to 0.52", "+0.020", "-0.012 to +0.052", "0.657")
    print_table("table", ("method", "samples", "positive", "mean", "95 %", "change", "95 %", "p"), [row])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == " ".join(row).split() for line in lines), lines
