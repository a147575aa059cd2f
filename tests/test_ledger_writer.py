"""Resuming: whatever interrupts the writing, and however often, the replies end up the same."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facsynth.errors import InputError, ModelError
from facsynth.llm import Ledger, LedgerWriter, ScriptedWriter
from facsynth.records import Message, Reply, Request


def request(name: object, index: int = 0) -> Request:
    return Request((Message("user", f"{name}"),), 16, 1.0, 1.0, rng_seed=0, sample_index=index)


def name_of(asked: Request) -> str:
    return asked.messages[0].content


class BatchWriter:
    """Like local writing: every reply depends on the whole batch. Ends the process, so to say, at one call."""

    identity = "batch"

    def __init__(self, batch_size: int, stop_at: int = -1) -> None:
        self.batch_size = batch_size
        self.stop_at = stop_at
        self.batches: list[str] = []

    def write(self, requests: Sequence[Request]) -> list[Reply]:
        if len(self.batches) == self.stop_at:
            raise KeyboardInterrupt
        batch = "".join(map(name_of, requests))
        self.batches.append(batch)
        return [Reply(f"{name_of(one)} of {batch}", "stop", 1, 3, 0.0) for one in requests]


def write_all(path, writer, calls: Sequence[str], **options) -> list[list[str]]:
    with Ledger.open(path) as ledger:
        through = LedgerWriter(writer, ledger, **options)
        return [[reply.text for reply in through.write([request(name) for name in call])] for call in calls]


names = st.lists(st.sampled_from("abcdefghij"), unique=True, max_size=10).map("".join)


@settings(max_examples=15, deadline=None)
@given(calls=st.lists(names, min_size=1, max_size=3), size=st.integers(1, 4), stops=st.lists(st.integers(0, 3)))
def test_any_interruptions_end_in_the_replies_of_an_unbroken_run(tmp_path_factory, calls, size, stops):
    folder = tmp_path_factory.mktemp("l")
    unbroken = BatchWriter(size)
    expected = write_all(folder / "unbroken.sqlite", unbroken, calls)
    written = []
    for stop_at in [*stops, -1]:
        writer = BatchWriter(size, stop_at)
        try:
            found = write_all(folder / "broken.sqlite", writer, calls)
        except KeyboardInterrupt:
            found = None
        written += writer.batches
        if found is not None:
            assert found == expected
    assert written == unbroken.batches  # the same batches in the same order, none of them twice
    with Ledger.open(folder / "unbroken.sqlite") as one, Ledger.open(folder / "broken.sqlite") as two:
        assert list(one.recorded()) == list(two.recorded())
        assert one.totals() == two.totals()


def test_batches_are_cut_in_the_given_order(tmp_path):
    writer = BatchWriter(3)
    assert write_all(tmp_path / "l", writer, ["abcdefg"]) == [
        ["a of abc", "b of abc", "c of abc", "d of def", "e of def", "f of def", "g of g"]
    ]
    assert writer.batches == ["abc", "def", "g"]


def test_a_batch_with_anything_unanswered_is_written_whole_and_its_recorded_replies_stay(tmp_path):
    writer = BatchWriter(2)
    assert write_all(tmp_path / "l", writer, ["ab", "ac"]) == [["a of ab", "b of ab"], ["a of ab", "c of ac"]]
    assert writer.batches == ["ab", "ac"]
    assert write_all(tmp_path / "l", BatchWriter(2, stop_at=0), ["ab", "ac", "cb"])[2] == ["c of ac", "b of ab"]


def test_the_same_request_in_two_runs_is_answered_once(tmp_path):
    script = ["one", "two"]
    first = write_all(tmp_path / "l", ScriptedWriter(script), ["ab"])
    second = ScriptedWriter(["other"] * 2)
    assert write_all(tmp_path / "l", second, ["ab"]) == first == [script]
    assert second.history == []


def test_another_writer_is_asked_again(tmp_path):
    write_all(tmp_path / "l", ScriptedWriter(["one"], identity="model-1"), ["a"])
    assert write_all(tmp_path / "l", ScriptedWriter(["two"], identity="model-2"), ["a"]) == [["two"]]


def test_samples_of_one_request_differ_by_index_and_duplicates_are_refused_before_any_writing(tmp_path):
    scripted = ScriptedWriter(["one", "two"])
    with Ledger.open(tmp_path / "l") as ledger:
        writer = LedgerWriter(scripted, ledger)
        with pytest.raises(InputError, match="came twice in one call: sample_index 1, .*'a'"):
            writer.write([request("a", 0), request("a", 1), request("a", 1)])
        assert (scripted.history, ledger.totals().calls) == ([], 0)
        assert [reply.text for reply in writer.write([request("a", 0), request("a", 1)])] == ["one", "two"]


def test_a_failed_reply_is_kept_as_a_failure(tmp_path):
    failed = Reply("", "error", 4, 0, 0.5, error="refused: no", raw={"status": 400})
    with Ledger.open(tmp_path / "l") as ledger:
        for script in ([failed, "fine"], []):
            replies = LedgerWriter(ScriptedWriter(script), ledger).write([request("a"), request("b")])
            assert replies[0] == replace(failed, raw={})
            assert replies[1].text == "fine"
        assert (ledger.totals().answered, ledger.totals().failed) == (1, 1)


def test_intents_are_there_before_the_writer_is_asked_and_stay_when_it_fails(tmp_path):
    seen = []
    with Ledger.open(tmp_path / "l") as ledger:

        def answer(asked: Request) -> str:
            seen.append(ledger.totals().unsettled)
            raise ModelError("out of memory")

        with pytest.raises(ModelError, match="out of memory"):
            LedgerWriter(ScriptedWriter(answer, batch_size=2), ledger).write([request(name) for name in "abc"])
        assert seen == [2]
        assert ledger.totals().unsettled == 2


def test_a_writer_that_loses_a_reply_is_named_and_nothing_is_stored(tmp_path):
    class Lossy(BatchWriter):
        def write(self, requests):
            return super().write(requests)[1:]

    with Ledger.open(tmp_path / "l") as ledger:
        with pytest.raises(ModelError, match="the writer batch was asked for 3 replies and gave 2"):
            LedgerWriter(Lossy(4), ledger).write([request(name) for name in "abc"])
        assert ledger.totals().unsettled == 3


def test_progress_counts_requests_done_also_those_from_the_ledger(tmp_path):
    steps = []
    for _ in range(2):
        write_all(tmp_path / "l", BatchWriter(2), ["abcde"], progress=lambda *step: steps.append(step))
    assert steps == 2 * [("writing", 0, 5), ("writing", 2, 5), ("writing", 4, 5), ("writing", 5, 5)]


def test_no_requests_are_no_replies(tmp_path):
    assert write_all(tmp_path / "l", BatchWriter(2), [""]) == [[]]


CHILD = """
import sys, time
from pathlib import Path
from facsynth.llm import Ledger, LedgerWriter
from facsynth.records import Message, Reply, Request

