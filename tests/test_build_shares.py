"""Tables that several processes build: the same numbers from any number of them, and none outlives the command."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests import benches
from tests.benches import alive
from tests.test_run import ROOT

from bench import cores, memory, spaces
from bench.cores import Share
from bench.tables import Table, __main__
from bench.tables.commands import building
from bench.tables.plan import first_encodings

SIZES = {"runs": 1, "epochs": 1, "train-images": 40, "eval-images": 20, "channels": 2, "batch-size": 8, "replicas": 4}
LITTLE = ["build", "--space=toy", "--device=cpu", *(f"--{name}={value}" for name, value in SIZES.items())]
WHOLE, HALVES = ["1-of-1.jsonl"], ["1-of-2.jsonl", "2-of-2.jsonl"]


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    benches.isolate(monkeypatch, tmp_path)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(cores, "cores", lambda: 2)
    monkeypatch.setattr(memory, "limit_bytes", lambda _device: 2**34)


def build(folder: Path, *more: str) -> tuple[list[str], list[tuple[float, ...]]]:
    """Build a table; the files of its parts, and its accuracies."""
    given = ["--out", str(folder / "t.arrow"), "--parts", str(folder / "parts"), *more]
    assert __main__.main([*LITTLE, *given]) == 0
    table = Table.open(folder / "t.arrow", "digits")
    entries = [table.query(key) for key in first_encodings(spaces.get("toy"), spaces.get("toy").key)]
    found = [entry.test for entry in entries if entry is not None]
    assert len(found) == 27
    return sorted(path.name for path in (folder / "parts").iterdir()), found


@pytest.mark.parametrize(
    ("given", "found"), [([], Share(2, 1)), (["--jobs", "9"], Share(7, 1)), (["--fresh"], Share(2, 1))]
)
def test_every_core_gets_a_share_and_none_is_empty(
    given: list[str], found: Share, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """27 cells in stacks of 4 are seven stacks."""

    def refuse(_chosen: object, here: Share, _folder: Path) -> None:
        shared.append(here)
        raise ValueError("enough")

    shared: list[Share] = []
    monkeypatch.setattr(building, "_share_out", refuse)
    assert __main__.main([*LITTLE, "--parts", str(tmp_path / "parts"), *given]) == 2
    assert shared == [found]


@pytest.mark.slow
def test_every_core_trains_a_share_and_the_table_is_the_same(tmp_path: Path) -> None:
    names, accuracies = build(tmp_path / "two")
    assert names == HALVES
    assert len(set(accuracies)) > 3
    assert build(tmp_path / "one", "--jobs", "1") == (WHOLE, accuracies)
    assert build(tmp_path / "two", "--fresh") == (HALVES, accuracies)


def test_a_share_is_trained_by_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_share_out", lambda *_: pytest.fail("started processes"))
    assert __main__.main([*LITTLE, "--parts", str(tmp_path / "parts"), "--share", "1/2"]) == 0
    assert [path.name for path in (tmp_path / "parts").iterdir()] == HALVES[:1]


def test_no_process_is_started_for_what_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, accuracies = build(tmp_path, "--jobs", "1")
    (tmp_path / "t.arrow").unlink()
    monkeypatch.setattr(building, "_share_out", lambda *_: pytest.fail("started processes"))
    assert build(tmp_path) == (names, accuracies)


HEARS = """\
import signal, sys
from bench.tables.__main__ import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
sys.exit(main(sys.argv[1:]))
"""
GOES_ON = "interrupted: finished trainings of a table are kept, the same command goes on from them\n"


@pytest.mark.parametrize("end", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_processes_end_with_the_command(end: signal.Signals, tmp_path: Path) -> None:
    """Long trainings, killed when both have begun to write."""
    long = ["--epochs", "400", "--jobs", "2", "--out", str(tmp_path / "t.arrow"), "--parts", str(tmp_path / "parts")]
    command, last = [sys.executable, "-c", HEARS, *LITTLE, *long], time.monotonic() + 60
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        while len(list((tmp_path / "parts").glob("*-of-2.jsonl"))) < 2:
            assert running.poll() is None
            assert time.monotonic() < last
            time.sleep(0.05)
        workers = children(running.pid)
        running.send_signal(end)
        _, error = running.communicate(timeout=60)
    assert len(workers) == 2
    assert error == (GOES_ON if end == signal.SIGINT else "")
    while any(map(alive, workers)):
        assert time.monotonic() < last
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    told = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
    return [int(child) for child in told.split()]
