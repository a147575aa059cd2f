"""Files, stdin and the Hub to corpora (text/corpus.py, text/readers.py)."""

import csv
import gc
import gzip
import hashlib
import io
import json
import sys
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facsynth.errors import InputError, SettingsError
from facsynth.records import Message, Sample
from facsynth.text import FORMS, Corpus, Fields, read_corpus, to_row

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"

ROWS = [
    {"prompt": "Why is the sky blue?", "completion": "Light scatters."},
    {"prompt": "Say “é”,\nor \u2028 \x85 \U0001f600,\r\nand\ttab", "completion": "\"é\", 'quoted'"},
    {"prompt": "Count", "completion": "1,2;3"},
]


def as_jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_table(rows, delimiter):
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, rows[0].keys(), delimiter=delimiter)
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode()


def as_parquet(rows):
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


WRITERS = {
    "jsonl": as_jsonl,
    "json": lambda rows: json.dumps(rows, indent=1).encode(),
    "wrapped.json": lambda rows: json.dumps({"version": 1, "data": rows}).encode(),
    "lines.json": as_jsonl,
    "bom.jsonl": lambda rows: b"\xef\xbb\xbf" + as_jsonl(rows),
    "crlf.jsonl": lambda rows: as_jsonl(rows).replace(b"\n", b"\r\n\r\n"),
    "csv": lambda rows: as_table(rows, ","),
    "bom.csv": lambda rows: b"\xef\xbb\xbf" + as_table(rows, ","),
    "tsv": lambda rows: as_table(rows, "\t"),
    "parquet": as_parquet,
}


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def feed_stdin(monkeypatch):
    return lambda content: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def contents(corpus):
    return [[m.content for m in sample.messages] for sample in corpus]


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_of_file_plain_and_gz_has_the_same_samples_and_fingerprint(write, kind, compressed):
    content = WRITERS[kind](ROWS)
    path = write(f"x.{kind}.gz", gzip.compress(content)) if compressed else write(f"x.{kind}", content)
    corpus = read_corpus(path, form="chat")
    assert contents(corpus) == [list(row.values()) for row in ROWS]
    assert contents(corpus) == contents(corpus)
    ids = "".join(sample.sample_id for sample in corpus)
    assert corpus.fingerprint == hashlib.sha256(ids.encode()).hexdigest()
    assert (len(corpus), corpus.n_samples, corpus.n_failures, corpus.n_repaired) == (3, 3, 0, 0)


def test_content_order_and_form_decide_the_fingerprint_and_the_path_does_not(write):
    one = write("one.jsonl", as_jsonl(ROWS))
    two = write("two.jsonl", as_jsonl(ROWS))
    turned = write("turned.jsonl", as_jsonl(ROWS[::-1]))
    fingerprints = [read_corpus(path, form="chat").fingerprint for path in (one, two, turned)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
    assert read_corpus(one, form="message").fingerprint != fingerprints[0]


def test_gzip_is_known_by_content_not_by_name(write):
    packed = read_corpus(write("packed.jsonl", gzip.compress(as_jsonl(ROWS))))
    plain = read_corpus(write("plain.jsonl.gz", as_jsonl(ROWS)))
    assert packed.fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (json.dumps([{"text": "a"}, {"text": "b"}], indent=2), ["a", "b"]),
        ('\n{"text": "a"}\n{"text": "b"}\n', ["a", "b"]),
        ('{broken\n{"text": "b"}\n', ["b"]),
        ("[INST] plain\n\n{text}\r\nlast", ["[INST] plain", "{text}", "last"]),
    ],
)
def test_stdin_is_a_json_array_or_jsonl_or_a_text_a_line_and_can_be_walked_twice(feed_stdin, content, found):
    for packed in (content.encode(), gzip.compress(content.encode())):
        feed_stdin(packed)
        corpus = read_corpus("-")
        assert [sample.text for sample in corpus] == found
        assert [sample.text for sample in corpus] == found


