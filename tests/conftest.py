"""What every test stands on: no network but loopback, caches in a temp folder, the same examples every time."""

from __future__ import annotations

import gc
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import certifi
import hypothesis
import pytest

from fault_server import FaultServer

# Nothing in temporary folders outlives the tests, so they lie in memory where there is room: a tenth less time.
MEMORY = Path("/dev/shm")
if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 2 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
CACHES = tempfile.TemporaryDirectory(prefix="facsynth-tests-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT"))

# Read when huggingface_hub and transformers are imported, so set before any test file is.
# For tests marked network: HF_HUB_OFFLINE=0 TRANSFORMERS_OFFLINE=0 pytest -m network
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
# What is imported stays; looking through it again and again while it is would be half of the time that it takes.
gc.disable()
# Tiny models gain nothing from threads, and threads of several processes at once wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HOME"] = str(Path(CACHES.name, "huggingface"))
# What a script starts in the background ignores interrupts, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Hypothesis' health checks and deadlines measure time, which a busy machine makes arbitrary.
hypothesis.settings.register_profile(
    "facsynth",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("facsynth")


class NetworkBlockedError(Exception):
    """A test reached for another machine. No OSError, so that nothing takes it for a network that is down."""


def pytest_collection_finish() -> None:
    """Modules and tests stay to the end; not looked through at every collection, they cost a twentieth less time."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    CACHES.cleanup()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Around all of a test: a fixture would come too late for fixtures of a module or session."""
    marks = {mark.name for mark in item.iter_markers()}
    with pytest.MonkeyPatch.context() as patch:
        if not marks & {"slow", "kill", "browser"}:  # those keep the converted embedded model, 20 s to make
            patch.setenv("FACSYNTH_CACHE", str(Path(CACHES.name, "facsynth")))
        if not marks & {"network", "llm"}:
            _block_network(patch)
        return (yield)


def _block_network(patch: pytest.MonkeyPatch) -> None:
    """Guard every way from a socket to another machine; AF_UNIX and the like stay as they are."""

    def guarded(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: socket.socket, *args: Any) -> Any:
            address = args[-1]
            if self.family in (socket.AF_INET, socket.AF_INET6) and isinstance(address, tuple):
                _check_loopback(address[0])
            return original(self, *args)

        return call

    for name in ("connect", "connect_ex", "sendto", "sendmsg"):
        patch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))

    look_up = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        _check_loopback(host)
        return look_up(host, *args, **kwargs)

    patch.setattr(socket, "getaddrinfo", getaddrinfo)


def _check_loopback(host: Any) -> None:
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return
    try:
        if ipaddress.ip_address(name).is_loopback:
            return
    except ValueError:
        pass
    raise NetworkBlockedError(f"a test reached for {name}; only loopback is open\nMark it network or llm if it must.")


@pytest.fixture(scope="session")
def one_certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first of those that httpx trusts; to read all of them takes 20 ms for every client, and none is needed."""
    end = "-----END CERTIFICATE-----\n"
    path = tmp_path_factory.mktemp("certificates") / "one.pem"
    path.write_text(certifi.contents().partition(end)[0] + end, encoding="utf-8")
    return path


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, one_certificate: Path) -> Iterator[FaultServer]:
    """An endpoint that answers; clients of it wait little, and have no key of this machine."""
    monkeypatch.setattr("facsynth.llm.limiter.FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr("facsynth.llm.endpoint.FIRST_RETRY_S", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(one_certificate))
    with FaultServer() as found:
        yield found


CHROMIUM_FLAGS = (
    "--headless",
    "--no-sandbox",  # it refuses to run as root otherwise
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--enable-logging=stderr",
    "--virtual-time-budget=10000",
    "--dump-dom",
)


@dataclass(frozen=True)
class Page:
    """A page as a browser has it after its scripts ran."""

    dom: str
    console: tuple[str, ...]
    """What it wrote to the console, errors included; a sound page writes nothing."""
    screenshot: Path


@pytest.fixture
def open_page(tmp_path: Path) -> Callable[..., Page]:
    """Open a local file in headless Chromium, which is given no way out: a page that loads anything fails to."""
    chromium = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    if not shutil.which(chromium):
        pytest.fail(f"no browser at {chromium}\nInstall it with: make browser")

    def open_page(path: Path, size: tuple[int, int] = (1280, 1600)) -> Page:
        screenshot = tmp_path / f"{path.stem}-{size[0]}x{size[1]}.png"
        with tempfile.TemporaryDirectory() as profile:
            command = [chromium, *CHROMIUM_FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"]
            command += [f"--screenshot={screenshot}", path.resolve().as_uri()]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        console = tuple(line for line in done.stderr.splitlines() if ":CONSOLE:" in line)
        return Page(done.stdout, console, screenshot)

    return open_page
