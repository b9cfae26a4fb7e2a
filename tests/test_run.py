"""The command, end to end: what it prints, writes, skips and goes on from, and how it fails."""

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import benches
from tests.benches import TINY, command, folders, lines, quick, record_bytes

from bench import run
from bench.launch import work
from bench.store import Store
from searchers.registry import METHODS

ROOT = Path(__file__).parents[1]
OFF = ("--curvature", "off")


class Killed(BaseException):
    """Not an Exception: nothing of the program may catch it."""


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unchecked: None) -> None:
    benches.isolate(monkeypatch, tmp_path)


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the command logs, which its handler writes to stderr."""
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., dict[str, bytes]]]:
    """Records of uninterrupted searches, each made once."""
    made: dict[tuple[str, ...], dict[str, bytes]] = {}

    def records(*arguments: str) -> dict[str, bytes]:
        if arguments not in made:
            results = tmp_path_factory.mktemp("whole")
            assert run.main(command(results, *arguments)) == 0
            made[arguments] = record_bytes(results)
        return made[arguments]

    return records  # type: ignore[return-value]


def files(results: Path) -> dict[Path, tuple[int, int]]:
    """Every file with its inode and time: equal if nothing was touched."""
    found = (path for path in results.rglob("*") if path.is_file())
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def outside(arguments: list[str], folder: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a module in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=surroundings(folder, **changes),
        capture_output=True,
        text=True,
        check=False,
    )


def surroundings(folder: Path, **changes: str) -> dict[str, str]:
    here = {"NAS_STABILITY_DATA": str(folder / "data"), "XDG_CACHE_HOME": str(folder / "cache")}
    return {**os.environ, **here, "OMP_NUM_THREADS": "1", **changes}


# What a run leaves


@pytest.mark.parametrize("method", benches.KINDS)
def test_a_run_leaves_what_the_readme_says(method: str, tmp_path: Path) -> None:
    path = benches.table(tmp_path / "t.arrow")
    assert run.main(command(tmp_path / "r", method, *OFF, "--table", str(path))) == 0
    found = folders(tmp_path / "r")
    assert list(found) == [f"toy-{method}-s0", f"toy-{method}-s1"]
    readme = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    for seed, folder in enumerate(found.values()):
        names = {entry.name for entry in folder.iterdir()}
        assert names == {
            "spec.json", "environment.json", "table.json", "records.jsonl", "timing.jsonl", "finished.json",
            "attempts.jsonl",
        }  # fmt: skip
        assert all(f"`{name}`" in readme for name in names)
        spec, environment, table, finished = (
            json.loads((folder / name).read_text(encoding="utf-8"))
            for name in ("spec.json", "environment.json", "table.json", "finished.json")
        )
        assert folder.name.endswith(spec["signature"])
        assert (spec["seed"], spec["method"], spec["epochs"]) == (seed, method, benches.epochs_of(method))
        assert environment["seeds"] == [0, 1]
        assert environment["threads"] == 1
        assert set(environment) >= {"versions", "device", "stack", "python", "revision"}
        assert spec["table"] == table["digest"]
        assert (
            finished == {"records": len(lines(folder / "records.jsonl"))} == {"records": benches.epochs_of(method) + 2}
        )
    assert list((tmp_path / "r" / "stacks").iterdir()) == list((tmp_path / "r" / "locks").iterdir()) == []


def test_a_stack_is_at_most_as_wide_as_asked(tmp_path: Path) -> None:
    assert run.main(command(tmp_path, "darts", *OFF, "--seeds", "0:3", "--replicas", "2")) == 0
    seeds = [
        json.loads((path / "environment.json").read_text(encoding="utf-8"))["seeds"]
        for path in folders(tmp_path).values()
    ]
    assert seeds == [[0, 1], [0, 1], [2]]


# Asking again


def test_a_finished_run_is_skipped_and_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(command(tmp_path, "darts", *OFF)) == 0
    before = files(tmp_path)
    capsys.readouterr()
    assert run.main(command(tmp_path, "darts", *OFF)) == 0
    assert files(tmp_path) == before
    printed = capsys.readouterr().out
    assert "toy darts seeds 0,1: finished before" in printed
    assert "epoch 1" not in printed
    assert "2/2" in printed


def test_fresh_starts_again(tmp_path: Path) -> None:
    assert run.main(command(tmp_path, "darts", *OFF)) == 0
    before, records = files(tmp_path), record_bytes(tmp_path)
    assert run.main(command(tmp_path, "darts", *OFF, "--fresh")) == 0
    after = files(tmp_path)
    assert set(after) == set(before)
    assert not {path for path in after if after[path] == before[path]}
    assert record_bytes(tmp_path) == records


@pytest.mark.parametrize("change", [["--set", "darts.arch.lr=0.5"], ["--probe-size", "20"]])
def test_a_changed_specification_is_another_folder(tmp_path: Path, change: list[str]) -> None:
    assert run.main(command(tmp_path, "darts", *OFF, "--seeds", "0")) == 0
    before = files(tmp_path)
    assert run.main(command(tmp_path, "darts", *OFF, "--seeds", "0", *change)) == 0
    after = files(tmp_path)
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert {path: after[path] for path in before} == before


@pytest.mark.parametrize("keep", [0, 1, 2.5, None])
def test_a_finished_run_whose_records_are_gone_is_searched_again(
    keep: float | None, tmp_path: Path, errors: Callable[[], list[str]]
) -> None:
    arguments = command(tmp_path, "darts", *OFF)
    assert run.main(arguments) == 0
    whole = record_bytes(tmp_path)
    damaged = sorted(folders(tmp_path).values())[1] / "records.jsonl"
    content = damaged.read_bytes().splitlines(keepends=True)
    damaged.unlink()
    if keep is not None:
        damaged.write_bytes(b"".join(content[: int(keep)]) + content[int(keep)][: 30 if keep % 1 else 0])
    assert run.main(arguments) == 0
    (said,) = errors()
    assert f"has {int(keep or 0)} of the {len(content)} records that its run ended with: it is searched again" in said
    assert record_bytes(tmp_path).keys() == whole.keys()
    assert len(damaged.read_bytes().splitlines()) == len(content)


@pytest.mark.parametrize("content", ["", "{}", '{"records": nu'])
def test_a_run_whose_end_is_damaged_is_searched_again(
    content: str, tmp_path: Path, errors: Callable[[], list[str]]
) -> None:
    arguments = command(tmp_path, "darts", *OFF)
    assert run.main(arguments) == 0
    end = sorted(folders(tmp_path).values())[0] / "finished.json"
    end.write_text(content)
    assert run.main(arguments) == 0
    assert [f"{end} does not say how many records its run ended with: it is searched again"] == errors()
    assert json.loads(end.read_text())["records"] == benches.EPOCHS + 2


def test_more_seeds_are_added_beside_the_finished_ones(tmp_path: Path) -> None:
    assert run.main(command(tmp_path, "darts", *OFF, "--seeds", "0:1")) == 0
    before = files(tmp_path)
    assert run.main(command(tmp_path, "darts", *OFF, "--seeds", "0:2")) == 0
    after = files(tmp_path)
    assert {path: after[path] for path in before} == before
    assert list(folders(tmp_path)) == ["toy-darts-s0", "toy-darts-s1"]


# Kills


class Faults:
    """Dies just before the n-th change that is made to the disk."""

    OPERATIONS = ((os, "fsync"), (os, "truncate"), *((Path, name) for name in ("replace", "unlink", "mkdir", "rmdir")))

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.count = 0
        for owner, name in self.OPERATIONS:
            monkeypatch.setattr(owner, name, self.wrapped(getattr(owner, name), at))

    def wrapped(self, call: Callable[..., Any], at: int) -> Callable[..., Any]:
        def counted(*arguments: Any, **keywords: Any) -> Any:
            self.count += 1
            if self.count - 1 == at:
                raise Killed
            return call(*arguments, **keywords)

        return counted


SHORT = ("darts", *OFF, "--epochs", "1", "--seeds", "0:2")
CHANGES, STARTED = 54, 30
"""What an uninterrupted search of SHORT changes on the disk, and how much of it before anything is recorded."""


def test_the_number_of_moments_to_die_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        faults = Faults(patch, -1)
        assert run.main(command(tmp_path, *SHORT)) == 0
    assert faults.count == CHANGES


@pytest.mark.parametrize(
    "at", [pytest.param(at, marks=[pytest.mark.slow] if at < STARTED and at % 5 else []) for at in range(CHANGES)]
)
def test_a_kill_at_any_change_of_the_disk_leaves_what_can_be_gone_on_from(
    at: int, tmp_path: Path, whole: Callable[..., dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        Faults(patch, at)
        with pytest.raises(Killed):
            run.main(command(tmp_path, *SHORT))
    assert run.main(command(tmp_path, *SHORT)) == 0
    assert record_bytes(tmp_path) == whole(*SHORT)
    assert all((folder / "finished.json").exists() for folder in folders(tmp_path).values())


@pytest.mark.parametrize("at", [pytest.param(at, marks=[pytest.mark.slow] if at % 6 else []) for at in range(30)])
def test_a_kill_while_resuming_leaves_what_can_be_gone_on_from(
    at: int, tmp_path: Path, whole: Callable[..., dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for moment in (45, at):
        with monkeypatch.context() as patch:
            faults = Faults(patch, moment)
            try:
                run.main(command(tmp_path, *SHORT))
            except Killed:
                continue
            assert faults.count <= moment
    assert run.main(command(tmp_path, *SHORT)) == 0
    assert record_bytes(tmp_path) == whole(*SHORT)


def interrupted(monkeypatch: pytest.MonkeyPatch, arguments: list[str], saves: int, torn: bool = True) -> None:
    """Run a command and kill it before it saves for the n-th time, with the last record torn."""
    save, count = Store.save, [0]

    def dying(store: Store, state: dict[str, Any]) -> None:
        count[0] += 1
        if count[0] == saves:
            if torn:
                path = store.folder(store.specs[-1]) / "records.jsonl"
                os.truncate(path, path.stat().st_size - 9)
            raise Killed
        save(store, state)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "save", dying)
        with pytest.raises(Killed):
            run.main(arguments)


@pytest.mark.parametrize(
    ("method", "measured"),
    [
        *((method, False) for method in benches.KINDS),
        *(pytest.param(method, True, marks=[] if method == "darts" else [pytest.mark.slow]) for method in METHODS),
    ],
)
def test_every_method_goes_on_to_the_same_bytes(
    method: str, measured: bool, tmp_path: Path, whole: Callable[..., dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    more = () if measured else OFF
    for _ in range(2):
        interrupted(monkeypatch, command(tmp_path, method, *more), min(2, 1 + benches.epochs_of(method)))
    assert run.main(command(tmp_path, method, *more)) == 0
    assert record_bytes(tmp_path) == whole(method, *more)


@pytest.mark.parametrize("method", benches.KINDS)
def test_a_kill_before_the_selection_goes_on_to_the_same_bytes(
    method: str, tmp_path: Path, whole: Callable[..., dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Store, "finish", lambda _store, _diverged: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run.main(command(tmp_path, method, *OFF))
    assert run.main(command(tmp_path, method, *OFF)) == 0
    assert record_bytes(tmp_path) == whole(method, *OFF)


def test_going_on_trains_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(monkeypatch, command(tmp_path, "darts", *OFF), 3)
    capsys.readouterr()
    assert run.main(command(tmp_path, "darts", *OFF)) == 0
    printed = [line.split("  ")[1] for line in capsys.readouterr().out.splitlines() if "seeds 0,1  epoch" in line]
    assert printed == ["epoch 2/2", "epoch 2/2 final"]


@pytest.mark.parametrize("seeds", ["0:1", "1:2", "0:3"])
def test_an_interrupted_stack_goes_on_as_it_was_whatever_seeds_are_asked_for(
    seeds: str, tmp_path: Path, whole: Callable[..., dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(monkeypatch, command(tmp_path, "darts", *OFF, "--seeds", "0:2"), 3)
    assert run.main(command(tmp_path, "darts", *OFF, "--seeds", seeds)) == 0
    found = record_bytes(tmp_path)
    pair = whole("darts", *OFF, "--seeds", "0:2")
    assert {name: found[name] for name in pair} == pair
    assert list(found) == [*pair, *(["toy-darts-s2"] if seeds == "0:3" else [])]
    stacked = [
        json.loads((path / "environment.json").read_text(encoding="utf-8"))["seeds"]
        for path in folders(tmp_path).values()
    ]
    assert stacked == [[0, 1], [0, 1], [2]][: len(found)]


def test_fresh_over_an_interrupted_stack(
    tmp_path: Path, whole: Callable[..., dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(monkeypatch, command(tmp_path, "darts", *OFF), 3)
    assert run.main(command(tmp_path, "darts", *OFF, "--fresh")) == 0
    assert record_bytes(tmp_path) == whole("darts", *OFF)


def test_a_stale_checkpoint_is_not_gone_on_from(
    tmp_path: Path, whole: Callable[..., dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stack 0:2 is interrupted, seed 0 started again alone and killed at once, then both are asked for."""
    interrupted(monkeypatch, command(tmp_path, "darts", *OFF), 3)
    interrupted(monkeypatch, command(tmp_path, "darts", *OFF, "--seeds", "0", "--fresh"), 1)
    assert run.main(command(tmp_path, "darts", *OFF)) == 0
    assert record_bytes(tmp_path) == whole("darts", *OFF)


