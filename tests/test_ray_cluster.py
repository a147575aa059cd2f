"""Ray as a command meets it: how many actors fit, what is said, and what is left of it; here and on a cluster."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import facsynth
import tiny_cli
import tiny_run
from facsynth.errors import SettingsError
from facsynth.features.ray_cluster import Need, number_of_actors
from tiny import files
from tiny_cli import Parts
from tiny_ray import runs, until

ON_RAY = ("--engine", "ray", "--ray-actors", "2")
SMALL = {"num_cpus": 1, "object_store_memory": 80 << 20}
SEEN = ("starting", "read ", "loading the model", "encoding ")
"""How the lines begin that a person sees while all is well."""


def node(alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("nodes", "need", "n"),
    [
        ([node(CPU=16)], Need(4, 0), 4),
        ([node(CPU=16), node(CPU=7), node(CPU=3)], Need(4, 0), 5),
        ([node(CPU=16), node(alive=False, CPU=16)], Need(16, 0), 1),
        ([node(CPU=64, GPU=8), node(CPU=64)], Need(32, 1), 8),
        ([node(CPU=2, GPU=4)], Need(1, 1), 2),
    ],
)
def test_as_many_actors_as_fit_where_nobody_says_how_many(nodes: list[dict[str, Any]], need: Need, n: int) -> None:
    assert number_of_actors(nodes, need, None) == n
    assert number_of_actors(nodes, need, 1) == 1
    with pytest.raises(SettingsError, match=rf"^{n} actors fit on the Ray cluster, not {n + 1}: .*\nGive --ray-actors"):
        number_of_actors(nodes, need, n + 1)


def test_where_none_fits_ray_would_wait_without_end_so_it_is_said() -> None:
    with pytest.raises(SettingsError, match=r"no node .* has 8 CPUs, .* largest has 4\nSet OMP_NUM_THREADS=4 here"):
        number_of_actors([node(CPU=4), node(CPU=2)], Need(8, 0), None)
    with pytest.raises(SettingsError, match=r"no node of the Ray cluster has a GPU and a CPU\n.*--device cpu"):
        number_of_actors([node(CPU=64)], Need(8, 1), 2)


def test_an_actor_takes_a_cpu_for_each_thread_and_beside_a_card_one() -> None:
    assert [str(Need(*found)) for found in ((8, 0), (1, 0), (8, 1))] == ["8 CPUs", "1 CPU", "1 CPU and a GPU"]


def test_without_the_package_the_way_out_is_said_before_anything_is_read() -> None:
    code = "import sys; sys.modules['ray'] = None; from facsynth.__main__ import main; main()"
    words = ["encode", "corpus.jsonl", "-o", "out", "--engine", "ray"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "facsynth: this needs the package ray, which is not installed",
        "Install it with:",
        "  pip install 'facsynth[ray]'",
    ]


def test_options_of_ray_without_ray_are_refused() -> None:
    done = tiny_cli.facsynth("encode", "corpus.jsonl", "-o", "out", "--ray-actors", 2)
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.endswith("say how Ray is used, and it is not\nAdd --engine ray.\n")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return Parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def corpus(parts: Parts) -> Path:
    """Twelve shards."""
    return tiny_run.corpus(parts.folder / "corpus.jsonl", 6000, 5)


@pytest.fixture(scope="module")
def whole(parts: Parts, corpus: Path) -> dict[str, bytes]:
    """What one process with one thread leaves."""
    pytest.importorskip("ray")
    finished(start(parts, corpus, "whole", "--engine", "local"))
    return files(parts.folder / "whole")


def start(parts: Parts, corpus: Path, out: str, *words: str) -> subprocess.Popen[str]:
    """`facsynth encode` as a process in a group of its own, as a terminal starts it."""
    environment = {
        **os.environ, "FACSYNTH_CACHE": str(parts.folder / "cache"), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(facsynth.__file__).parents[1]),
    }  # fmt: skip
    command = [sys.executable, "-m", "facsynth", "encode", str(corpus), *parts.space, "-o", str(parts.folder / out)]
    return subprocess.Popen(
        [*command, *words, "--json"], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> list[str]:
    """The lines that a person sees; stdout is JSON and nothing else."""
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert json.loads(out)["n_samples"] == 6000
    return errors.splitlines()


def below(process: subprocess.Popen[str]) -> dict[int, str]:
    """All processes that descend from one, with their names."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(path.name)] = int((path / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    found: dict[int, str] = {}
    queue = [process.pid]
    while queue:
        children = [pid for pid, parent in parents.items() if parent == queue[0]]
        for pid in children:
            with suppress(OSError):
                found[pid] = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
        queue = [*queue[1:], *children]
    return found


