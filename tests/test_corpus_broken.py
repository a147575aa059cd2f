"""Broken rows are failures with their place and reason; a source without one usable row is an error that says why."""

import gzip
import io
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpus_files import ROWS, as_jsonl, as_parquet, contents, put
from facsynth.errors import InputError, SettingsError
from facsynth.text import Fields, read_corpus


@pytest.fixture
def write(tmp_path):
    return partial(put, tmp_path)


@pytest.mark.parametrize("source", ["hf:nobody-here/nothing", "hf:nobody-here/nothing:main@test"])
def test_a_data_set_that_cannot_be_reached_says_so(source):
    with pytest.raises(InputError, match="data set nobody-here/nothing cannot be read\n"):
        read_corpus(source)


@pytest.mark.parametrize("source", ["hf:not an id", "gone.jsonl", "gone", "data/gone.csv.gz", "runs/gone"])
def test_a_source_that_is_not_there_is_an_error_with_its_name(source):
    with pytest.raises(InputError, match=source):
        read_corpus(source)


def test_broken_rows_are_failures_with_line_and_reason_and_reading_goes_on(write):
    lines = [
        b'{"text": "first"}',
        b'{"text": "cut',
        b"",
        b'{"text": "caf\xe9"}',
        b'{"text": ""}',
        b'{"text": 5}',
        b'"no object"',
        b'{"body": "other"}',
        b"[" * 100_000,
        b'{"text": "nul \\u0000 and \\ud800"}',
        b'{"text": "last"}',
    ]
    path = write("broken.jsonl", b"\n".join(lines))
    corpus = read_corpus(path)
    assert [sample.text for sample in corpus] == ["first", "nul  and \ufffd", "last"]
    assert corpus.n_repaired == 1
    assert [failure.where.removeprefix(f"{path}, line ") for failure in corpus.failures] == ["2", *"456789"]
    reasons = ["not JSON", "not UTF-8", "empty", "a number", "a string, not an object", "body", "nested too deeply"]
    for failure, reason in zip(corpus.failures, reasons, strict=True):
        assert reason in failure.reason
        assert len(failure.raw) <= 200
    assert corpus.failures[0].raw == '{"text": "cut'
    assert corpus.n_failures == 7
    assert repr(corpus).startswith("Corpus(3 samples of form message, 7 failures")


def test_broken_table_rows_are_failures_with_line_and_reason_and_reading_goes_on(write):
    table = b'text,n\nfirst,1\n"two\nlines",2\nthree,cells,3\none\ncaf\xe9,4\n"a"b,5\n\nlast,6\n"open,7\n'
    corpus = read_corpus(write("broken.csv", table))
    assert [sample.text for sample in corpus] == ["first", "two\nlines", "last"]
    found = [(failure.where.rsplit(" ")[-1], failure.reason.split(":")[0]) for failure in corpus.failures]
    assert found == [
        ("5", "3 cells, the header has 2"),
        ("6", "1 cells, the header has 2"),
        ("7", "not UTF-8"),
        ("8", "not a row of the table"),
        ("11", "not a row of the table"),
    ]


