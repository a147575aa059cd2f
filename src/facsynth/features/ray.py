"""The same shards on Ray: one feature space an actor, on this machine or on a cluster.

Before: `features.encoded` numbers the shards and writes what comes back; no node but this one needs the folder. After:
`features.merge`, which knows no difference.

Ray Data runs the actors and starts those again that die. Samples do not pass through its readers, which want to know
all of them first: its data set is numbers 0, 1, 2 …, and an actor fetches the shard of a number from a feed, into which
this process puts `WINDOW` shards an actor. So memory does not grow with the corpus, an actor loads the model once, and
a killed one costs the shard it was at.

The result is that of the local engine, byte for byte, where a node computes as this machine does: the same kind of
processor or card, the same versions of torch and transformers, the same precision. Sums depend on the number of threads
too: an actor takes that of this process (OMP_NUM_THREADS sets it).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import torch

from facsynth import __version__
from facsynth.errors import FacsynthError, IncompleteError, ModelError, SettingsError
from facsynth.features.encode import FeatureSpace
from facsynth.features.encoded import Engine
from facsynth.features.queue import Todo
from facsynth.features.ray_cluster import Need, connected, import_ray, number_of_actors
from facsynth.features.ray_feed import Feed
from facsynth.features.ray_messages import Result, SpaceFacts, packed, unpacked
from facsynth.features.shards import table_of
from facsynth.model.memory import is_out_of_memory
from facsynth.records import Failure

WINDOW = 4
"""Shards for each actor that are out at once. Two are at the actor itself, so two may be done and not yet written."""
STARTS = 4
"""So often all actors may start without one finished shard between; then something kills them each time."""
TAKES = 3
"""So often a shard may be begun; one that kills its actor each time is given up, and the others are done first."""
NO_FEED = -1
"""The ticket of an actor that finds nobody to bring its shard to."""
KILLED = (
    "actors start and are killed before they finish a shard, over and over\n"
    "Often the memory is full, see `dmesg` on the nodes; fewer actors need less (--ray-actors).\n"
    "What was finished is kept; the same command goes on."
)
LOST = "Ray lost a process that the run cannot do without\n  {}\nWhat was finished is kept; the same command goes on."


def _no_notes(space: FeatureSpace) -> tuple[str, ...]:
    return ()


@contextmanager
def on_ray(
    open_space: Callable[[], FeatureSpace],
    notes_on: Callable[[FeatureSpace], Sequence[str]] = _no_notes,
    *,
    device: str = "cpu",
    address: str | None = None,
    actors: int | None = None,
) -> Iterator[tuple[SpaceFacts, Engine]]:
    """What `features.encoded.encode` needs to work on Ray: the space, which one actor reports, and the engine.

    A Ray that runs in this process already is used and left as it is; else one is joined, or started and ended again.

    Args:
        open_space: opens the feature space on a node; a partial of a function of a module, so that it can be sent.
        notes_on: looks at the space that is opened first, of which the facts are, and may refuse it; sent likewise.
        device: which the space is on; `cuda` gives each actor a card.
        address: host:port of a cluster's head; None is RAY_ADDRESS, or without it a Ray of our own on this machine.
        actors: how many; None is as many as the nodes have room for.

    Raises:
        ModelError: Ray is not installed, no cluster answers, a node differs, or the space cannot be opened.
        SettingsError: the nodes have no room for the actors.
        IncompleteError: Ray lost a process that it cannot start again; the same call goes on.
    """
    if device.startswith("cuda:"):
        raise SettingsError(f"Ray gives each actor a card of its own, not {device}\nUse --device cuda.")
    ray = import_ray()
    need = Need(torch.get_num_threads(), n_gpus=int(device == "cuda"))
    with connected(ray, address):
        n_actors = number_of_actors(ray.nodes(), need, actors)
        facts = _first_facts(ray, need, open_space, notes_on)
        yield facts, _RayEngine(ray, open_space, facts, need, n_actors)


def _first_facts(
    ray: Any, need: Need, open_space: Callable[[], FeatureSpace], notes_on: Callable[[FeatureSpace], Sequence[str]]
) -> SpaceFacts:
    """The facts of the node that opens the space first; Ray ends the process of a task that had a card."""
    report = ray.remote(num_cpus=need.n_cpus, num_gpus=need.n_gpus)(_report)
    with _lost_as_incomplete(ray):
        found = ray.get(report.remote(open_space, notes_on))
    if isinstance(found, str):
        raise unpacked(found)
    facts: SpaceFacts = found
    if facts.versions["facsynth"] != __version__:
        raise ModelError(
            f"{facts.node} of the Ray cluster has facsynth {facts.versions['facsynth']}, this machine {__version__}\n"
            "Install the same version on both."
        )
    return facts


def _report(
    open_space: Callable[[], FeatureSpace], notes_on: Callable[[FeatureSpace], Sequence[str]]
) -> SpaceFacts | str:
    try:
        space = open_space()
        return SpaceFacts.of(space, _node(), notes_on(space))
    except FacsynthError as err:
        return packed(err)


@dataclass(frozen=True)
class _RayEngine:
    """An `Engine`: shards go into the feed as results come out, and not faster."""

    ray: Any
    open_space: Callable[[], FeatureSpace]
    facts: SpaceFacts
    need: Need
    n_actors: int

    def __call__(self, todo: Todo) -> Iterator[tuple[int, pa.Table, list[Failure]]]:
        tickets = zip(range(len(todo)), todo, strict=True)
        out: set[int] = set()
        n_given_up = 0
        feed = self._start_feed()

        def offer(n: int) -> None:
            for ticket, (number, samples) in islice(tickets, n):
                feed.offer.remote(ticket, number, samples)
                out.add(ticket)

        try:
            offer(WINDOW * self.n_actors)
            if not out:
                return
            with _lost_as_incomplete(self.ray), closing(self._done(feed, len(todo))) as done:
                for ticket in done:
                    if ticket == NO_FEED:
                        raise IncompleteError(LOST.format("the feed of shards"))
                    if ticket in out:  # a task that Ray repeats comes twice
                        out.remove(ticket)
                        found = self.ray.get(feed.collect.remote(ticket))
                        n_given_up += found is None
                        if found is not None:
                            yield _opened_result(found)
                        offer(1)
            if out:
                raise IncompleteError(LOST.format(f"{len(out)} shards did not come back"))
            if n_given_up:
                raise ModelError(KILLED)
        finally:
            self.ray.kill(feed)

    def _start_feed(self) -> Any:
        """On the node of this process, with which it would be lost anyway; it takes no CPU."""
        here = self.ray.get_runtime_context().get_node_id()
        beside = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
        return self.ray.remote(num_cpus=0, scheduling_strategy=beside)(Feed).remote(STARTS * self.n_actors, TAKES)

    def _done(self, feed: Any, n_tickets: int) -> Generator[int]:
        """Tickets as they are done, of a Ray Data run over all: each is a block, so that it is a task.

        What an actor made of its shard stays out of the blocks: Ray Data would wait for those of a lost node until they
        are made again, and hold the cards that this needs meanwhile.
        """
        data = self.ray.data
        blocks = (
            data.from_items(list(range(n_tickets)), override_num_blocks=n_tickets)
            .map_batches(
                _Worker,
                fn_constructor_args=(self.open_space, self.facts, feed, self.need.n_cpus),
                batch_size=1,
                compute=data.ActorPoolStrategy(size=self.n_actors, max_tasks_in_flight_per_actor=2),
                num_cpus=self.need.n_cpus,
                num_gpus=self.need.n_gpus,
            )
            .iter_batches(batch_size=1, prefetch_batches=0)
        )
        for block in blocks:
            yield int(block["ticket"][0])


def _opened_result(found: Result | str) -> Result:
    if isinstance(found, str):
        raise unpacked(found)
    return found


class _Worker:
    """What an actor does: opens the space at its first ticket, then pools a shard for each."""

    def __init__(self, open_space: Callable[[], FeatureSpace], facts: SpaceFacts, feed: Any, n_threads: int) -> None:
        self._open_space, self._facts, self._feed, self._n_threads = open_space, facts, feed, n_threads
        self._space: FeatureSpace | None = None
        self._ray = import_ray()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[int]]:
        ticket = int(batch["item"][0])
        try:
            result = self._pool_or_error(ticket)
            if result is not None:
                self._ray.get(self._feed.bring.remote(ticket, result))
        except self._ray.exceptions.RayActorError:
            return {"ticket": [NO_FEED]}
        return {"ticket": [ticket]}

    def _pool_or_error(self, ticket: int) -> Result | str | None:
        try:
            return self._pool(ticket)
        except FacsynthError as err:
            return packed(err)
        except (MemoryError, RuntimeError) as err:
            if not is_out_of_memory(err):
                raise
            return packed(ModelError(f"out of memory on {_node()}\nGive --ray-actors fewer, and run it again."))

    def _pool(self, ticket: int) -> Result | None:
        space = self._space = self._space or self._opened()
        shard = self._ray.get(self._feed.take.remote(ticket))
        if shard is None:
            return None
        number, samples = shard
        pooled = space.pool(samples)
        return Result(number, table_of(pooled), pooled.failures)

    def _opened(self) -> FeatureSpace:
        if not self._ray.get(self._feed.begin.remote()):
            raise ModelError(KILLED)
        torch.set_num_threads(self._n_threads)
        space = self._open_space()
        self._facts.check(SpaceFacts.of(space, _node()))
        return space


def _node() -> str:
    """The node of this process, as messages call it."""
    return str(import_ray().util.get_node_ip_address())


@contextmanager
def _lost_as_incomplete(ray: Any) -> Iterator[None]:
    """What Ray could not mend, as an error with a way out; what was raised in an actor is a bug, and stays one."""
    try:
        yield
    except ray.exceptions.RayTaskError as err:
        if not isinstance(err.cause, ray.exceptions.RaySystemError):
            raise
        reason = str(err.cause).partition("\n")[0].removeprefix("System error: ")
        raise ModelError(
            f"a node of the Ray cluster cannot run facsynth: {reason}\nInstall the same packages on every node."
        ) from err
    except ray.exceptions.RayError as err:
        raise IncompleteError(LOST.format(str(err).strip().splitlines()[0])) from err
