"""What goes wrong outside the method: disks, locks, memory, clocks, numbers. Nothing that was recorded is lost."""

import dataclasses
import errno
import json
import math
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import benches
from tests.benches import command, folders, lines, record_bytes
from tests.test_run import OFF, interrupted
from tests.test_store import spoil

from bench import lock, run, search
from bench.launch import work
from bench.lock import locked
from bench.store import Store
from searchers.base import Searcher, StepBatches, StepLosses
from searchers.registry import METHODS

Whole = Callable[..., dict[str, bytes]]


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unchecked: None) -> None:
    benches.isolate(monkeypatch, tmp_path)


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Records of undisturbed searches, each made once."""
    made: dict[tuple[str, ...], dict[str, bytes]] = {}

    def records(*arguments: str) -> dict[str, bytes]:
        if arguments not in made:
            results = tmp_path_factory.mktemp("whole")
            assert run.main(command(results, *arguments)) == 0
            made[arguments] = record_bytes(results)
        return made[arguments]

    return records


# Disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 KB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", place], check=False).returncode:
        pytest.skip("a file system of its own can only be mounted by root")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_ends_the_stack_and_more_room_lets_it_go_on(
    small_disk: Path, whole: Whole, errors: Callable[[], list[str]]
) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(150_000))
    assert run.main(command(small_disk, "darts", *OFF)) == 1
    assert any(message.startswith("failed: toy darts seeds 0,1: OSError: [Errno 28] No space") for message in errors())
    filler.unlink()
    assert run.main(command(small_disk, "darts", *OFF)) == 0
    assert record_bytes(small_disk) == whole("darts", *OFF)


@pytest.mark.parametrize("at", range(9))
def test_a_write_that_finds_no_room_costs_no_record(
    at: int, tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch, errors: Callable[[], list[str]]
) -> None:
    count, fsync = [0], os.fsync

    def full(file: int) -> None:
        count[0] += 1
        if count[0] > at:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code = run.main(command(tmp_path, "darts", *OFF, "--epochs", "1", "--seeds", "0:1"))
    assert code == 1
    assert "No space left on device" in errors()[-2]
    assert count[0] > at
    assert run.main(command(tmp_path, "darts", *OFF, "--epochs", "1", "--seeds", "0:1")) == 0
    assert record_bytes(tmp_path) == whole("darts", *OFF, "--epochs", "1", "--seeds", "0:1")


def test_a_place_that_cannot_be_written_to_is_said_before_anything_is_searched(
    tmp_path: Path, errors: Callable[[], list[str]]
) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "results"
    assert run.main(command(place, "darts", *OFF)) == 2
    assert errors() == [f"error: expected a folder that can be written to at --results, got {place}: Not a directory"]


def test_a_file_system_that_cannot_be_written_to(small_disk: Path, errors: Callable[[], list[str]]) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert run.main(command(small_disk, "darts", *OFF)) == 2
    (said,) = errors()
    assert said.endswith(f"got {small_disk}: Read-only file system")


def test_a_results_folder_that_vanishes_fails_the_stack_and_the_next_command_starts_it_again(
    tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch, errors: Callable[[], list[str]]
) -> None:
    results, save = tmp_path / "r", Store.save

    def vanishing(store: Store, state: dict[str, Any]) -> None:
        save(store, state)
        if state["epoch"] == 1:
            shutil.rmtree(results)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "save", vanishing)
        assert run.main(command(results, "darts", *OFF)) == 1
    assert errors()[0].startswith("failed: toy darts seeds 0,1: FileNotFoundError: ")
    assert run.main(command(results, "darts", *OFF)) == 0
    assert record_bytes(results) == whole("darts", *OFF)


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "gone"])
def test_a_damaged_checkpoint_costs_an_epoch_and_no_record(
    damage: str, tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(monkeypatch, command(tmp_path, "darts", *OFF), 3)
    (path,) = (tmp_path / "stacks").glob("*/checkpoint.pt")
    spoil(path, damage)
    assert run.main(command(tmp_path, "darts", *OFF)) == 0
    assert record_bytes(tmp_path) == whole("darts", *OFF)
    attempts = lines(folders(tmp_path)["toy-darts-s0"] / "attempts.jsonl")
    assert [attempt["from_epoch"] for attempt in attempts] == [None, 0]


def test_records_whose_last_line_is_torn_below_the_checkpoint(
    tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(monkeypatch, command(tmp_path, "darts", *OFF), 3, torn=False)
    for name in ("records.jsonl", "timing.jsonl"):
        path = folders(tmp_path)["toy-darts-s1"] / name
        kept = b"".join(path.read_bytes().splitlines(keepends=True)[:2])
        path.write_bytes(kept[:-5])
    assert run.main(command(tmp_path, "darts", *OFF)) == 0
    assert record_bytes(tmp_path) == whole("darts", *OFF)


# Locks


def test_a_run_that_another_process_searches_is_refused_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, errors: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(lock, "WAIT_S", 0.2)
    assert run.main(command(tmp_path, "darts", *OFF, "--seeds", "1:2")) == 0
    name = folders(tmp_path)["toy-darts-s1"].name
    before = record_bytes(tmp_path)
    arguments = command(tmp_path, "darts", *OFF, "--replicas", "1", "--fresh")
    with locked(tmp_path, [name]):
        assert run.main(arguments) == 2
    assert errors() == [
        f"refused: toy darts seeds 1: the run {name} is being searched by process {os.getpid()} on "
        f"{os.uname().nodename}; wait for it, or end it"
    ]
    after = record_bytes(tmp_path)
    assert (after["toy-darts-s1"], set(after)) == (before["toy-darts-s1"], {"toy-darts-s0", "toy-darts-s1"})
    assert list((tmp_path / "locks").iterdir()) == []


def test_a_lock_that_is_let_go_of_soon_is_waited_for(tmp_path: Path) -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(tmp_path, ["a", "b"]):
            held.set()
            done.wait(5)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(5)
    threading.Timer(0.3, done.set).start()
    with locked(tmp_path, ["b"], wait_s=5):
        assert done.is_set()
    thread.join()
    with pytest.raises(lock.Held), locked(tmp_path, ["a"]), locked(tmp_path, ["a", "c"], wait_s=0):
        pytest.fail("had a lock twice")
    assert list((tmp_path / "locks").iterdir()) == []


def test_what_another_process_has_finished_since_it_was_planned_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = command(tmp_path, "darts", *OFF)
    searched, search_ = [], work.Worker.search

    def meanwhile(worker: work.Worker, unit: Any, watch: Any) -> Any:
        if not searched:
            searched.append(unit)
            assert run.main(arguments) == 0
            searched.append({path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.jsonl")})
        return search_(worker, unit, watch)

    monkeypatch.setattr(work.Worker, "search", meanwhile)
    assert run.main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.jsonl")} == searched[1]


# Numbers


def spoilt(method: str, factor: float, *seeds: int) -> Any:
    """The method with the weights of some seeds multiplied by a factor after each step."""
    entry = METHODS[method]

    def build(settings: Any, resources: Any) -> Searcher:
        searcher = entry.build(settings, resources)
        step, replicas = searcher.step, [resources.seeds.index(seed) for seed in seeds if seed in resources.seeds]

        def then_spoil(batches: StepBatches) -> StepLosses:
            losses = step(batches)
            for parameter in searcher.supernet.parameters():
                parameter.data[replicas] *= factor
            return losses

        searcher.step = then_spoil
        return searcher

    return dataclasses.replace(entry, build=build)


def test_a_run_that_diverges_ends_with_its_records_and_is_not_searched_again(
    tmp_path: Path,
    whole: Whole,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    undisturbed = whole("darts", *OFF, "--seeds", "0:3")
    capsys.readouterr()
    monkeypatch.setitem(METHODS, "darts", spoilt("darts", math.nan, 1))
    assert run.main(command(tmp_path, "darts", *OFF, "--seeds", "0:3")) == 0
    name = folders(tmp_path)["toy-darts-s1"].name
    printed = capsys.readouterr().out
    assert f"{name} diverged in epoch 1: train_loss is nan" in printed
    assert "2/3" in printed
    found = record_bytes(tmp_path)
    assert [name for name in found if found[name] != undisturbed[name]] == ["toy-darts-s1"]
    assert [line["epoch"] for line in lines(folders(tmp_path)["toy-darts-s1"] / "records.jsonl")] == [0, 1]
    assert len(lines(folders(tmp_path)["toy-darts-s1"] / "timing.jsonl")) == 2
    monkeypatch.setattr(work, "search", lambda *_arguments: pytest.fail("searched again"))
    assert run.main(command(tmp_path, "darts", *OFF, "--seeds", "0:3")) == 0
    assert "toy darts seeds 0,1,2: finished before" in capsys.readouterr().out


def test_a_stack_all_of_whose_runs_diverge_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "darts", spoilt("darts", math.nan, 0, 1))
    assert run.main(command(tmp_path, "darts", *OFF, "--epochs", "5")) == 0
    for folder in folders(tmp_path).values():
        assert [line["epoch"] for line in lines(folder / "records.jsonl")] == [0, 1]
        assert not (folder / "finished.json").exists()


def test_a_loss_that_explodes_is_a_divergence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "darts", spoilt("darts", 100.0, 0))
    assert run.main(command(tmp_path, "darts", *OFF)) == 0
    said = json.loads((folders(tmp_path)["toy-darts-s0"] / "diverged.json").read_text(encoding="utf-8"))
    assert said["epoch"] == 1
    assert re.fullmatch(r"supernet val_loss is [0-9.e+]+, over 10000 nats", said["reason"])
    assert (folders(tmp_path)["toy-darts-s1"] / "finished.json").exists()


def test_a_divergence_survives_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "darts", spoilt("darts", math.nan, 1))
    assert run.main(command(tmp_path / "whole", "darts", *OFF)) == 0
    interrupted(monkeypatch, command(tmp_path / "r", "darts", *OFF), 3, torn=False)
    assert run.main(command(tmp_path / "r", "darts", *OFF)) == 0
    assert record_bytes(tmp_path / "r") == record_bytes(tmp_path / "whole")
    assert (folders(tmp_path / "r")["toy-darts-s1"] / "diverged.json").exists()


# Memory


def small_device(monkeypatch: pytest.MonkeyPatch, fits: int) -> list[int]:
    """A device that a step of more than `fits` seeds does not fit on; the widths of the stacks that were begun."""
    widths: list[int] = []

    def searching(stack: search.Stack, store: Store, observe: Any) -> None:
        widths.append(len(stack.specs))
        if len(stack.specs) > fits:
            build = stack.method.build

            def failing(settings: Any, resources: Any) -> Searcher:
                searcher = build(settings, resources)
                searcher.step = lambda _batches: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory."))
                return searcher

            stack = dataclasses.replace(stack, method=dataclasses.replace(stack.method, build=failing))
        search.search(stack, store, observe)

    monkeypatch.setattr(work, "search", searching)
    return widths


def test_a_stack_that_does_not_fit_is_searched_as_smaller_ones(
    tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch, errors: Callable[[], list[str]]
) -> None:
    expected = whole("darts", *OFF, "--seeds", "0:4", "--replicas", "2")
    widths = small_device(monkeypatch, 2)
    assert run.main(command(tmp_path, "darts", *OFF, "--seeds", "0:4")) == 0
    assert widths == [4, 2, 2]
    assert record_bytes(tmp_path) == expected
    (said,) = errors()
    assert said == (
        "toy darts seeds 0,1,2,3: a stack of 4 does not fit into memory (CUDA out of memory.); "
        "it is searched as stacks of 2"
    )
    assert list((tmp_path / "stacks").iterdir()) == []
    attempts = lines(folders(tmp_path)["toy-darts-s3"] / "attempts.jsonl")
    assert [attempt["seeds"] for attempt in attempts] == [[0, 1, 2, 3], [2, 3]]


def test_not_even_one_seed_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, errors: Callable[[], list[str]]
) -> None:
    small_device(monkeypatch, 0)
    assert run.main(command(tmp_path, "darts", *OFF)) == 1
    assert "MemoryError: not even one seed fits into memory: CUDA out of memory." in errors()[1]


def test_memory_that_runs_out_for_a_moment_costs_an_epoch_and_keeps_the_stack(
    tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch, errors: Callable[[], list[str]]
) -> None:
    save, failed = Store.save, []

    def once(store: Store, state: dict[str, Any]) -> None:
        if state["epoch"] == 2 and not failed:
            failed.append(True)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        save(store, state)

    monkeypatch.setattr(Store, "save", once)
    assert run.main(command(tmp_path, "darts", *OFF)) == 0
    assert record_bytes(tmp_path) == whole("darts", *OFF)
    assert len(errors()) == 1
    assert "where it has fitted before: it goes on" in errors()[0]


# Clocks


def test_a_clock_that_jumps_changes_no_record(tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    days = iter([400, -4000, 0, 90, -90] * 1000)

    class Jumping(datetime):
        @classmethod
        def now(cls, zone: Any = None) -> datetime:
            return datetime(2026, 1, 1, tzinfo=zone) + timedelta(days=next(days))

    monkeypatch.setattr(time, "time", lambda: 1e9 + 86400 * next(days))
    monkeypatch.setattr(time, "time_ns", lambda: 10**18 + 86400 * 10**9 * next(days))
    monkeypatch.setattr(search, "datetime", Jumping)
    interrupted(monkeypatch, command(tmp_path, "darts", *OFF), 3)
    assert run.main(command(tmp_path, "darts", *OFF)) == 0
    assert record_bytes(tmp_path) == whole("darts", *OFF)
    for folder in folders(tmp_path).values():
        assert all(0 <= line["search_s"] <= line["wall_s"] < 1000 for line in lines(folder / "timing.jsonl"))
        assert [line["started"][:4] for line in lines(folder / "attempts.jsonl")] == ["2027", "2015"]
