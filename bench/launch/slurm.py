"""Units as one Slurm job array (extra [slurm], submitit); the results folder is on a file system that all nodes share.

A job that is preempted, or comes near its time limit, is put back into the queue and goes on from its checkpoint. What
is known of the jobs stands in `--results`/slurm: a command that is given again follows those that are still queued or
running instead of sending them again.
"""

import dataclasses
import getpass
import json
import logging
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from shutil import which

from bench.checkpoint import write_json
from bench.launch.slurm_job import Errand
from bench.launch.unit import Moment, Outcome, Unit, Unreachable, Watch
from bench.launch.work import Worker
from bench.request import Request

log = logging.getLogger(__name__)

NAME = "nas-stability"
ARRAY = 1000
"""Jobs of one array; Slurm's MaxArraySize is 1001 where it was not raised."""
POLL_S, QUEUE_S = 1.0, 5.0
"""Seconds between two looks at the folder and between two questions to Slurm."""
SIGNAL_S = 90
"""Seconds before the time limit at which a job is told to stop."""


def check(request: Request) -> None:
    """Raise where Slurm cannot be used.

    Raises:
        ValueError: submitit or Slurm's commands are missing, or the time limit is.
    """
    if request.time is None:
        raise ValueError("expected --time beside --launcher slurm, such as 4:00:00 for every job, got none")
    minutes(request.time)
    if util.find_spec("submitit") is None:
        raise ValueError(
            "expected the package submitit for --launcher slurm, found none; "
            "install it with pip install 'nas-stability[slurm]'"
        )
    missing = [name for name in ("sbatch", "squeue", "scancel", "scontrol", "srun") if which(name) is None]
    if missing:
        raise ValueError(f"expected Slurm's commands for --launcher slurm, found no {', '.join(missing)}")


