"""Cores of the machine: how many searches at once, and threads of each, where the command does not say."""

import os
from pathlib import Path

import pytest
import torch
from tests import benches
from tests.benches import command, folders, lines
from tests.test_run import OFF, ROOT

from bench import cores, memory, process, run, setup
from bench.cores import SMALL, Share, share

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    monkeypatch.setattr(memory, "limit_bytes", lambda _device: 100 * cores.PROCESS_BYTES)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)


@pytest.mark.parametrize(
    ("numbers", "device", "asked", "found"),
    [
        (SMALL, CPU, (None, None), Share(8, 1)),
        (SMALL, CPU, (3, None), Share(3, 1)),
        (SMALL, CPU, (None, 3), Share(2, 3)),
        (SMALL, CPU, (None, 99), Share(1, 99)),
        (SMALL, CPU, (2, 7), Share(2, 7)),
        (SMALL + 1, CPU, (None, None), Share(1, 5)),
        (SMALL + 1, CPU, (2, None), Share(2, 4)),
        (SMALL + 1, CPU, (16, None), Share(16, 1)),
        (SMALL + 1, CPU, (None, 3), Share(1, 3)),
        (1, CUDA, (None, None), Share(1, 5)),
        (1, CUDA, (2, None), Share(2, 4)),
    ],
)
def test_small_maps_get_one_thread_and_every_core(
    numbers: int, device: torch.device, asked: tuple[int | None, int | None], found: Share
) -> None:
    assert share(numbers, device, *asked) == found


@pytest.mark.parametrize(("gib", "jobs"), [(100, 8), (5, 5), (0, 1)])
def test_memory_bounds_what_runs_at_once(gib: int, jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "limit_bytes", lambda _device: gib * 2**30)
    assert share(1, CPU, None, None).jobs == jobs
    assert share(1, CPU, 20, None).jobs == 20


def test_there_are_no_more_processes_than_units() -> None:
    assert [Share(8, 1).of(units).jobs for units in (0, 1, 3, 9)] == [1, 1, 3, 8]


def test_the_papers_size_is_not_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    benches.isolate(monkeypatch, tmp_path)
    here = benches.bench(tmp_path, "darts")
    assert setup.map_numbers(here) == 8 * 2 * here.dataset.search.images.shape[-1] ** 2
    assert setup.map_numbers(benches.bench(tmp_path, "darts", "--batch-size", "16")) == 2 * setup.map_numbers(here)
    assert 64 * 16 * 32**2 > SMALL


def test_a_command_shares_its_units_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two stacks, no `--jobs`: two processes of one thread; one stack: none, and one thread."""
    benches.isolate(monkeypatch, tmp_path)
    monkeypatch.chdir(ROOT)
    used: list[int] = []
    monkeypatch.setattr(process, "use", used.append)
    words = command(tmp_path, "darts", *OFF, "--replicas", "1")
    at = words.index("--jobs")
    del words[at : at + 2]
    for seeds, own in (("0:2", False), ("2:3", True)):
        assert run.main([*words, "--seeds", seeds]) == 0
        attempts = [lines(folder / "attempts.jsonl")[0] for folder in folders(tmp_path).values()]
        pids = {attempt["pid"] for attempt in attempts if attempt["seeds"][0] in range(*map(int, seeds.split(":")))}
        assert (pids == {os.getpid()}) is own
        assert ("2 stacks at once, one thread each" in capsys.readouterr().out) is not own
    assert used[-1] == 1
