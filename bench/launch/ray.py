"""Units as tasks of a Ray cluster (extra [ray]): placement and autoscaling are Ray's, what is kept is the driver's.

No shared folder is assumed. A worker searches in a folder of its own and sends what changed after every instant; the
driver puts it into `--results`, under the runs' locks, so that its folder is always one to go on from. A unit whose
worker or node dies is sent out again with the files that have arrived. With `--shared` workers write to `--results`
themselves, and only progress travels.
"""

import dataclasses
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import util
from typing import Any

from bench import choice
from bench.launch import mirror
from bench.launch.mirror import Mirror, Parcel
from bench.launch.ray_worker import Errand, search
from bench.launch.unit import Outcome, Unit, Unreachable, Watch
from bench.launch.work import Worker
from bench.lock import Held, locked
from bench.request import Request

log = logging.getLogger(__name__)

POLL_S, PROBE_S = 0.2, 10.0
AT_ONCE = 256
"""Units that are with Ray at one time, so that ten thousand are not all held, locked and in memory."""
LOCKS = 800
"""Runs that are locked at one time: every lock is an open file, and 1024 is a usual limit."""


def check(_request: Request) -> None:
    """Raise where Ray cannot be used.

    Raises:
        ValueError: the package is not installed.
    """
    if util.find_spec("ray") is None:
        raise ValueError(
            "expected the package ray for --launcher ray, found none; "
            "install it with pip install 'nas-stability[ray]' on every machine"
        )