class Slow:
    identity, batch_size = "slow", 3
    def write(self, requests):
        batch = "-".join(r.messages[0].content for r in requests)
        print(batch, flush=True)
        time.sleep(0.004)
        return [Reply(r.messages[0].content + " of " + batch, "stop", 1, 3, 0.0) for r in requests]

with Ledger.open(Path(sys.argv[1])) as ledger:
    print("open", flush=True)
    LedgerWriter(Slow(), ledger).write([Request((Message("user", str(n)),), 8, 1.0, 1.0, 0) for n in range(100)])
"""


def test_a_run_killed_with_sigkill_at_any_moment_goes_on_and_ends_the_same(tmp_path):
    path, rng, written, killed = tmp_path / "ledger.sqlite", random.Random(3), [], 0
    for delay in [*(rng.uniform(0.0, 0.08) for _ in range(5)), None]:
        process = subprocess.Popen([sys.executable, "-c", CHILD, path], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "open\n"
        if delay is not None:
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        output, _ = process.communicate()
        killed += process.returncode == -signal.SIGKILL
        written += output.split()
    assert process.returncode == 0
    assert killed >= 2
    batches = ["-".join(map(str, range(start, min(start + 3, 100)))) for start in range(0, 100, 3)]
    assert list(dict.fromkeys(written)) == batches
    assert len(written) <= len(batches) + killed  # a kill loses the batch in flight at most
    with Ledger.open(path) as ledger:
        found = {call.request["messages"][0][1]: call.reply.text for call in ledger.recorded()}
        assert ledger.totals().unsettled == 0
    assert found == {name: f"{name} of {batch}" for batch in batches for name in batch.split("-")}
    assert [file.name for file in tmp_path.iterdir()] == ["ledger.sqlite"]
