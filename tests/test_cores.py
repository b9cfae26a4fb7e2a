"""Cores of the machine: how many searches at once, and threads of each, where the command does not say."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch
from tests import benches
from tests.benches import command, folders, lines
from tests.test_run import OFF, ROOT

from bench import cores, memory, process, run, setup
from bench.cores import SMALL, Share, Work, share

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    monkeypatch.setattr(memory, "limit_bytes", lambda _device: 100 * 2**30)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    monkeypatch.setattr(cores, "QUOTA", Path("/nowhere/cpu.max"))


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
    assert share(Work(numbers, 0), device, *asked) == found


@pytest.mark.parametrize(
    ("mib", "maps_mib", "jobs"), [(9999, 0, 8), (4096, 64, 7), (4096, 2048, 1), (5120, 512, 5), (0, 0, 1)]
)
def test_memory_bounds_what_runs_at_once(mib: int, maps_mib: int, jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "limit_bytes", lambda _device: mib * 2**20)
    assert share(Work(1, maps_mib * 2**20), CPU, None, None).jobs == jobs
    assert share(Work(1, maps_mib * 2**20), CPU, 20, None).jobs == 20


@pytest.mark.parametrize(
    ("told", "found"),
    [("max 100000", 8), ("300000 100000", 3), ("250000 100000", 2), ("50000 100000", 1), ("9900000 100000", 8)],
)
def test_a_container_has_its_quota(told: str, found: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text(told + "\n", encoding="utf-8")
    monkeypatch.setattr(cores, "QUOTA", tmp_path / "cpu.max")
    assert cores.cores() == found
    assert share(Work(1, 0), CPU, None, None).jobs == found


def test_there_are_no_more_processes_than_units() -> None:
    assert [Share(8, 1).of(units).jobs for units in (0, 1, 3, 9)] == [1, 1, 3, 8]


@pytest.fixture
def benchmark_of_tests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    benches.isolate(monkeypatch, tmp_path)


@pytest.mark.usefixtures("benchmark_of_tests")
def test_the_work_is_that_of_a_search(tmp_path: Path) -> None:
    here = benches.bench(tmp_path, "darts", "--seeds", "0:5")
    numbers = 8 * 2 * here.dataset.search.images.shape[-1] ** 2
    of_a_seed = numbers * setup.NUMBER_BYTES
    assert setup.work(here) == Work(numbers, 5 * of_a_seed)
    assert setup.work(benches.bench(tmp_path, "darts", "--batch-size", "16")) == Work(2 * numbers, 4 * of_a_seed)
    for asked, seeds in (("3", 3), ("9", 5), ("auto", 5)):
        found = setup.work(benches.bench(tmp_path, "darts", "--seeds", "0:5", "--replicas", asked))
        assert found.maps_bytes == seeds * of_a_seed
    assert SMALL < 64 * 16 * 32**2  # the papers' size


@pytest.mark.usefixtures("benchmark_of_tests")
def test_a_command_decides_once_for_all_its_spaces(tmp_path: Path) -> None:
    def shared(*channels: str, more: tuple[str, ...] = ()) -> tuple[Share, list[int | None]]:
        found, several = run._shared([automatic(tmp_path, "--channels", one, *more) for one in channels])
        return found, [one.request.jobs for one in several]

    assert shared("2", "4") == (Share(8, 1), [8, 8])
    assert shared("2", "4096") == (Share(1, 5), [1, 1])
    assert shared("2", more=("--threads", "3")) == (Share(2, 3), [2])
    assert shared("2", more=("--launcher", "slurm")) == (Share(1, 5), [None])


def automatic(folder: Path, *more: str) -> setup.Bench:
    """A benchmark whose request leaves the jobs open."""
    found = benches.bench(folder, "darts", *more)
    return dataclasses.replace(found, request=dataclasses.replace(found.request, jobs=None))


@pytest.mark.usefixtures("benchmark_of_tests")
def test_a_dry_run_counts_what_runs_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*command(tmp_path, "darts", *OFF, "--replicas", "1", "--seeds", "0:3"), "--dry-run"]
    at = words.index("--jobs")
    for jobs, told in (([], 3), (["--jobs", "2"], 2), (["--jobs", "64"], 3)):
        assert run.main([*words[:at], *jobs, *words[at + 2 :]]) == 0
        printed = capsys.readouterr().out
        assert f" s with {told} at once; 0 runs have finished" in printed
        assert ("3 stacks at once, 1 thread each" in printed) == (not jobs)


@pytest.mark.usefixtures("benchmark_of_tests")
def test_a_command_shares_its_units_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two stacks, no `--jobs`: two processes of one thread; one stack: none, and one thread."""
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
        assert ("2 stacks at once, 1 thread each" in capsys.readouterr().out) is not own
    assert used[-1] == 1