def minutes(text: str) -> int:
    """Return the minutes of a time limit in one of Slurm's forms, rounded up.

    Raises:
        ValueError: it has none of these forms.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if found is None:
        raise ValueError(f"expected --time as minutes, hours:minutes:seconds or days-hours:minutes, got {text!r}")
    days, *rest = found.groups()
    parts = [int(part) for part in rest if part is not None]
    if days is None and len(parts) < 3:
        parts = [0, *parts]
    hours, minute, second = [*parts, 0, 0][:3]
    return int(days or 0) * 1440 + hours * 60 + minute + (second > 0)


@dataclass(frozen=True)
class OnSlurm:
    """The launcher.

    Attributes:
        request: says what the jobs need.
        worker: of this process; it searches nothing, and writes down why a unit is given up.
    """

    request: Request
    worker: Worker

    @property
    def folder(self) -> Path:
        return self.request.results.resolve() / "slurm"

    def run(self, units: Sequence[Unit], watch: Watch) -> Iterator[Outcome]:
        """Yield what became of each unit.

        Raises:
            Unreachable: Slurm does not answer, or does not take the jobs.
        """
        yield from _Array(self, watch).outcomes(units)

    def submit(self, units: Sequence[Unit]) -> list[str]:
        """Send units to Slurm; return their jobs.

        Raises:
            Unreachable: Slurm does not take them.
        """
        import submitit
        from submitit.core.utils import FailedJobError

        limit = minutes(str(self.request.time))
        executor = submitit.SlurmExecutor(folder=self.folder, max_num_timeout=1_000_000)
        executor.update_parameters(
            job_name=NAME,
            time=limit,
            cpus_per_task=int(self.request.unit_cpus),
            partition=self.request.partition,
            gres=self.request.gres,
            signal_delay_s=min(SIGNAL_S, limit * 15),
            array_parallelism=ARRAY,
            additional_parameters={"requeue": True, **self.request.sbatch},
        )
        errands = [Errand(one.absolute().plain(), self.word(one), 60 * limit) for one in units]
        for errand in errands:
            errand.word.unlink(missing_ok=True)
        try:
            return [str(job.job_id) for job in executor.submit_array(errands)]
        except FailedJobError as error:
            raise Unreachable(f"expected Slurm to take the jobs, got: {' '.join(str(error).split())}") from error

    def word(self, one: Unit) -> Path:
        """Return the file in which the job of a unit leaves word."""
        return self.folder / f"{one.stack}.moment.json"

    def note(self, one: Unit) -> Path:
        """Return the file that names the job of a unit."""
        return self.folder / f"{one.stack}.job.json"


@dataclass
class _Sent:
    """A unit whose job is queued or running.

    Attributes:
        missed: how often in a row Slurm did not know the job.
        told: what was last told of it.
    """

    unit: Unit
    job: str
    attempt: int = 1
    missed: int = 0
    told: str = ""


@dataclass
class _Array:
    """One command's units on a cluster."""

    launcher: OnSlurm
    watch: Watch
    under_way: list[_Sent] = field(default_factory=list)

    def outcomes(self, units: Sequence[Unit]) -> Iterator[Outcome]:
        try:
            self._begin(units)
            asked = time.monotonic()
            while self.under_way:
                time.sleep(POLL_S)
                self._tell()
                known = None
                if time.monotonic() - asked > QUEUE_S:
                    asked, known = time.monotonic(), _asked()
                for sent in list(self.under_way):
                    outcome = self._ended(sent, known)
                    if outcome is not None:
                        self.under_way.remove(sent)
                        self.launcher.note(sent.unit).unlink(missing_ok=True)
                        yield outcome
        finally:
            self._give_up()

    def _begin(self, units: Sequence[Unit]) -> None:
        """Follow the units whose jobs an earlier command has sent, and send the others."""
        known = queue()
        self.under_way = [sent for one in units if (sent := self._earlier(one, known)) is not None]
        followed = {sent.unit.label for sent in self.under_way}
        if followed:
            log.warning("%d units are queued or running since an earlier command: they are followed", len(followed))
        left = [one for one in units if one.label not in followed]
        for start in range(0, len(left), ARRAY):
            self._send([_Sent(one, "") for one in left[start : start + ARRAY]])

    def _earlier(self, one: Unit, known: Mapping[str, str]) -> _Sent | None:
        """Return a unit that an earlier command has sent and Slurm still has."""
        path = self.launcher.note(one)
        if one.fresh or not path.exists():
            return None
        job = str(json.loads(path.read_text(encoding="utf-8"))["job"])
        return _Sent(one, job) if job in known else None

    def _send(self, several: Sequence[_Sent]) -> None:
        jobs = self.launcher.submit([sent.unit for sent in several])
        for sent, job in zip(several, jobs, strict=True):
            sent.job, sent.missed = job, 0
            write_json(self.launcher.note(sent.unit), {"job": job, "unit": sent.unit.label})
            if sent not in self.under_way:
                self.under_way.append(sent)

    def _tell(self) -> None:
        for sent in self.under_way:
            path = self.launcher.word(sent.unit)
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            if text and text != sent.told:
                sent.told = text
                self.watch(Moment(**json.loads(text)))

    def _ended(self, sent: _Sent, known: Mapping[str, str] | None) -> Outcome | None:
        """Return what became of a unit, None while it goes on; a job that Slurm has lost is sent again."""
        outcome = self._result(sent)
        if outcome is not None or known is None:
            return outcome
        sent.missed = 0 if sent.job in known else sent.missed + 1
        if sent.missed < 2:  # a shared folder may show a result later than Slurm
            return None
        if sent.attempt > self.launcher.request.retries:
            reason = f"as job {sent.job}, whose log is in {self.launcher.folder}"
            return self.launcher.worker.given_up(sent.unit, sent.attempt, reason)
        log.warning("%s: its job %s died, it is sent again", sent.unit.label, sent.job)
        sent.unit, sent.attempt = sent.unit.again(), sent.attempt + 1
        self._send([sent])
        return None

    def _result(self, sent: _Sent) -> Outcome | None:
        from submitit.core.utils import JobPaths, pickle_load

        path = JobPaths(self.launcher.folder, sent.job).result_pickle
        if not path.exists():
            return None
        kind, found = pickle_load(path)
        if kind == "success":
            return dataclasses.replace(found, attempts=sent.attempt)
        reason = str(found).strip().splitlines()[-1]
        return Outcome(sent.unit.label, "failed", reason, attempts=sent.attempt)

    def _give_up(self) -> None:
        """End what is still queued or running; checkpoints stay."""
        jobs = [sent.job for sent in self.under_way]
        for start in range(0, len(jobs), ARRAY):
            subprocess.run(["scancel", *jobs[start : start + ARRAY]], check=False)
        for sent in self.under_way:
            self.launcher.note(sent.unit).unlink(missing_ok=True)
        self.under_way.clear()


def _asked() -> dict[str, str] | None:
    """Return the queue, None while Slurm does not answer, which is no reason to give up jobs that run."""
    try:
        return queue()
    except Unreachable as error:
        log.warning("%s", error)
        return None


def queue() -> dict[str, str]:
    """Return the states of this user's jobs by their id, an array's jobs each by its own; accounting is not needed.

    Raises:
        Unreachable: Slurm does not answer.
    """
    command = ["squeue", "--noheader", "--array", f"--user={getpass.getuser()}", f"--name={NAME}", "--format=%i %T"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unreachable(f"expected Slurm to answer, got: {' '.join(done.stderr.split())}")
    return dict(line.split() for line in done.stdout.splitlines())
