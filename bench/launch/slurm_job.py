"""What a Slurm job does with a unit: search it, leave word of every instant, say what it does when it runs again."""

import dataclasses
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import process
from bench.checkpoint import write_json
from bench.launch.unit import Moment, Outcome, unit
from bench.launch.work import Worker


@dataclass
class Errand:
    """What a job does: search a unit and leave word of every instant in a file.

    Attributes:
        unit: `Unit.plain`.
        word: the file.
        limit_s: the time limit.
    """

    unit: dict[str, Any]
    word: Path
    limit_s: float
    began: float = 0.0
    instants: int = 0

    def __call__(self) -> Outcome:
        self.began, self.instants = time.monotonic(), 0
        one = unit(self.unit)
        if int(os.environ.get("SLURM_RESTART_COUNT", "0")):
            one = one.again()
        cpus = int(os.environ.get("SLURM_CPUS_PER_TASK", "1"))
        process.begin(one.request.threads or cpus)
        return Worker().search(one, self._tell)

    def _tell(self, moment: Moment) -> None:
        self.instants += 1
        write_json(self.word, dataclasses.asdict(moment))

    def checkpoint(self) -> Any:
        """Return what the job does when it runs again; None, which ends it, where a whole time limit led nowhere."""
        from submitit.helpers import DelayedSubmission

        if not self.instants and time.monotonic() - self.began > self.limit_s / 2:
            return None
        return DelayedSubmission(Errand(unit(self.unit).again().plain(), self.word, self.limit_s))
