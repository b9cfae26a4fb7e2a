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
    return [*TINY, *more, "--replicas", "1", "--jobs", str(jobs), "--results", str(results)]


def campaign(folder: Path, kills: int, jobs: int, seed: int) -> Tally:
    rng, tally = np.random.default_rng(seed), Tally()
    start = time.monotonic()
    assert attempt(command(folder / "whole", jobs), None, jobs, rng)
    whole, duration_s = record_bytes(folder / "whole"), time.monotonic() - start
    total = sum(text.count(b"\n") for text in whole.values())
    while tally.kills < kills:
        results = folder / f"round-{tally.rounds}"
        while not attempt(command(results, jobs), moment_s(tally.kills < kills, duration_s, rng), jobs, rng):
            tally.kills += 1
            check_beginnings(results, whole)
            say(f"kill {tally.kills}: {records(results)} records of {total}")
        found = record_bytes(results)
        tally.rounds, tally.runs = tally.rounds + 1, tally.runs + len(whole)
        tally.bytes_same += sum(found.get(name) == text for name, text in whole.items())
        tally.differ += [f"{results}: {name}" for name, text in whole.items() if found.get(name) != text]
        tally.again += repeated(results)
    return tally


def moment_s(kills_left: bool, duration_s: float, rng: np.random.Generator) -> float | None:
    """Return after how many seconds the next kill comes; None: never, since all are spent."""
    return float(rng.uniform(0, duration_s / 3)) if kills_left else None


def attempt(arguments: list[str], after_s: float | None, jobs: int, rng: np.random.Generator) -> bool:
    """Run the command; return whether it came to its end before it was killed."""
    pid = forked(arguments) if jobs == 1 else spawned(arguments)
    until = time.monotonic() + (1e9 if after_s is None else after_s)
    while time.monotonic() < until:
        if status := ended(pid):
            assert os.waitstatus_to_exitcode(status[1]) == 0, f"exit code {status[1]}"
            return True
        time.sleep(0.002)
    victims = [pid, *children(pid)]
    os.kill(victims[rng.integers(len(victims))], signal.SIGKILL)
    if jobs > 1:  # a worker's death is the launcher's affair; the command is killed later, or comes to its end
        return attempt_goes_on(pid, rng)
    os.waitpid(pid, 0)
    return False


def attempt_goes_on(pid: int, rng: np.random.Generator) -> bool:
    until = time.monotonic() + rng.uniform(0, 3)
    while time.monotonic() < until:
        if ended(pid):
            return False  # the kill counts; whether it has come to its end is seen by the next attempt
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


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