def test_an_invalid_cell_of_parquet_costs_its_row_only(write):
    raw = pa.array([b"first", b"caf\xe9", b"last"], pa.binary())
    texts = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), sink)
    corpus = read_corpus(write("x.parquet", sink.getvalue()))
    assert [sample.text for sample in corpus] == ["first", "last"]
    assert "row 2" in corpus.failures[0].where
    assert "not UTF-8" in corpus.failures[0].reason


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b"", "is empty"),
        ("x.jsonl", b"\n \n", "is empty"),
        ("x.json", b"", "is empty"),
        ("x.json", b"[]", "is empty"),
        ("x.csv", b"text,n\n", "is empty"),
        ("x.jsonl.gz", gzip.compress(b"", mtime=0), "is empty"),
        ("x.parquet", as_parquet([{"text": "x"}])[:-9], "not parquet"),
        ("x.parquet", b"", "not parquet"),
        ("x.jsonl.gz", gzip.compress(as_jsonl(ROWS), mtime=0)[:-12], "cut short or damaged"),
        ("x.json", b'[{"text": "a"}, {"te', "is not JSON"),
        ("x.json", b'[{"text": "caf\xe9"}]', "is not UTF-8"),
        ("x.json", b'{"a": [1], "b": [2]}', "object with 2 arrays: a, b"),
        ("x.json", b'{"text": ["a", "b"], "n": [1]}', "whose text is a list of texts, but not every .*\n.*a row"),
        ("x.json", b'{"text": ["a", "b"], "n": 1}', "whose text is a list of texts, but not every"),
        ("x.json", b'{"body": ["a", "b"], "n": [1, 2]}', "item 1: no known layout; the fields are body, n"),
        ("x.jsonl", b'{"text": ["a", "b"]}', "is a list of 2 texts, not a text\n.*is named .json"),
        ("x.jsonl", b'[{"text": "a"}, {"text": "b"}]', "an array, not an object: .* is named .json"),
        ("x.jsonl", b'[\n{"text": "a"},\n{"text": "b"},\n]', "line 1: not JSON: .* is named .json"),
        ("x.jsonl", b'{\n"text": "a"\n}\n', "line 1: not JSON: .* is named .json"),
        ("x.json", b"3", "neither an array nor an object"),
        ("x.json", b"[" * 100_000, "nested too deeply"),
        ("x.jsonl", '{"text": "a"}\n'.encode("utf-16"), "none of the 2 rows .*\n.*not UTF-8"),
        ("x.csv", "text,n\na,1\n".encode("utf-16"), "not UTF-8"),
        ("x.csv", b"a,a\n1,2\n", "two columns of the name 'a'"),
        ("x.csv", b'"a"b\n1\n', "is not the header"),
        ("x.txt", b"hello", "no known ending\nKnown: .jsonl"),
        ("x.jsonl", b"broken\n{}\n", "none of the 2 rows .*\n.*no known layout; the fields are none"),
        ("x.jsonl", b'{"body": "a", "n": 1}\n', "line 1: no known layout; the fields are body, n\n.*\n.*--text-field"),
        ("x.jsonl", b'{"text": " "}\n', "none of the 1 rows .*\n.* empty\nMend"),
    ],
)
def test_a_file_without_one_usable_row_is_an_error_that_says_what_was_found(write, name, content, message):
    with pytest.raises(InputError, match=message):
        read_corpus(write(name, content))


def test_a_row_nested_too_deeply_is_one_broken_row(write):
    call = {"name": "look", "of": 1}
    for _ in range(700):
        call = {"of": call}
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [call]}]}] * 2
    rows[0] = {"messages": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "x"}]}
    corpus = read_corpus(write("x.jsonl", as_jsonl(rows)), form="chat")
    (failure,) = corpus.failures
    assert (len(corpus), failure.where.endswith("line 2")) == (1, True)
    assert "nested too deeply" in failure.reason
    assert failure.raw.startswith('{"messages": ')


def test_a_name_of_a_user_who_is_not_there_or_of_no_letters_is_no_file():
    with pytest.raises(InputError, match="there is no file ~nosuchuser/x.jsonl"):
        read_corpus("~nosuchuser/x.jsonl")
    with pytest.raises(InputError, match="the name of a file is empty\nName a file"):
        read_corpus("")


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(InputError, match="is a folder\nName the file in it"):
        read_corpus(tmp_path)


def test_a_form_no_row_has_the_part_for_names_the_way_out(write):
    with pytest.raises(
        InputError, match="form chat needs a turn of the assistant, the row has user\n.*--completion-field"
    ):
        read_corpus(write("x.jsonl", b'{"prompt": "a", "reply": "b"}'), form="chat")


def test_a_named_field_that_no_row_has_names_the_fields_that_are_there(write):
    path = write("x.jsonl", b'{"body": "a", "id": 1}\n{"body": "b", "id": 2}\n')
    assert contents(read_corpus(path, fields=Fields(text="body"))) == [["a"], ["b"]]
    with pytest.raises(InputError, match="no field 'boddy'; the fields are body, id\n.*--text-field"):
        read_corpus(path, fields=Fields(text="boddy"))


def test_unknown_forms_and_limits_are_refused(write):
    path = write("x.jsonl", as_jsonl(ROWS))
    with pytest.raises(SettingsError, match="no form 'chats'"):
        read_corpus(path, form="chats")
    with pytest.raises(SettingsError, match="limit is 0"):
        read_corpus(path, limit=0)


def test_a_file_changed_between_two_readings_is_an_error(write):
    corpus = read_corpus(write("x.jsonl", as_jsonl(ROWS)))
    write("x.jsonl", as_jsonl(ROWS[:2]))
    with pytest.raises(InputError, match="was changed while it was in use"):
        list(corpus)
