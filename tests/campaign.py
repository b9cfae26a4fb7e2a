"""Kill one specification at random moments, again and again: `python -m tests.campaign --kills 200`.

Every attempt is a process of its own that is sent SIGKILL after a random time; the same command then goes on. A
specification that has got to its end is compared with an undisturbed one, to the byte, and begun again in a new folder,
until the kills are spent. With `--jobs 2` the victim is the command or one of its workers. Exit code 0: all the same.
"""

import argparse
import functools
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tests.benches import TINY, folders, lines, quick, record_bytes

from bench import data, run

METHODS = ("darts", "random_ws", "gdas")
ROOT = Path(__file__).parents[1]


@dataclass
class Tally:
    """What a campaign has done.

    Attributes:
        rounds: specifications that came to their end.
        bytes_same: their runs that are the undisturbed ones to the byte.
        again: attempts on runs beyond the first.
    """

    kills: int = 0
    rounds: int = 0
    runs: int = 0
    bytes_same: int = 0
    again: int = 0
    differ: list[str] = field(default_factory=list)


def command(results: Path, jobs: int) -> list[str]:
    more = ["--methods", ",".join(METHODS), *quick(*METHODS), "--epochs", "4", "--curvature", "off", "--threads", "1"]
    return [*TINY, *more, "--replicas", "1", "--jobs", str(jobs), "--retries", "99", "--results", str(results)]


@dataclass
class Killer:
    """Decides when the next kill comes, and whom it hits."""

    results: Path
    jobs: int
    kills: int
    duration_s: float
    rng: np.random.Generator
    tally: Tally

    def arm(self) -> None:
        """Draw the next moment: any time, or, where processes take long to start, some records later."""
        self.at_s = time.monotonic() + (self.rng.uniform(0, self.duration_s / 3) if self.jobs == 1 else 0)
        self.at_records = 0 if self.jobs == 1 else records(self.results) + int(self.rng.integers(0, 8))

    def due(self) -> bool:
        if self.tally.kills >= self.kills or time.monotonic() < self.at_s:
            return False
        return self.jobs == 1 or (records(self.results) >= self.at_records and self.rng.uniform() < 0.05)

    def strike(self, pid: int) -> bool:
        """Kill the command or one of its workers; return whether it was the command."""
        victims = [pid, *children(pid)]
        victim = victims[self.rng.integers(len(victims))]
        os.kill(victim, signal.SIGKILL)
        self.tally.kills += 1
        whom = "the command" if victim == pid else "a worker"
        say(f"kill {self.tally.kills}: {whom}, {records(self.results)} records")
        return victim == pid


def campaign(folder: Path, kills: int, jobs: int, seed: int) -> Tally:
    rng, tally = np.random.default_rng(seed), Tally()
    start = time.monotonic()
    assert attempt(command(folder / "whole", jobs), Killer(folder / "whole", jobs, 0, 0.0, rng, tally))
    whole, duration_s = record_bytes(folder / "whole"), time.monotonic() - start
    while tally.kills < kills:
        killer = Killer(folder / f"round-{tally.rounds}", jobs, kills, duration_s, rng, tally)
        while not attempt(command(killer.results, jobs), killer):
            check_beginnings(killer.results, whole)
        found = record_bytes(killer.results)
        tally.rounds, tally.runs = tally.rounds + 1, tally.runs + len(whole)
        tally.bytes_same += sum(found.get(name) == text for name, text in whole.items())
        tally.differ += [f"{killer.results}: {name}" for name, text in whole.items() if found.get(name) != text]
        tally.again += repeated(killer.results)
    return tally


def attempt(arguments: list[str], killer: Killer) -> bool:
    """Run the command; return whether it came to its end before it was killed itself."""
    pid = forked(arguments) if killer.jobs == 1 else spawned(arguments)
    killer.arm()
    while True:
        if status := ended(pid):
            assert os.waitstatus_to_exitcode(status[1]) == 0, f"exit code {status[1]}"
            return True
        if killer.due():
            if killer.strike(pid):
                os.waitpid(pid, 0)
                return False
            killer.arm()
        time.sleep(0.002)


def ended(pid: int) -> tuple[int, int] | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return (found, status) if found else None


def forked(arguments: list[str]) -> int:
    """Start the command in a child that has everything imported; one thread, so a fork is safe."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        code = run.main(arguments)
    finally:
        os._exit(code)


def spawned(arguments: list[str]) -> int:
    out = subprocess.DEVNULL
    return subprocess.Popen([sys.executable, "-m", "bench.run", *arguments], cwd=ROOT, stdout=out, stderr=out).pid


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]
    except FileNotFoundError:
        return []


def records(results: Path) -> int:
    paths = [path / "records.jsonl" for path in folders(results).values()]
    return sum(path.read_bytes().count(b"\n") for path in paths if path.exists())


def check_beginnings(results: Path, whole: dict[str, bytes]) -> None:
    """What a kill leaves is always the beginning of the undisturbed records."""
    for name, path in folders(results).items():
        text = (path / "records.jsonl").read_bytes() if (path / "records.jsonl").exists() else b""
        assert whole[name].startswith(text), f"{path} is not a beginning"


def repeated(results: Path) -> int:
    """Return how many attempts the runs took beyond the first."""
    paths = [path / "attempts.jsonl" for path in folders(results).values()]
    return sum(len(lines(path)) - 1 for path in paths)


def say(line: str) -> None:
    sys.stderr.write(line + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    data.load = loaded = functools.cache(data.load)
    loaded("digits", data.data_root(), "recipe")  # the children of a fork have it
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally = campaign(Path(folder), given.kills, given.jobs, given.seed)
    for line in tally.differ:
        say(f"differs: {line}")
    sys.stdout.write(
        f"{tally.kills} kills, {tally.rounds} specifications to their end, {tally.bytes_same} of {tally.runs} runs the "
        f"same to the byte, {tally.again} attempts beyond the first, {time.monotonic() - start:.0f} s\n"
    )
    return 1 if tally.differ else 0


if __name__ == "__main__":
    sys.exit(main())
