"""Encoding on Ray: the bytes of one process, whatever dies on the way. A real Ray, on this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
import tiny_ray
from facsynth.errors import FacsynthError, InputError, ModelError, SettingsError
from facsynth.features import encoded as module
from facsynth.features.encode import FeatureSpace
from facsynth.features.encoded import Encoded, encode, settings_of
from facsynth.features.merge import merge_encoded
from facsynth.features.queue import Part
from facsynth.features.ray import on_ray
from facsynth.features.reuse import Known
from facsynth.records import Message, Sample
from facsynth.text.corpus import Corpus
from tiny import StoppedError, chats, files, stop_after
from tiny_encoded import corpus_of
from tiny_ray import runs, until

pytestmark = [
    pytest.mark.slow,
    # Ray Data warns of settings of its own when it makes their defaults.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]
EMPTY = Sample((Message("user", "<|im_end|>"), Message("assistant", "</s>")))
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_model(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def started() -> Iterator[Any]:
    """Ray with two CPUs, for actors of one thread; they find what the tests import."""
    ray = pytest.importorskip("ray")
    n_threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{HERE.parent / 'src'}:{HERE}")
        torch.set_num_threads(1)
        ray.init("local", num_cpus=2, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False)
        yield ray
        ray.shutdown()
        torch.set_num_threads(n_threads)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_SAMPLES", 4)


SAMPLES = [*chats(30), EMPTY, *chats(14, rng_seed=1)]
CORPUS = corpus_of(SAMPLES)


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process leaves of `CORPUS`."""
    folder = tmp_path_factory.mktemp("whole")
    n_threads, n_samples = torch.get_num_threads(), module.SHARD_SAMPLES
    torch.set_num_threads(1)
    module.SHARD_SAMPLES = 4
    encode(CORPUS, tiny_ray.opened(model), folder)
    torch.set_num_threads(n_threads)
    module.SHARD_SAMPLES = n_samples
    return files(folder)


def encode_on_ray(
    open_space: Callable[[], FeatureSpace], out: Path, corpus: Corpus = CORPUS, *, actors: int = 2, **options: Any
) -> Encoded:
    with on_ray(open_space, actors=actors) as (facts, engine):
        return encode(corpus, facts, out, engine=engine, **options)