def test_a_run_whose_folder_was_deleted_is_started_again(
    tmp_path: Path, whole: Callable[..., dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(monkeypatch, command(tmp_path, "darts", *OFF), 3)
    folder = folders(tmp_path)["toy-darts-s1"]
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert run.main(command(tmp_path, "darts", *OFF)) == 0
    assert record_bytes(tmp_path) == whole("darts", *OFF)


def test_going_on_under_other_circumstances_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, errors: Callable[[], list[str]]
) -> None:
    interrupted(monkeypatch, command(tmp_path, "darts", *OFF), 3)
    for folder in folders(tmp_path).values():
        found = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        (folder / "environment.json").write_text(json.dumps({**found, "threads": 64}), encoding="utf-8")
    assert run.main(command(tmp_path, "darts", *OFF)) == 0
    assert errors() == ["toy darts seeds 0,1 goes on under another threads: its records mix both"]


def test_ctrl_c_keeps_the_epochs_and_says_how_to_go_on(
    tmp_path: Path,
    whole: Callable[..., dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    errors: Callable[[], list[str]],
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Store, "save", lambda *_arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run.main(command(tmp_path, "darts", *OFF)) == 130
    assert errors() == ["interrupted: finished epochs are kept, the same command without --fresh goes on from them"]
    assert run.main(command(tmp_path, "darts", *OFF)) == 0
    assert record_bytes(tmp_path) == whole("darts", *OFF)


@pytest.mark.parametrize(
    "method", ["darts", *(pytest.param(name, marks=pytest.mark.slow) for name in ("random_ws", "darts_pt"))]
)
@pytest.mark.parametrize(
    ("after", "more"),
    [
        (2, (*OFF, "--epochs", "8")),
        *(pytest.param(after, ("--epochs", "4"), marks=pytest.mark.slow) for after in (1, 2, 3, 4)),
    ],
)
def test_a_killed_process_is_gone_on_from(
    method: str, after: int, more: tuple[str, ...], tmp_path: Path, whole: Callable[..., dict[str, bytes]]
) -> None:
    arguments = command(tmp_path, method, *more, "--threads", "1")
    with subprocess.Popen(
        [sys.executable, "-m", "bench.run", *arguments],
        cwd=ROOT,
        env=surroundings(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            found = [path / "records.jsonl" for path in folders(tmp_path).values()]
            if found and found[-1].exists() and found[-1].read_bytes().count(b"\n") >= after:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
    assert process.returncode == -signal.SIGKILL
    assert not any((path / "finished.json").exists() for path in folders(tmp_path).values())
    assert run.main(arguments) == 0
    assert record_bytes(tmp_path) == whole(method, *more, "--threads", "1")


# Exit codes and what is printed


def broken(*_arguments: Any) -> Any:
    raise RuntimeError("the searcher broke")


def test_a_method_that_fails_leaves_its_reason_and_the_others_go_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    errors: Callable[[], list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(METHODS, "darts", dataclasses.replace(METHODS["darts"], build=broken))
        assert run.main(command(tmp_path, "darts", *OFF, "--methods", "darts,random_ws", *quick("random_ws"))) == 1
    found = folders(tmp_path)
    assert [name for name, path in found.items() if (path / "finished.json").exists()] == [
        "toy-random_ws-s0",
        "toy-random_ws-s1",
    ]
    for seed in (0, 1):
        text = (found[f"toy-darts-s{seed}"] / "error.txt").read_text(encoding="utf-8")
        assert text.startswith("Traceback")
        assert text.endswith("RuntimeError: the searcher broke\n")
    assert errors() == [
        "failed: toy darts seeds 0,1: RuntimeError: the searcher broke (see error.txt in its folder)",
        "1 of the stacks failed: toy darts seeds 0,1",
    ]
    printed = capsys.readouterr().out
    assert "0/2" in printed
    assert "2/2" in printed
    assert run.main(command(tmp_path, "darts", *OFF)) == 0
    assert not (found["toy-darts-s0"] / "error.txt").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--space", "s9"], "error: expected one of the spaces s1, s2, s3, nb201, toy, got 's9'"),
        (["--methods", "dart"], "error: expected methods of docs/methods.md, "),
        (["--methods", "darts", "--queries", "5"], "error: expected a table-only method (random_search, "),
        (["--device", "tpu"], "error: expected --device cpu, cuda or cuda:N, got 'tpu'"),
        (["--table", "nowhere.arrow"], "error: expected a table at --table, found no file nowhere.arrow"),
        (["--dataset", "mnist"], "error: expected a dataset out of"),
        (["--set", "darts.arch.speed=1"], "error: expected one of the settings lr, "),
        (["--set", "darts.arch.lr=-1"], "error: expected lr of 0 or more, got -1.0 for the setting 'arch.lr'"),
        (["--set", "darts.weights.momentum=2"], "error: expected a momentum in [0, 1), got 2"),
        (["--set", "darts.arch.lr=fast"], "error: expected float for the setting 'arch.lr', got 'fast'"),
        (["--epochs", "0"], "error: expected a positive whole number or published for epochs, got 0"),
        (["--probe-size", "5"], "error: expected a probe of 10 to 20 images"),
        (
            ["--methods", "darts_es", "--probe-size", "5", *OFF],
            "error: toy darts_es: expected a probe of 10 to 20 images",
        ),
        (
            ["--batch-size", "32", "--methods", "idarts"],
            "error: toy idarts: expected enough training images for a step of",
        ),
        (
            ["--batch-size", "21"],
            "error: toy darts: expected a batch of at most 20 images, all of a half, got 21; change it with ",
        ),
        (
            ["--batch-size", "41", "--methods", "gaea_erm"],
            "error: toy gaea_erm: expected a batch of at most 40 images, all of both halves, got 41; change",
        ),
        (
            ["--methods", "zero_cost_pt", "--set", "zero_cost_pt.batch_size=21"],
            "error: toy zero_cost_pt: expected a batch of at most 20 images, all of the half for weights, got 21, its "
            "setting batch_size; change",
        ),
        (["--benchmark", "paper", "--space", "s1"], "error: expected CIFAR-10's batches in"),
        (
            ["--methods", "darts,pc_darts", "--channels", "6"],
            "error: toy pc_darts: expected partial_channels to divide the 6 channels of a cell, got 4; change it with",
        ),
        (["--methods", "pdarts", "--set", "pdarts.depth=[0.5, 1, 2]"], "error: toy pdarts: expected a depth, a share"),
        (["--methods", "pc_darts+perturbation", "--channels", "6"], "error: toy pc_darts+perturbation: expected part"),
        (
            ["--methods", "darts_ada,darts", "--set", "darts_ada.factor=2,0.5"],
            "error: darts_ada[factor=0.5]: expected a factor over 1, got 0.5; change what --set says of it",
        ),
        (
            ["--methods", "dsnas", "--set", "*.gap=-1"],
            "error: dsnas: expected a positive gap or null, got -1.0; change",
        ),
        (["--bogus"], "error: unrecognized arguments: --bogus"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_writes_nothing(
    more: list[str],
    message: str,
    tmp_path: Path,
    errors: Callable[[], list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run.main(command(tmp_path / "r", "darts", *more)) == 2
    (error,) = errors()
    assert error.startswith(message)
    assert "\n" not in error
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "r").exists()


def test_a_wrong_request_from_outside_is_one_line_on_stderr(tmp_path: Path) -> None:
    found = outside(["bench.run", "--bogus"], tmp_path)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == "error: unrecognized arguments: --bogus; see python -m bench.run --help\n"


def test_a_dry_run_trains_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(work, "search", lambda *_arguments: pytest.fail("searched"))
    more = ("--dry-run", "--seeds", "0:3", "--replicas", "2")
    methods = ",".join(METHODS)
    assert run.main([*command(tmp_path / "r", "darts", *more), "--methods", methods, *quick(*METHODS)]) == 0
    assert not (tmp_path / "r").exists()
    printed = capsys.readouterr().out.splitlines()
    found = [line for line in printed if line.startswith("toy-")]
    assert len(found) == 3 * len(METHODS)
    for line, (method, seed) in zip(found, [(method, seed) for method in METHODS for seed in range(3)], strict=True):
        assert line.startswith(f"toy-{method}-s{seed}-")
        for word in ("weights", "logits in", "steps an epoch", " s, ", "MiB a stack of 2"):
            assert word in line


def test_a_dry_run_says_what_has_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(command(tmp_path, "darts", *OFF, "--seeds", "0")) == 0
    capsys.readouterr()
    assert run.main(command(tmp_path, "darts", *OFF, "--dry-run")) == 0
    first, second = [line for line in capsys.readouterr().out.splitlines() if line.startswith("toy-")]
    assert first.endswith("finished")
    assert not second.endswith("finished")
    names = {path.name for path in (tmp_path / "runs").iterdir()}
    assert first.split()[0] in names


def test_the_closing_table_has_every_method_the_random_cell_and_the_optimum(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = benches.table(tmp_path / "t.arrow")
    methods = ("darts", "random_ws")
    more = ("--methods", ",".join(methods), *quick(*methods), "--table", str(path), "--curvature-every", "2")
    assert run.main(command(tmp_path / "r", "darts", *more)) == 0
    printed = capsys.readouterr().out
    facts = json.loads((folders(tmp_path / "r")["toy-darts-s0"] / "table.json").read_text(encoding="utf-8"))
    assert "toy, selected cells: mean ± std over seeds (5 epochs, table of 27 cells)" in printed
    rows = {row[0]: row[1:] for line in printed.splitlines() if (row := cells(line))}
    gap = facts["optimum"]["test"] - facts["random_cell"]["test"]
    assert rows["random cell"][1:4] == [*(f"{facts['random_cell'][s]:.4f}" for s in ("val", "test")), f"{gap:.4f}"]
    assert rows["optimum"][1:4] == [*(f"{facts['optimum'][s]:.4f}" for s in ("val", "test")), "0.0000"]
    for method in methods:
        finals = [
            lines(folder / "records.jsonl")[-1]
            for name, folder in folders(tmp_path / "r").items()
            if f"-{method}-s" in name
        ]
        tests = [final["table"]["test_mean"] for final in finals]
        mean, half = sum(tests) / 2, abs(tests[0] - tests[1]) / 2**0.5
        assert rows[method][0] == "2/2"
        assert rows[method][2] == f"{mean:.4f} ± {half:.4f}"
        assert rows[method][5] == "0"
        assert (rows[method][4] == "–") == (lines_without_curvature(finals, tmp_path / "r", method))


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("│")[1:-1]]


def lines_without_curvature(finals: list[dict[str, Any]], results: Path, method: str) -> bool:
    records = [
        record
        for name, path in folders(results).items()
        if f"-{method}-s" in name
        for record in lines(path / "records.jsonl")
    ]
    return all(record["curvature"] is None for record in records)


def test_without_a_table_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(command(tmp_path, "random_ws", "--seeds", "0")) == 0
    printed = capsys.readouterr().out
    assert "no benchmark table: cells are recorded without true accuracies and regrets" in printed
    assert "optimum" not in printed
    (row,) = (cells(line) for line in printed.splitlines() if line.startswith("│ random_ws"))
    assert row[2:5] == ["–", "–", "–"]
    assert row[6] == "–"


def test_misses_are_counted_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(command(tmp_path / "0", "darts", *OFF, "--seeds", "0")) == 0
    keys = {record["key"] for record in lines(folders(tmp_path / "0")["toy-darts-s0"] / "records.jsonl")}
    path = benches.table(tmp_path / "t.arrow", without=keys)
    capsys.readouterr()
    assert run.main(command(tmp_path / "1", "darts", *OFF, "--seeds", "0", "--table", str(path))) == 0
    printed = capsys.readouterr().out
    assert "1 misses" in printed
    (row,) = (cells(line) for line in printed.splitlines() if line.startswith("│ darts"))
    assert row[2:5] == ["–", "–", "–"]
    assert row[6] == "1"


def test_it_says_which_benchmark_why_and_how_to_force_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command(tmp_path, "darts", "--space", "s1", "--benchmark", "auto", "--dry-run")
    assert run.main(arguments) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == (
        "benchmark embedded: there is no GPU, CIFAR-10 is not prepared; force the other with --benchmark paper"
    )
    assert printed[1].startswith(
        "s1 on digits: 40 images in two halves, batch 8, 2 channels, 1 cells a stage, 2 epochs"
    )
    assert printed[2].startswith("settings that differ from the methods' defaults: *: arch.lr=")
    assert "enas" not in printed[2]  # which is not asked for


def test_lines_are_plain_where_there_is_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(command(tmp_path, "darts", *OFF)) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "\r" not in printed
    progress = [line for line in printed.splitlines() if line.startswith("toy darts seeds 0,1  epoch ")]
    assert [line.split("  ")[1] for line in progress] == ["epoch 0/2", "epoch 1/2", "epoch 2/2", "epoch 2/2 final"]
    assert "train " in progress[1]
    assert "s left" in progress[1]


@pytest.mark.slow
def test_the_number_of_threads_is_recorded_and_used(tmp_path: Path) -> None:
    found = outside(["bench.run", *command(tmp_path / "r", "darts", *OFF, "--threads", "1")], tmp_path)
    assert (found.returncode, found.stderr) == (0, "")
    for folder in folders(tmp_path / "r").values():
        assert json.loads((folder / "environment.json").read_text(encoding="utf-8"))["threads"] == 1


@pytest.mark.slow
def test_table_search_and_figures_from_outside(tmp_path: Path) -> None:
    out = tmp_path / "cache" / "nas-stability" / "tables" / "toy-digits.arrow"
    built = outside(
        ["bench.tables", "build", "--space", "toy", "--epochs", "1", "--runs", "1", "--threads", "1"], tmp_path
    )
    assert (built.returncode, built.stderr) == (0, "")
    assert out.is_file()
    results, figures = tmp_path / "results", tmp_path / "figures"
    arguments = [*TINY, "--results", str(results), "--threads", "1", "--benchmark", "auto", *quick(*METHODS)]
    searched = outside(["bench.run", *arguments], tmp_path)
    assert (searched.returncode, searched.stderr) == (0, "")
    assert len(folders(results)) == 2 * len(METHODS)
    assert "table: 27 cells (100.0% of all encodings), 1 epochs" in searched.stdout
    drawn = outside(["analysis.figures", "--results", str(results), "--out", str(figures)], tmp_path, MPLBACKEND="agg")
    assert drawn.returncode == 0
    # Two epochs have no landscape and no grid: said, one line a figure, and nothing else is.
    said = drawn.stderr.splitlines()
    assert {line.split(":")[0] for line in said} == {"no figure landscape", "no figure ablation"}, said
    made = {path.suffix for path in figures.glob("[!.]*")}
    assert made >= {".png", ".pdf"}
    assert all(path.stat().st_size > 1000 for path in figures.glob("[!.]*"))


def test_a_grid_searches_every_value_and_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*command(tmp_path / "r", "darts"), "--set", "darts.arch.lr=0.1,0.2", "--seeds", "0:2"]
    assert run.main(arguments) == 0
    printed = capsys.readouterr().out
    assert len(list((tmp_path / "r" / "runs").iterdir())) == 4
    for value in ("0.1", "0.2"):
        assert f"toy darts[arch.lr={value}] seeds 0,1" in printed
        assert f"│ darts[arch.lr={value}]" in printed
