"""The table: what goes in comes out, what is settled stays, and every bad file is named."""

import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facsynth.errors import InputError, MismatchError, StorageError
from facsynth.llm.budget import Amount
from facsynth.llm.ledger import LEDGER_SCHEMA, Intent, Ledger, Settled, Totals, key_of
from facsynth.records import Message, Reply, Request


def request(text: str = "Write one message.", index: int = 0, **other) -> Request:
    fields = {"max_tokens": 64, "temperature": 0.8, "top_p": 0.95, "rng_seed": 1, **other}
    return Request((Message("user", text),), sample_index=index, **fields)


def reply(text: str = "hello", **other) -> Reply:
    fields = {"finish_reason": "stop", "prompt_tokens": 5, "written_tokens": 2, "latency_s": 0.1, **other}
    return Reply(text, **fields)


def store(ledger: Ledger, *pairs: tuple[Request, Reply], writer: str = "w") -> None:
    ledger.record([Intent(key_of(writer, asked), writer, asked) for asked, _ in pairs])
    ledger.record(settled=[Settled(key_of(writer, asked), answer) for asked, answer in pairs])


texts = st.text(alphabet=st.characters(exclude_categories=()))  # lone surrogates and NUL among them


@settings(max_examples=20, deadline=None)
@given(
    text=texts,
    prompt=texts,
    error=texts,
    seconds=st.floats(0, 1e9),
    raw=st.dictionaries(texts, st.none() | st.integers() | texts | st.lists(texts)),
)
def test_any_reply_comes_back_as_it_was(tmp_path_factory, text, prompt, error, seconds, raw):
    asked = request(prompt, steering=((7, 0.4),), prefix=text)
    answer = reply(text, error=error, latency_s=seconds, raw=raw)
    path = tmp_path_factory.mktemp("l") / "ledger.sqlite"
    with Ledger.open(path) as ledger:
        store(ledger, (asked, answer))
    with Ledger.open(path) as ledger:
        assert ledger.lookup([key_of("w", asked)], raw=True) == {key_of("w", asked): answer}
        (call,) = ledger.recorded()
        assert call.reply == answer
        assert call.request["messages"] == [["user", prompt]]
        assert call.request["prefix"] == text


def test_a_key_depends_on_everything_the_reply_depends_on():
    asked = [
        request(),
        request("Another."),
        request(index=1),
        request(max_tokens=65),
        request(temperature=0.7),
        request(top_p=0.9),
        request(rng_seed=2),
        request(steering=((3, 0.4),)),
        request(prefix="Sure"),
    ]
    assert len({key_of(writer, one) for writer in ("w", "v") for one in asked}) == 2 * len(asked)
    assert key_of("w", request()) == key_of("w", request())


def test_an_intent_is_no_answer_and_is_counted_as_unsettled(tmp_path):
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        key = key_of("w", request())
        ledger.record([Intent(key, "w", request())])
        assert ledger.lookup([key]) == {}
        assert list(ledger.recorded()) == []
        assert ledger.totals() == Totals(1, 0, 0, 1, 0, 0, 0, 0.0, 0.0)


def test_the_first_settled_reply_is_final_a_failed_one_too(tmp_path):
    failed = reply("", finish_reason="error", error="timeout: no answer after 60 s")
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        store(ledger, (request(), reply("first")), (request(index=1), failed))
        store(ledger, (request(), reply("second")), (request(index=1), reply("third")))
        keys = [key_of("w", request(index=index)) for index in (0, 1)]
        assert list(ledger.lookup(keys).values()) == [reply("first"), failed]


def test_what_was_reserved_is_spent_until_it_is_settled_or_spared(tmp_path):
    path, ask = tmp_path / "ledger.sqlite", [request(index=n) for n in range(4)]
    keys = [key_of("w", one) for one in ask]
    intents = [Intent(key, "w", one, reserved=Amount(1, 100, 0.5)) for key, one in zip(keys, ask, strict=True)]
    with Ledger.open(path) as ledger:
        ledger.record(intents)
        assert ledger.spent() == Amount(4, 400, 2.0)
        ledger.record(settled=[Settled(keys[0], reply(), 0.1)], spared=[keys[1]])
        assert ledger.spent() == Amount(3, 7 + 200, 1.1)
        ledger.record(
            settled=[Settled(keys[2], reply(error="timeout: no", prompt_tokens=0, written_tokens=0), is_lost=True)]
        )
        assert ledger.spent() == Amount(3, 7 + 200, 1.1)
    with Ledger.open(path) as ledger:  # keys[3] was cut off by a kill, keys[1] is asked again
        ledger.record([intents[3], intents[1]])
        assert ledger.spent() == Amount(5, 7 + 400, 2.1)
        ledger.record(settled=[Settled(keys[3], reply(), 0.1), Settled(keys[1], reply(), 0.1)])
        assert ledger.spent() == Amount(5, 3 * 7 + 200, pytest.approx(1.3))
        assert ledger.totals() == Totals(4, 3, 1, 0, 15, 6, 200, pytest.approx(0.3), 1.0)
        assert ledger.errors() == {"timeout": 1}


def test_a_role_can_be_left_out_of_what_was_spent(tmp_path):
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        for writer in ("draft:local", "a model"):
            ledger.record([Intent(key_of(writer, request()), writer, request(), reserved=Amount(1, 100, 0.5))])
        assert ledger.spent() == Amount(2, 200, 1.0)
        assert ledger.spent(but="draft:") == Amount(1, 100, 0.5)


