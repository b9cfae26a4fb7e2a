"""Several processes of this machine, each with its share of the cores and of the GPUs."""

import contextlib
import json
import logging
import signal
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from bench.choice import gpus
from bench.cores import Share
from bench.launch.unit import Moment, Outcome, Unit, Watch
from bench.launch.work import Worker
from bench.request import Request

log = logging.getLogger(__name__)

END_S = 10.0
COMMAND = (sys.executable, "-m", "bench.launch.worker")


@dataclass(frozen=True)
class Local:
    """The launcher of several jobs on one machine.

    Attributes:
        worker: of this process; it searches nothing, and writes down why a unit is given up.
        share: how many jobs there are, and what each gets.
    """

    request: Request
    worker: Worker
    share: Share

    def run(self, units: Sequence[Unit], watch: Watch) -> Iterator[Outcome]:
        """Yield what became of each unit, in the order in which they end."""
        crew = _Crew(self.request, self.share, deque(units))
        try:
            while crew.employ():
                job, message = crew.messages.get()
                if "moment" in message:
                    watch(Moment(**message["moment"]))
                elif "outcome" in message:
                    yield crew.released(job, message["outcome"])
                elif (lost := crew.bury(job)) is not None:
                    unit, reason = lost
                    yield self.worker.given_up(unit, crew.attempts[unit.label], reason)
        finally:
            crew.end()


class _Job:
    """One worker process and the unit it searches."""

    def __init__(self, number: int, device: str | None, threads: int, messages: "Messages") -> None:
        self.number = number
        self.unit: Unit | None = None
        options = ["--threads", str(threads), *([] if device is None else ["--device", device])]
        # A group of its own: Ctrl-C reaches this process only, which then ends the workers.
        self.process = subprocess.Popen(
            [*COMMAND, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        self.listener = threading.Thread(target=self._listen, args=(messages,), daemon=True)
        self.listener.start()

    def search(self, unit: Unit) -> None:
        self.unit = unit
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(unit.plain()) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return  # it has died; its end of file is on the way

    def _listen(self, messages: "Messages") -> None:
        """Pass on what it says; an empty message is its end."""
        assert self.process.stdout is not None
        with self.process.stdout:
            for line in self.process.stdout:
                try:
                    messages.put((self, json.loads(line)))
                except json.JSONDecodeError:
                    break  # torn by a kill
        self.process.kill()
        self.process.wait()
        messages.put((self, {}))

    def stop(self) -> None:
        """Close its stdin, which ends it."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def end(self) -> None:
        """Wait until it has stopped; kill it where that takes long."""
        try:
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.listener.join()

    @property
    def died_of(self) -> str:
        code = self.process.returncode
        return f"of {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"


Messages = SimpleQueue[tuple[_Job, dict[str, Any]]]


class _Crew:
    """The workers of a command, the units that wait for one, and how often each was tried."""

    def __init__(self, request: Request, share: Share, waiting: deque[Unit]) -> None:
        self.request, self.share, self.waiting = request, share, waiting
        self.messages: Messages = SimpleQueue()
        self.attempts: Counter[str] = Counter()
        self.jobs: dict[int, _Job] = {}

    def employ(self) -> bool:
        """Give every free job a unit, and start jobs up to their number; return whether anything is under way."""
        for number in range(self.share.jobs):
            job = self.jobs.get(number)
            if self.waiting and (job is None or job.unit is None):
                unit = self.waiting.popleft()
                self.attempts[unit.label] += 1
                (job or self._start(number)).search(unit)
        return any(job.unit is not None for job in self.jobs.values())

    def _start(self, number: int) -> _Job:
        devices = gpus(self.request.device)
        device = devices[number % len(devices)] if devices else None
        self.jobs[number] = _Job(number, device, self.share.threads, self.messages)
        return self.jobs[number]

    def released(self, job: _Job, fields: dict[str, Any]) -> Outcome:
        """Note that a job is free again; return what it says."""
        job.unit = None
        attempts = self.attempts[fields["label"]]
        return Outcome(**{**fields, "diverged": tuple(fields["diverged"]), "attempts": attempts})

    def bury(self, job: _Job) -> tuple[Unit, str] | None:
        """Put the unit of a job that died back into the queue; return it with the reason where that is enough."""
        self.jobs.pop(job.number).stop()
        unit = job.unit
        if unit is None:
            return None
        tried = self.attempts[unit.label]
        if tried > self.request.retries:
            return unit, job.died_of
        log.warning(
            "%s: its process died %s; tried again, %d of %d", unit.label, job.died_of, tried, self.request.retries
        )
        self.waiting.appendleft(unit.again())
        return None

    def end(self) -> None:
        for job in self.jobs.values():
            job.stop()
        for job in self.jobs.values():
            job.end()