def has_begun(folder: Path) -> bool:
    return len(list(folder.glob("shards/*.parquet"))) > 0


@pytest.mark.slow
def test_a_run_on_ray_says_what_a_local_one_says_and_leaves_the_same(
    parts: Parts, corpus: Path, whole: dict[str, bytes]
) -> None:
    process = start(parts, corpus, "ray", *ON_RAY)
    until(lambda: has_begun(parts.folder / "ray"))
    started = below(process)
    assert sum(name.startswith("ray::MapWorker") for name in started.values()) == 2
    seen = finished(process)
    assert [line for line in seen if not line.startswith(SEEN)] == []
    assert files(parts.folder / "ray") == whole
    until(lambda: not any(map(runs, started)))


@pytest.mark.slow
def test_a_killed_actor_is_told_on_stderr_and_changes_nothing(
    parts: Parts, corpus: Path, whole: dict[str, bytes]
) -> None:
    process = start(parts, corpus, "killed", *ON_RAY)
    until(lambda: has_begun(parts.folder / "killed"))
    actor = next(pid for pid, name in below(process).items() if name.startswith("ray::MapWorker"))
    os.kill(actor, signal.SIGKILL)
    assert any("will be retried" in line for line in finished(process))
    assert files(parts.folder / "killed") == whole


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_stop_leaves_no_process_of_ray_and_the_same_command_goes_on(
    parts: Parts, corpus: Path, whole: dict[str, bytes], number: int, code: int
) -> None:
    out = f"stopped{number}"
    process = start(parts, corpus, out, *ON_RAY)
    until(lambda: has_begun(parts.folder / out))
    started = below(process)
    assert len(started) > 4
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as Ctrl-C reaches all that a terminal started
    else:
        process.kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in errors
    if number == signal.SIGKILL:  # two helpers of Ray see only after a minute that all others are gone
        started = {pid: name for pid, name in started.items() if "Agent" not in name}
    until(lambda: not any(map(runs, started)))
    assert not (parts.folder / out / "manifest.json").exists()
    finished(start(parts, corpus, out, *ON_RAY))
    assert files(parts.folder / out) == whole


@pytest.mark.slow
def test_an_sae_that_does_not_fit_is_refused_on_ray_as_it_is_here(parts: Parts, corpus: Path) -> None:
    pytest.importorskip("ray")
    process = start(parts, corpus, "refused", *ON_RAY, "--sae-check", "refuse")
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "facsynth: the SAE does not fit the model\n" in errors and "Traceback" not in errors
    assert not (parts.folder / "refused" / "plan.json").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")  # as in test_ray.py
def test_a_cluster_that_cannot_be_reached_ends_soon_with_the_way_out(parts: Parts) -> None:
    pytest.importorskip("ray")
    encode = ("encode", parts.anchor, *parts.space, "-o", parts.folder / "none", "--engine", "ray", "--ray-address")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for address, within_s in (("127.0.0.1:1", 10), (f"127.0.0.1:{silent.getsockname()[1]}", 90)):
            began = time.monotonic()
            done = tiny_cli.facsynth(*encode, address)
            assert time.monotonic() - began < within_s
            assert (done.code, done.stdout) == (1, "")
            assert f"no Ray cluster can be used at {address}: " in done.stderr
            assert "or leave --ray-address out, for a Ray on this machine alone" in done.stderr
    for address in ("head", "ray://10.0.0.1:10001", "10.0.0.1:port", "127.0.0.1:99999"):
        done = tiny_cli.facsynth(*encode, address)
        assert (done.code, done.stdout) == (2, "")
        assert f"{address!r} is no address of a Ray cluster\nGive HOST:PORT of its head" in done.stderr
    assert [path.name for path in (parts.folder / "none").iterdir()] == [".lock"]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes of one CPU each, on this machine."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cluster = Cluster(
        initialize_head=True, head_node_args={**SMALL, "include_dashboard": False}, shutdown_at_exit=False
    )
    cluster.add_node(**SMALL)
    yield cluster
    cluster.shutdown()


@pytest.mark.slow
def test_a_node_that_is_lost_costs_its_shards_only(
    parts: Parts, corpus: Path, whole: dict[str, bytes], cluster: Any
) -> None:
    process = start(parts, corpus, "cluster", *ON_RAY, "--ray-address", cluster.address)
    until(lambda: has_begun(parts.folder / "cluster"))
    cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
    finished(process)
    assert files(parts.folder / "cluster") == whole
    assert len(cluster.list_all_nodes()) == 1, "a cluster that was joined is left as it is"
