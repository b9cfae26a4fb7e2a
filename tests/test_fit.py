"""`--replicas auto`: the widest stack that a trial shows to fit, and what is told and recorded of memory."""

import logging
import sys
from pathlib import Path

import pytest
import torch
from tests import benches
from tests.benches import command, folders, lines

from bench import memory, run
from bench.launch import fit as module
from bench.launch.fit import Fit, balanced, fit, limit_bytes, widest
from searchers.registry import METHODS

CPU = torch.device("cpu")
OFF = ("--curvature", "off")
FOUR = (*OFF, "--seeds", "0:4", "--replicas", "auto")


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unchecked: None) -> None:
    benches.isolate(monkeypatch, tmp_path)


def of_peaks(fixed: int, per_seed: int, most: int, limit: int, ends_at: int = sys.maxsize) -> tuple[Fit, list[int]]:
    """A machine whose peak is linear in the width, and whose memory runs out at `ends_at` bytes; the widths tried."""
    tried: list[int] = []

    def trial(width: int) -> int | None:
        tried.append(width)
        peak = fixed + per_seed * width
        return peak if peak < ends_at else None

    return widest(trial, most, limit), tried


@pytest.mark.parametrize(
    ("fixed", "per_seed", "most", "limit", "width", "tried"),
    [
        (100, 10, 16, 1000, 16, [1, 2, 4, 8, 16]),
        (100, 10, 16, 200, 10, [1, 2, 4, 8, 10]),
        (100, 10, 7, 1000, 7, [1, 2, 4, 7]),
        (100, 10, 16, 129, 2, [1, 2]),
        (100, 0, 5, 100, 5, [1, 2, 4, 5]),
        (100, 10, 16, 115, 1, [1, 2]),
        (100, 10, 16, 50, 1, [1]),
    ],
)
def test_the_widest_that_fits_is_found_and_no_much_wider_one_is_tried(
    fixed: int, per_seed: int, most: int, limit: int, width: int, tried: list[int]
) -> None:
    found, widths = of_peaks(fixed, per_seed, most, limit)
    assert (found.width, widths) == (width, tried)
    fits = fixed + per_seed <= limit
    assert found.peak_bytes == (fixed + per_seed * width if fits else None)


def test_memory_that_runs_out_in_a_trial_ends_the_trials() -> None:
    found, widths = of_peaks(100, 10, 16, 1000, ends_at=150)
    assert (found.width, widths) == (4, [1, 2, 4, 8])


def test_stacks_are_as_equal_as_they_can_be() -> None:
    assert [balanced(count, 4) for count in (1, 4, 5, 8, 9)] == [1, 4, 3, 4, 3]


def test_a_trial_takes_a_step_and_a_product_and_reads_the_peak(tmp_path: Path) -> None:
    bench = benches.bench(tmp_path, "darts", "--seeds", "0:4")
    found = fit(bench, METHODS["darts"], benches.stack(bench, "darts").specs)
    assert found.width == 4
    assert 2**25 < found.peak_bytes <= memory.peak_bytes(CPU)
    assert not (tmp_path / "runs").exists()


def test_what_trains_nothing_is_not_tried_and_what_fails_is_left_to_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_try", lambda *_: (_ for _ in ()).throw(RuntimeError("no")))
    for method, said in (("zero_cost_pt", []), ("darts", ["darts: the trial of its memory failed (no)"])):
        bench = benches.bench(tmp_path, method, "--seeds", "0:3")
        found = fit(bench, METHODS[method], benches.stack(bench, method).specs)
        assert (found.width, found.peak_bytes) == (3, None)
        assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == said


def test_jobs_share_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "limit_bytes", lambda _device: 3000)
    limits = [limit_bytes(benches.bench(tmp_path, "darts", "--jobs", jobs)) for jobs in ("1", "3")]
    assert limits == [2700, 900]


def limited(monkeypatch: pytest.MonkeyPatch, fits: int) -> None:
    """A machine on which so many seeds fit: every seed takes 100 bytes."""
    widths: list[int] = []

    def tried(_bench: object, _method: object, specs: tuple[object, ...]) -> int:
        widths.append(len(specs))
        return 100 * len(specs)

    monkeypatch.setattr(module, "peak_bytes", tried)
    monkeypatch.setattr(module, "limit_bytes", lambda _bench: 100 * fits)


def test_auto_searches_what_fits_with_the_records_of_that_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limited(monkeypatch, 3)
    assert run.main(command(tmp_path / "auto", "darts", *FOUR)) == 0
    assert "toy darts: stacks of 3, tried: peak 0 MiB of 0 MiB" in capsys.readouterr().out
    stacked = {name: lines(path / "attempts.jsonl")[-1]["seeds"] for name, path in folders(tmp_path / "auto").items()}
    assert sorted(map(tuple, stacked.values())) == [(0, 1), (0, 1), (2, 3), (2, 3)]
    assert run.main(command(tmp_path / "two", "darts", *OFF, "--seeds", "0:4", "--replicas", "2")) == 0
    assert benches.record_bytes(tmp_path / "auto") == benches.record_bytes(tmp_path / "two")
    for path in folders(tmp_path / "auto").values():
        assert all(timing["peak_bytes"] > 2**20 for timing in lines(path / "timing.jsonl"))


def test_auto_that_was_too_wide_after_all_falls_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a method needs later is not seen by the trial."""
    limited(monkeypatch, 4)
    begun: list[int] = []
    session = module.setup.stack

    def small(bench: object, method: object, specs: tuple[object, ...]) -> object:
        begun.append(len(specs))
        if len(specs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return session(bench, method, specs)

    monkeypatch.setattr("bench.setup.stack", small)
    assert run.main(command(tmp_path, "darts", *FOUR)) == 0
    assert begun == [4, 2, 2]
    assert len(folders(tmp_path)) == 4
    assert all((path / "finished.json").exists() for path in folders(tmp_path).values())


def test_a_dry_run_shows_the_stacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limited(monkeypatch, 2)
    assert run.main(command(tmp_path, "darts", *FOUR, "--dry-run")) == 0
    said = capsys.readouterr().out
    assert "toy darts: stacks of 2, tried" in said
    assert "unit toy darts seeds 0,1: stack of 2" in said
    assert "unit toy darts seeds 2,3: stack of 2" in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--replicas", "some"), "expected a positive whole number or auto, got 'some'"),
        (("--replicas", "0"), "expected a positive whole number or auto for replicas, got 0"),
        (("--replicas", "auto", "--launcher", "slurm"), "expected a number for --replicas beside --launcher slurm"),
    ],
)
def test_bad_widths_are_one_sentence(
    given: tuple[str, ...], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run.main(command(tmp_path, "darts", *given)) == 2
    assert said in caplog.text


def test_the_limit_is_of_the_machine_or_of_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    monkeypatch.setattr(memory, "CONTAINER", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable: 600 kB\n")
    (tmp_path / "status").write_text("VmPeak: 999 kB\nVmRSS: 50 kB\n")
    assert memory.limit_bytes(CPU) == 650 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.limit_bytes(CPU) == 650 * 1024
    (tmp_path / "memory.max").write_text(f"{400 * 1024}\n")
    (tmp_path / "memory.current").write_text(f"{100 * 1024}\n")
    assert memory.limit_bytes(CPU) == 350 * 1024
    (tmp_path / "meminfo").unlink()
    (tmp_path / "memory.max").unlink()
    assert memory.limit_bytes(CPU) > 2**30
