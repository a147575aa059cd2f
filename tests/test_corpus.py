"""Files, stdin and the Hub to corpora (text/corpus.py, text/readers.py)."""

import gc
import gzip
import hashlib
import io
import json
import sys
import tracemalloc
from functools import partial
from pathlib import Path

import pytest

from corpus_files import ROWS, WRITERS, as_jsonl, contents, put
from facsynth.errors import InputError, SettingsError
from facsynth.records import Message, Sample
from facsynth.text import FORMS, Corpus, Fields, read_corpus, to_row

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture
def write(tmp_path):
    return partial(put, tmp_path)


@pytest.fixture
def feed_stdin(monkeypatch):
    return lambda content: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


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


def test_a_local_file_wins_over_a_hub_id(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "seed").write_text("x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="data/seed has no known ending\nKnown: .jsonl, .json, .csv, .tsv, .parquet"):
        read_corpus("data/seed")


def test_invalid_utf8_in_plain_lines_costs_its_line_only(feed_stdin):
    feed_stdin(b"first\ncaf\xe9\nlast\n")
    corpus = read_corpus("-")
    assert [sample.text for sample in corpus] == ["first", "last"]
    assert [failure.where for failure in corpus.failures] == ["stdin, line 2"]


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


def test_a_sample_knows_the_line_it_was_read_from(write):
    path = write("x.jsonl", b"broken\n" + as_jsonl(ROWS))
    assert [sample.where for sample in read_corpus(path)] == [f"{path}, line {n}" for n in (2, 3, 4)]


def test_limit_counts_samples_and_stops_reading(write):
    path = write("x.jsonl", b"broken\n" + as_jsonl(ROWS) + b"broken\n")
    corpus = read_corpus(path, form="chat", limit=2)
    assert (len(corpus), corpus.n_failures) == (2, 1)
    assert contents(corpus) == [list(row.values()) for row in ROWS[:2]]


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