def test_totals_add_up(tmp_path):
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.totals() == Totals(0, 0, 0, 0, 0, 0, 0, 0.0, 0.0)
        store(ledger, (request(), reply(latency_s=0.5)), (request(index=1), reply(error="refused", latency_s=0.25)))
        ledger.record([Intent(key_of("w", request(index=2)), "w", request(index=2))])
        assert ledger.totals() == Totals(3, 1, 1, 1, 10, 4, 0, 0.0, 0.0)
        assert ledger.writers() == ["w"]


def test_the_kind_of_an_error_can_be_asked_of_the_table(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path) as ledger:
        store(ledger, (request(), reply(error="timeout: after 60 s")), (request(index=1), reply()))
    database = sqlite3.connect(path)
    rows = database.execute("SELECT state, error_kind FROM calls ORDER BY sample_index").fetchall()
    database.close()
    assert rows == [("failed", "timeout"), ("done", None)]


def test_recorded_calls_come_in_an_order_that_arrival_does_not_change(tmp_path):
    asked = [request(text, index) for text in "abc" for index in (0, 1)]
    orders = []
    for name, order in (("one", asked), ("two", asked[::-1])):
        with Ledger.open(tmp_path / f"{name}.sqlite") as ledger:
            for one in order:
                store(ledger, (one, reply(one.messages[0].content)))
            orders.append(list(ledger.recorded()))
    assert orders[0] == orders[1]
    assert [call.key for call in orders[0]] == sorted(key_of("w", one) for one in asked)


def test_a_closed_ledger_leaves_one_file_and_waits_for_the_disk(tmp_path):
    with Ledger.open(tmp_path / "run" / "ledger.sqlite") as ledger:
        store(ledger, (request(), reply()))
        assert ledger._database._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert ledger._database._connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["ledger.sqlite"]


def test_another_schema_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "ledger.sqlite"
    Ledger.open(path).close()
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {LEDGER_SCHEMA + 1}")
    database.close()
    before = path.read_bytes()
    with pytest.raises(MismatchError, match=f"{path} is a ledger of schema {LEDGER_SCHEMA + 1}.* reads schema"):
        Ledger.open(path)
    assert path.read_bytes() == before


def test_the_sqlite_file_of_somebody_else_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "history.sqlite"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE calls (number)")
    database.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match=f"{path} is an SQLite file, but not a ledger"):
        Ledger.open(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_ledger_is_named_with_the_way_out(tmp_path):
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"these are not the bytes of any database, " * 40)
    with pytest.raises(InputError, match=f"(?s){path} is damaged or not a ledger: .*move it away"):
        Ledger.open(path)


def test_a_damaged_ledger_is_named_whenever_the_damage_is_met(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path) as ledger:
        store(ledger, *((request(index=index), reply("x" * 2000)) for index in range(20)))
    content = path.read_bytes()
    path.write_bytes(content[:8192] + b"\xff" * (len(content) - 8192))
    with Ledger.open(path) as ledger:
        with pytest.raises(InputError, match=f"{path} is damaged"):
            ledger.lookup(key_of("w", request(index=index)) for index in range(20))
        with pytest.raises(InputError, match=f"{path} is damaged"):
            list(ledger.recorded())


def test_a_path_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(StorageError, match=f"{tmp_path} cannot be read and written"):
        Ledger.open(tmp_path)


def test_a_full_disk_is_said_and_what_was_stored_stays(tmp_path):
    path = tmp_path / "ledger.sqlite"
    big = request(index=1)
    with Ledger.open(path) as ledger:
        store(ledger, (request(), reply()))
        ledger._database._connection.execute("PRAGMA max_page_count = 8")  # SQLite's own way to run out of room
        ledger.record([Intent(key_of("w", big), "w", big)])
        with pytest.raises(StorageError, match=f"the disk is full: {path} could not be written"):
            ledger.record(settled=[Settled(key_of("w", big), reply("x" * 100_000))])
        assert ledger.totals() == Totals(2, 1, 0, 1, 5, 2, 0, 0.0, 0.0)
    with Ledger.open(path) as ledger:
        ledger.record(settled=[Settled(key_of("w", big), reply("x" * 100_000))])
        assert ledger.totals().answered == 2


HOLDER = """
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
database.execute("COMMIT")
"""


def hold(path: Path, seconds: float) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, path, str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_waits_its_turn(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path) as ledger:
        begun = time.monotonic()
        with hold(path, 0.3):
            store(ledger, (request(), reply()))
        assert time.monotonic() - begun > 0.25
        assert ledger.totals().answered == 1


def test_a_second_process_that_does_not_let_go_is_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path, wait_s=0.05) as ledger:
        with hold(path, 60) as process:
            with pytest.raises(StorageError, match=f"{path} is in use by another process .waited up to 0.05 s"):
                store(ledger, (request(), reply()))
            assert ledger.totals().calls == 0  # reading goes on
            process.kill()
        store(ledger, (request(), reply()))
        assert ledger.totals().answered == 1


def test_many_processes_may_begin_the_same_ledger_at_once(tmp_path):
    path = tmp_path / "ledger.sqlite"
    code = """
import sys
from pathlib import Path
from facsynth.llm.ledger import Ledger, key_of, Intent, Settled
from facsynth.records import Message, Reply, Request
asked = [Request((Message("user", "a"),), 8, 1.0, 1.0, 0, index) for index in range(5)]
keys = {key_of("w", one): one for one in asked}
with Ledger.open(Path(sys.argv[1])) as ledger:
    for key in keys:
        ledger.record([Intent(key, "w", keys[key])])
        ledger.record(settled=[Settled(key, Reply("b", "stop", 1, 1, 0.0))])
"""
    processes = [subprocess.Popen([sys.executable, "-c", code, path], stderr=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        _, stderr = process.communicate()
        assert process.returncode == 0, stderr
    with Ledger.open(path) as ledger:
        assert ledger.totals() == Totals(5, 5, 0, 0, 5, 5, 0, 0.0, 0.0)
