"""Commands in processes of their own, for tests of launchers: a small grid, the undisturbed records, and waiting."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.benches import record_bytes

ROOT = Path(__file__).parents[1]
GRID = (
    *("--space", "toy", "--benchmark", "embedded", "--table", "none", "--train-size", "40", "--batch-size", "4"),
    *("--channels", "2", "--probe-size", "10", "--curvature", "off", "--device", "cpu", "--threads", "1"),
    *("--seeds", "0:2", "--replicas", "1"),
)

HEARS = """\
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from bench.run import main
sys.exit(main(sys.argv[1:]))
"""


def grid(results: Path, epochs: int, *more: str) -> list[str]:
    """Four units of one seed; a search takes some 40 ms an epoch."""
    return [*GRID, "--methods", "darts,random_ws", "--epochs", str(epochs), "--results", str(results), *more]


def undisturbed(results: Path, epochs: int) -> dict[str, bytes]:
    """Return the records of the grid, searched by one job; in a process without checks of shapes and types."""
    assert started(grid(results, epochs), results).wait(timeout=900) == 0, said(results)
    return record_bytes(results)


def started(
    arguments: Sequence[str], folder: Path, environment: dict[str, str] | None = None
) -> "subprocess.Popen[str]":
    """Start the command in a process of its own; what it says goes to a file in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "said.txt").open("a", encoding="utf-8") as out:
        return subprocess.Popen(
            [sys.executable, "-c", HEARS, *arguments],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
        )


def said(folder: Path) -> str:
    return (folder / "said.txt").read_text(encoding="utf-8")


def until(what: Callable[[], bool], seconds: float = 600) -> None:
    """Wait for something; the message of a failure is its name."""
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s for {what.__name__}")
        time.sleep(0.1)


def lines(results: Path) -> int:
    """Return how many records there are."""
    return sum(path.read_bytes().count(b"\n") for path in results.glob("runs/*/records.jsonl"))


def finished(results: Path) -> int:
    return len(list(results.glob("runs/*/finished.json")))