@dataclass(frozen=True)
class OnRay:
    """The launcher.

    Attributes:
        worker: of this process, which has the tables.
        address: of the cluster; None: that of RAY_ADDRESS, else one that is started here.
        cpus, gpus: what a unit takes, fractions allowed.
        shared: whether every machine sees the results folder under the same path.
        retries: how often a unit is sent out again whose worker died.
    """

    worker: Worker
    address: str | None
    cpus: float
    gpus: float
    shared: bool
    retries: int

    def run(self, units: Sequence[Unit], watch: Watch) -> Iterator[Outcome]:
        """Yield what became of each unit.

        Raises:
            Unreachable: there is no cluster.
        """
        if not units:
            return
        with _connected(self.address) as mailbox:
            import ray

            task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0)(search)
            yield from _Driver(self, task, mailbox, watch).outcomes(units)


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Yield the mailbox of a connection to the cluster; it lives with this process."""
    import ray
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    known = os.environ.get("RAY_ADDRESS") if address is None else address
    probe(known)
    try:
        dashboard = False if known is None else None
        ray.init(address, log_to_driver=False, logging_level=logging.WARNING, include_dashboard=dashboard)
    except (OSError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise Unreachable(f"expected a Ray cluster at {known or 'this machine'}, got: {said}") from error
    try:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        yield Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    finally:
        ray.shutdown()


def probe(address: str | None) -> None:
    """Raise where nothing listens at HOST:PORT; Ray itself would try for minutes.

    Raises:
        Unreachable: nothing listens there.
    """
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not (colon and port.isdecimal()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=PROBE_S).close()
    except OSError as error:
        raise Unreachable(f"expected a Ray cluster at {address}, got: {error}") from error


@dataclass
class _Sent:
    """A unit that is with Ray, and the locks that are held for it.

    Attributes:
        seeded: whether this attempt was given the files of an earlier one.
        heard: whether a letter of this attempt has come.
        reason: what its process died of.
    """

    unit: Unit
    attempt: int
    locks: ExitStack
    seeded: bool = False
    heard: bool = False
    reason: str = ""


@dataclass
class _Driver:
    """One command's units on a cluster."""

    launcher: OnRay
    task: Any
    mailbox: Any
    watch: Watch
    under_way: dict[Any, _Sent] = field(default_factory=dict)
    tables: dict[str, Any] = field(default_factory=dict)

    def outcomes(self, units: Sequence[Unit]) -> Iterator[Outcome]:
        waiting = list(reversed(units))
        at_once = max(1, min(AT_ONCE, LOCKS // max(len(unit.runs) for unit in units)))
        try:
            while waiting or self.under_way:
                if waiting and len(self.under_way) < at_once:
                    refused = self._begin(waiting.pop())
                    if refused is not None:
                        yield refused
                else:
                    yield from self._ended()
        finally:
            self._give_up()

    def _begin(self, one: Unit) -> Outcome | None:
        locks = ExitStack()
        try:
            if not self.launcher.shared:
                locks.enter_context(locked(one.request.results, one.runs))
        except Held as held:
            return Outcome(one.label, "refused", str(held))
        self._send(_Sent(one, 1, locks))
        return None

    def _send(self, sent: _Sent) -> None:
        one, results = sent.unit, sent.unit.request.results
        seed = None
        if not (self.launcher.shared or one.fresh):
            seed = Mirror(results).parcel(mirror.folders(results, one.runs, one.stack))
        sent.seeded, sent.heard = seed is not None, False
        errand = Errand(
            one.absolute().plain(), sent.attempt, seed, self.launcher.shared, max(1, int(self.launcher.cpus))
        )
        task = self.task.options(name=one.label).remote(errand, self._table(one), self.mailbox)
        self.under_way[task] = sent

    def _table(self, one: Unit) -> Any:
        """Return the benchmark table of a unit for machines that may not have it; None where it is not needed."""
        import ray

        key = one.request.table or one.request.space
        if key not in self.tables:
            bench = self.launcher.worker.bench(one.request)
            shipped = bench.truth is not None and not self.launcher.shared
            path = choice.table_file(one.request, bench.space, bench.preset.dataset) if shipped else None
            self.tables[key] = None if path is None else ray.put(path.read_bytes())
        return self.tables[key]

    def _ended(self) -> Iterator[Outcome]:
        """Wait a moment, open what has come, and yield what became of the units that have ended."""
        import ray

        ended, _ = ray.wait(list(self.under_way), num_returns=1, timeout=POLL_S)
        yield from self._opened()
        for task in ended:
            sent = self.under_way.pop(task, None)
            if sent is None:
                continue
            outcome = _result(task, sent)
            if outcome is None and sent.attempt <= self.launcher.retries:
                log.warning("%s: its process died %s; it is sent out again", sent.unit.label, sent.reason)
                unit = sent.unit.again() if sent.heard else sent.unit
                self._send(dataclasses.replace(sent, unit=unit, attempt=sent.attempt + 1))
                continue
            outcome = outcome or self.launcher.worker.given_up(sent.unit, sent.attempt, sent.reason)
            sent.locks.close()
            yield outcome

    def _opened(self) -> Iterator[Outcome]:
        """Put the files that have come into place, then tell what is new; yield the units for which that failed."""
        import ray

        current = {(sent.unit.label, sent.attempt): task for task, sent in self.under_way.items()}
        count = self.mailbox.qsize()
        for letter in self.mailbox.get_nowait_batch(count) if count else []:
            task = current.get((letter.label, letter.attempt))
            if task not in self.under_way:
                continue
            sent = self.under_way[task]
            try:
                self._put(sent, letter.parcel)
            except (OSError, ValueError) as error:
                ray.cancel(task, force=True)
                self.under_way.pop(task).locks.close()
                yield _failed(sent, f"what its worker sent could not be kept: {error}")
                continue
            if letter.moment is not None:
                self.watch(letter.moment)

    def _put(self, sent: _Sent, parcel: Parcel | None) -> None:
        results = sent.unit.request.results
        if parcel is not None:
            if not (sent.heard or sent.seeded):
                mirror.clear(results, mirror.folders(results, sent.unit.runs, sent.unit.stack))
            mirror.put(results, parcel)
        sent.heard = True

    def _give_up(self) -> None:
        """End what is still searched; what has arrived stays."""
        import ray

        for task, sent in self.under_way.items():
            ray.cancel(task, force=True)
            sent.locks.close()
        self.under_way.clear()


def _failed(sent: _Sent, reason: str) -> Outcome:
    return Outcome(sent.unit.label, "failed", reason, attempts=sent.attempt)


def _result(task: Any, sent: _Sent) -> Outcome | None:
    """Return what a task says became of its unit; None where its worker or its node died."""
    import ray
    from ray import exceptions

    try:
        return dataclasses.replace(ray.get(task), attempts=sent.attempt)
    except exceptions.RayTaskError as error:
        reason = str(error.cause) if error.cause is not None else str(error).splitlines()[-1]
        return _failed(sent, reason)
    except exceptions.RayError as error:
        sent.reason = f"of {type(error).__name__}"
        return None