def test_ray_leaves_the_bytes_of_one_process(
    started: Any, model: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    encode_on_ray(partial(tiny_ray.opened, model), tmp_path)
    assert files(tmp_path) == whole
    assert len([name for name in whole if name.endswith(".parquet")]) == 12 and "profile.npz" in whole
    assert EMPTY.sample_id.encode() in whole["failures.jsonl"]
    assert started.is_initialized(), "a Ray that was there before is left as it was"


def alive(pids: Path) -> list[int]:
    """The processes that left their number in a folder and go on."""
    return [int(path.name) for path in pids.iterdir() if runs(int(path.name))]


def test_a_stopped_run_leaves_no_actors_and_either_engine_goes_on(
    started: Any, model: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out, pids = tmp_path / "out", tmp_path / "pids"
    pids.mkdir()
    with pytest.raises(StoppedError):
        encode_on_ray(partial(tiny_ray.slow, model, pids), out, progress=stop_after(3))
    until(lambda: not alive(pids))
    assert not (out / "manifest.json").exists()
    done = {path: path.stat().st_mtime_ns for path in out.glob("shards/*.parquet")}
    assert len(done) == 3

    with pytest.raises(StoppedError):
        encode(CORPUS, tiny_ray.opened(model), out, progress=stop_after(5))
    encode_on_ray(partial(tiny_ray.opened, model), out)
    assert files(out) == whole
    assert {path: path.stat().st_mtime_ns for path in done} == done, "what is done is not done again"


def test_a_killed_actor_costs_its_shard_only(
    started: Any, model: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out, pids = tmp_path / "out", tmp_path / "pids"
    pids.mkdir()
    killed: list[int] = []

    def progress(what: str, done: int, total: int | None) -> None:
        if len(killed) < 2:
            killed.append(next(pid for pid in alive(pids) if pid not in killed))
            os.kill(killed[-1], signal.SIGKILL)

    encode_on_ray(partial(tiny_ray.slow, model, pids), out, progress=progress)
    assert files(out) == whole
    assert len(set(killed)) == 2
    assert len(list(pids.iterdir())) == 4, "two at first, and one for each that was killed"


def test_a_shard_that_kills_every_actor_ends_the_run_and_costs_no_other_shard(
    started: Any, model: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    worst = SAMPLES[9].text[:3]
    with pytest.raises(ModelError, match=r"killed before they finish a shard.*\n.*memory.*\n.*same command goes on"):
        encode_on_ray(partial(tiny_ray.deadly, model, worst), tmp_path, actors=1)
    missing = {f"shards/{number:05d}.parquet" for number in range(12)} - files(tmp_path).keys()
    assert missing == {"shards/00002.parquet"}
    encode(CORPUS, tiny_ray.opened(model), tmp_path)
    assert files(tmp_path) == whole


def test_errors_of_an_actor_come_back_as_what_they_are(started: Any, model: Path, tmp_path: Path) -> None:
    message = "the shard is odd: ✗\nMend it."
    with pytest.raises(InputError) as refused:
        encode_on_ray(partial(tiny_ray.refusing, model, message), tmp_path / "a", actors=1)
    assert str(refused.value) == message
    with pytest.raises(ModelError, match="cannot load a causal language model from"):
        encode_on_ray(partial(tiny_ray.opened, tmp_path / "gone"), tmp_path / "b", actors=1)
    assert not (tmp_path / "b").exists()


def test_a_bug_in_an_actor_stays_one(started: Any, model: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="a bug") as bug:
        encode_on_ray(partial(tiny_ray.faulty, model), tmp_path, actors=1)
    assert not isinstance(bug.value, FacsynthError)


def test_a_node_whose_space_is_another_is_refused(started: Any, model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"differ in precision\n.*float32\n.*bfloat16\n.*--dtype"):
        encode_on_ray(partial(tiny_ray.changing, model, tmp_path / "seen"), tmp_path / "out", actors=1)
    assert not list(tmp_path.glob("out/shards/*"))


def test_a_node_without_the_package_is_named_as_such(started: Any, model: Path, tmp_path: Path) -> None:
    (tmp_path / "only_here.py").write_text("def opened():\n    raise AssertionError\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        opened = __import__("only_here").opened
        with pytest.raises(ModelError, match=r"cannot run facsynth: No module named 'only_here'\nInstall the same"):
            encode_on_ray(opened, tmp_path / "out", actors=1)


def test_parts_and_earlier_folders_go_with_ray(
    started: Any, model: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    opened = partial(tiny_ray.opened, model)
    parts = [tmp_path / f"part{number}" for number in (1, 2)]
    with on_ray(opened, actors=2) as (facts, engine):
        for number, folder in enumerate(parts, start=1):
            encode(CORPUS, facts, folder, part=Part(number, 2), engine=engine)
        changed = corpus_of([*SAMPLES[10:], *chats(3, rng_seed=7)])
        known = Known(parts, settings_of(facts))
        encode(changed, facts, tmp_path / "ray", known=known, engine=engine)
        assert known.n_found == len(SAMPLES) - 11, "EMPTY has no row"
        encode(CORPUS, facts, parts[0], part=Part(1, 2), engine=engine)
    assert files(merge_encoded(parts, tmp_path / "merged").folder) == whole
    encode(changed, opened(), tmp_path / "local", known=Known(parts, settings_of(facts)))
    assert files(tmp_path / "ray") == files(tmp_path / "local")


def test_more_actors_than_fit_are_refused(started: Any, model: Path, tmp_path: Path) -> None:
    opened = partial(tiny_ray.opened, model)
    with pytest.raises(SettingsError, match=r"2 actors fit on the Ray cluster, not 3: each takes 1 CPU\nGive --ray-"):
        encode_on_ray(opened, tmp_path, actors=3)
    with pytest.raises(SettingsError, match="no node of the Ray cluster has a GPU"), on_ray(opened, device="cuda"):
        pass
    with pytest.raises(SettingsError, match=r"a card of its own, not cuda:1\nUse --device cuda"):
        on_ray(opened, device="cuda:1").__enter__()