def test_a_hub_data_set_is_read_through_datasets_and_its_failures_are_rows(tmp_path, monkeypatch):
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_bytes(as_jsonl([*ROWS, {"prompt": "", "completion": "x"}]))
    monkeypatch.chdir(tmp_path)  # `datasets` looks there before it looks on the Hub
    corpus = read_corpus("hf:owner/name@train", form="chat")
    assert contents(corpus) == [list(row.values()) for row in ROWS]
    assert [failure.where for failure in corpus.failures] == ["hf:owner/name@train, row 4"]
    assert corpus.licence is None


@pytest.mark.parametrize(
    "source", ["hf:nobody-here/nothing", "nobody-here/nothing", "hf:nobody-here/nothing:main@test"]
)
def test_a_data_set_that_cannot_be_reached_says_so(source):
    with pytest.raises(InputError, match="data set nobody-here/nothing cannot be read, and there is no such file"):
        read_corpus(source)


def test_a_local_file_wins_over_a_hub_id(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "seed").write_text("x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="data/seed has no known ending\nKnown: .jsonl, .json, .csv, .tsv, .parquet"):
        read_corpus("data/seed")


@pytest.mark.parametrize("source", ["hf:not an id", "gone.jsonl", "gone", "data/gone.csv.gz"])
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


def test_invalid_utf8_in_plain_lines_costs_its_line_only(feed_stdin):
    feed_stdin(b"first\ncaf\xe9\nlast\n")
    corpus = read_corpus("-")
    assert [sample.text for sample in corpus] == ["first", "last"]
    assert [failure.where for failure in corpus.failures] == ["stdin, line 2"]


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


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"text": ["a", "b", "c"]}, [["a"], ["b"], ["c"]]),
        ({"text": ["a"]}, [["a"]]),
        ({"id": [1, 2], "prompt": ["a", "b"], "completion": ["x", None]}, [["a"], ["b"]]),
        ({"messages": [[{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]]}, [["a"], ["b"]]),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], "tags": ["x", "y"]},
         [["a", "b"]]),
    ],
)  # fmt: skip
def test_a_json_object_of_columns_is_read_as_rows_and_one_row_as_itself(write, columns, found):
    assert contents(read_corpus(write("x.json", json.dumps(columns)))) == found


def test_columns_of_another_layout_are_read_by_their_named_field(write):
    path = write("x.json", json.dumps({"body": ["a", "b"], "n": [1, 2]}))
    assert contents(read_corpus(path, fields=Fields(text="body"))) == [["a"], ["b"]]


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


def test_a_sample_knows_the_line_it_was_read_from(write):
    path = write("x.jsonl", b"broken\n" + as_jsonl(ROWS))
    assert [sample.where for sample in read_corpus(path)] == [f"{path}, line {n}" for n in (2, 3, 4)]


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


def test_limit_counts_samples_and_stops_reading(write):
    path = write("x.jsonl", b"broken\n" + as_jsonl(ROWS) + b"broken\n")
    corpus = read_corpus(path, form="chat", limit=2)
    assert (len(corpus), corpus.n_failures) == (2, 1)
    assert contents(corpus) == [list(row.values()) for row in ROWS[:2]]


def test_a_file_changed_between_two_readings_is_an_error(write):
    corpus = read_corpus(write("x.jsonl", as_jsonl(ROWS)))
    write("x.jsonl", as_jsonl(ROWS[:2]))
    with pytest.raises(InputError, match="was changed while it was in use"):
        list(corpus)


def test_a_long_cell_is_read_whole(write):
    rows = [{"text": "long " * 40_000}]
    for kind in ("csv", "jsonl"):
        (sample,) = read_corpus(write(f"x.{kind}", WRITERS[kind](rows)))
        assert len(sample.text) == 200_000


