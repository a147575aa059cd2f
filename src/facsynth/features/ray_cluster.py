"""Ray itself: joined or started without a word, ended if it was started here, and how many actors it has room for.

After: `features.ray`, the engine. A Ray that does not answer is an error after seconds; Ray itself asks for minutes.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

from facsynth.errors import ModelError, SettingsError, missing_extra

ANSWER_S = 5.0
"""A head that is there takes a connection at once."""
QUIET = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # its C++ part warns of restarts that Ray Data itself asked for
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else it warns of what a later version will do
}
ONE_TRY = {"RAY_gcs_server_port_wait_time_s": "1"}
"""How often Ray asks a head that takes connections but does not answer, for 40 seconds each: else 20 times."""


def import_ray() -> Any:
    """The package, with Ray Data.

    Raises:
        ModelError: it is not installed.
    """
    try:
        import ray.data  # noqa: PLC0415  (an extra, and a second to load)
    except ImportError as err:
        raise missing_extra("ray", "ray") from err
    return ray


@contextmanager
def connected(ray: Any, address: str | None) -> Iterator[None]:
    """Ray for a while. One that runs in this process already stays; one that is joined or started here is left again.

    What Ray prints meanwhile, that a process of it died, goes to stderr: on stdout stand results.

    Raises:
        ModelError: no Ray answers at the address, or it is another version.
        SettingsError: the address is none.
    """
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # on the screen; the log file of the session has it all
            handler.setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # a shard of long texts may take hours
    with redirect_stdout(sys.stderr):
        if ray.is_initialized():
            yield
            return
        where = address or os.environ.get("RAY_ADDRESS") or "local"
        _check_address(where)
        try:
            _start(ray, where)
            yield
        finally:
            ray.shutdown()


def _start(ray: Any, where: str) -> None:
    local = where == "local"
    try:
        with _environment(QUIET if local else QUIET | ONE_TRY), _without_stderr():
            ray.init(
                where, include_dashboard=False if local else None, log_to_driver=False, logging_level=logging.ERROR
            )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as err:
        reason = str(err).strip().splitlines()[0]
        if local:
            raise ModelError(f"Ray cannot be started on this machine\n  {reason}\nSee its logs in /tmp/ray.") from err
        raise _no_answer(where, reason) from err


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """What is set already stays."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextmanager
def _without_stderr() -> Iterator[None]:
    """What Ray's C++ part prints while it starts, past Python's own streams, goes nowhere; errors are raised too."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _check_address(where: str) -> None:
    if where in ("local", "auto"):
        return
    host, _, port = where.rpartition(":")
    if not host or not port.isdigit() or int(port) >= 1 << 16 or "/" in host:
        raise SettingsError(
            f"{where!r} is no address of a Ray cluster\n"
            "Give HOST:PORT of its head, as `ray start --head` prints it (port 6379), or auto on one of its nodes."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except OSError as err:
        raise _no_answer(where, str(err)) from err


def _no_answer(where: str, reason: str) -> ModelError:
    return ModelError(
        f"no Ray cluster can be used at {where}: {reason}\n"
        "Run this on one of its nodes, with its version of Ray and, where it asks for tokens, RAY_AUTH_MODE=token; "
        "or leave --ray-address out, for a Ray on this machine alone."
    )


@dataclass(frozen=True)
class Need:
    """What an actor takes of a node."""

    n_threads: int
    n_gpus: int

    @property
    def n_cpus(self) -> int:
        """A CPU for each thread; beside a card one is enough."""
        return 1 if self.n_gpus else self.n_threads

    def fits(self, resources: Mapping[str, float]) -> int:
        """How many fit on a node."""
        by_cpu = int(resources.get("CPU", 0) // self.n_cpus)
        return min(by_cpu, int(resources.get("GPU", 0) // self.n_gpus)) if self.n_gpus else by_cpu

    def __str__(self) -> str:
        cpus = "1 CPU" if self.n_cpus == 1 else f"{self.n_cpus} CPUs"
        return f"{cpus} and a GPU" if self.n_gpus else cpus


def number_of_actors(nodes: Sequence[Mapping[str, Any]], need: Need, asked: int | None) -> int:
    """As many as were asked for, else as many as fit on the nodes that are there.

    Args:
        nodes: as `ray.nodes()` lists them.
        need: what each actor takes.
        asked: None is all that fit.

    Raises:
        SettingsError: not so many fit; Ray would wait for room without end.
    """
    there = [node["Resources"] for node in nodes if node["Alive"]]
    n_fit = sum(need.fits(resources) for resources in there)
    if n_fit >= (asked or 1):
        return asked or n_fit
    if n_fit:
        raise SettingsError(
            f"{n_fit} actors fit on the Ray cluster, not {asked}: each takes {need}\n"
            f"Give --ray-actors {n_fit}, or start more nodes first."
        )
    most = int(max((resources.get("CPU", 0) for resources in there), default=0))
    if need.n_gpus:
        raise SettingsError("no node of the Ray cluster has a GPU and a CPU\nStart one that has, or use --device cpu.")
    raise SettingsError(
        f"no node of the Ray cluster has {need}, one for each thread of an actor; the largest has {most}\n"
        f"Set OMP_NUM_THREADS={most} here: actors take the number of threads of this process."
    )