def test_samples_in_memory_are_a_corpus_of_the_same_fingerprint(write):
    corpus = read_corpus(write("x.jsonl", as_jsonl(ROWS)), form="chat")
    held = Corpus.of(list(corpus), name="held", form="chat")
    assert (held.fingerprint, len(held), list(held)) == (corpus.fingerprint, 3, list(corpus))
    assert len(Corpus.of([])) == 0


def test_joined_corpora_are_as_one_file(write):
    parts = [
        read_corpus(write(f"{i}.jsonl", as_jsonl(rows) + b"broken\n")) for i, rows in enumerate([ROWS[:1], ROWS[1:]])
    ]
    joined = Corpus.join(parts, name="both")
    assert joined.fingerprint == read_corpus(write("x.jsonl", as_jsonl(ROWS))).fingerprint
    assert (joined.name, len(joined), joined.n_failures, len(list(joined))) == ("both", 3, 2, 3)
    with pytest.raises(SettingsError, match="forms chat, message"):
        Corpus.join([parts[0], Corpus.of([], form="chat")])


def test_samples_written_in_a_form_read_back_to_the_same_fingerprint(write):
    messages = (Message("user", "Why?\u2028"), Message("assistant", "So.\x85"))
    for form in FORMS:
        cut = {"message": messages[:1], "text": (Message("text", "Why?\u2028"),)}.get(form, messages)
        sample = Sample(cut)
        written = read_corpus(write("x.jsonl", as_jsonl([to_row(sample, form)] * 2)), form=form)
        assert written.fingerprint == Corpus.of([sample] * 2, form=form).fingerprint


def test_progress_is_told_every_thousand_rows(write):
    told = []
    path = write("x.jsonl", as_jsonl(ROWS[:1] * 2500))
    read_corpus(path, progress=lambda *args: told.append(args))
    assert told == [(f"read {path}", 1000, None), (f"read {path}", 2000, None)]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_memory_does_not_grow_with_the_corpus(write, kind):
    peaks = []
    for n_rows in (150, 750):
        path = write(
            f"x.{kind}.gz", gzip.compress(WRITERS[kind]([{"text": f"{i:05} " * 400} for i in range(n_rows)]), 1)
        )
        gc.collect()
        tracemalloc.start()
        corpus = read_corpus(path)
        assert sum(1 for _ in corpus) == n_rows
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 500_000  # buffers, and what other threads take; the texts themselves grow by 1.4 MB


REAL = {
    "instruction/alpaca_en_demo": (996, ("message", "chat", "text")),
    "instruction/gsm8k_train": (7473, ("message", "chat")),
    "instruction/self_instruct_seed_tasks": (173, ("message", "chat")),
    "instruction/user_oriented_instructions": (126, ("message", "chat")),
    "reward/hh_harmless_base_train": (1444, ("message",)),
    "reward/dpo_en_demo": (294, ("message", "preference")),
    "steering/sycophancy_train": (900, ("message", "ab")),
    "text/t0_prompts": (9004, ("chat",)),
}


@pytest.mark.parametrize("name", REAL)
def test_real_data_reads_without_one_failure(name):
    path = DATA / f"{name}.jsonl.gz"
    if not path.exists():
        pytest.skip(f"no {path}")
    n_rows, forms = REAL[name]
    for form in forms:
        corpus = read_corpus(path, form=form)
        assert (len(corpus), corpus.failures, corpus.n_repaired) == (n_rows, (), 0)


def test_real_preferences_without_a_chosen_reply_are_the_only_failures():
    path = DATA / "reward" / "hh_harmless_base_train.jsonl.gz"
    if not path.exists():
        pytest.skip(f"no {path}")
    corpus = read_corpus(path, form="preference")
    assert (len(corpus), corpus.n_failures) == (1440, 4)
    assert all("assistant turn" in failure.reason and "empty" in failure.reason for failure in corpus.failures)
    assert all(sample.messages[-1].role == "assistant" for sample in corpus)
