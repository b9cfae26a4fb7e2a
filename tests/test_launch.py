"""Units, plans and the local launcher: the same records from one process and from several, whatever dies."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import benches
from tests.benches import alive, command, folders, lines, record_bytes
from tests.test_run import OFF, ROOT, interrupted, surroundings

from bench import announce, choice, run, setup, store, variants
from bench.cores import Share
from bench.estimate import Estimate, estimate
from bench.launch import local
from bench.launch.plan import Plan, plan
from bench.launch.unit import Launcher, Moment, Outcome, Unit, unit
from bench.launch.work import InProcess, Worker
from bench.request import parse, read, spelled
from bench.search import Stack
from bench.store import FILES, Store
from searchers.registry import METHODS


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unchecked: None) -> None:
    benches.isolate(monkeypatch, tmp_path)


def planned(arguments: list[str]) -> Plan:
    bench = setup.prepare(parse(arguments))
    chosen = variants.methods(bench.request)
    return plan(bench, [variant for method in chosen for variant in variants.variants(bench, method)])


# Units and plans


GRID = ("--set", "darts.arch.lr=0.1,0.2", "--set", "*.weights.lr=0.5", "--replicas", "2", "--seeds", "0:3")


def test_a_unit_is_plain_values_from_which_another_process_makes_the_same_runs(tmp_path: Path) -> None:
    table = benches.table(tmp_path / "t.arrow")
    found = planned(command(tmp_path, "darts", *OFF, *GRID, "--table", str(table), "--budget-s", "3.5"))
    for one in found.units:
        again = unit(json.loads(json.dumps(one.plain())))
        assert again == one
        assert Worker().runs(again) == found.specs(one)


def test_a_request_survives_being_spelled(tmp_path: Path) -> None:
    more = ("--metrics", "ranking", "--ranking-every", "2", "--landscape", "--fresh", "--methods", "darts,gdas")
    request = parse([*command(tmp_path, "darts", *GRID), *more])
    assert read(json.loads(json.dumps(spelled(request)))) == request


def test_a_plan_has_a_unit_for_every_stack_and_labels_that_differ(tmp_path: Path) -> None:
    found = planned([*command(tmp_path, "darts", *OFF, *GRID), "--methods", "darts,gdas"])
    assert [one.label for one in found.units] == [
        f"toy {method} seeds {seeds}"
        for method in ("darts[arch.lr=0.1]", "darts[arch.lr=0.2]", "gdas")
        for seeds in ("0,1", "2")
    ]
    assert found.done == ()
    assert {(one.resumes, one.fresh, one.epochs) for one in found.units} == {(False, False, benches.EPOCHS)}


def test_a_plan_knows_what_is_done_and_what_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run.main(command(tmp_path, "darts", *OFF, "--seeds", "3:4")) == 0
    interrupted(monkeypatch, command(tmp_path, "darts", *OFF, "--seeds", "1:3"), 3)
    found = planned(command(tmp_path, "darts", *OFF, "--seeds", "0:4", "--replicas", "1"))
    assert [spec.seed for spec in found.done] == [3]
    assert [(one.seeds, one.resumes) for one in found.units] == [((1, 2), True), ((0,), False)]
    fresh = planned(command(tmp_path, "darts", *OFF, "--seeds", "0:4", "--fresh"))
    assert [(one.seeds, one.resumes, one.fresh) for one in fresh.units] == [((0, 1, 2, 3), False, True)]
    assert fresh.units[0].again() == dataclasses.replace(fresh.units[0], fresh=False)


def test_a_dry_run_shows_the_units_their_seconds_and_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(command(tmp_path, "darts", *OFF, "--seeds", "3:4")) == 0
    interrupted(monkeypatch, command(tmp_path, "darts", *OFF, "--seeds", "1:3"), 3)
    capsys.readouterr()
    assert run.main(command(tmp_path, "darts", *OFF, "--seeds", "0:4", "--dry-run", "--jobs", "2")) == 0
    printed = capsys.readouterr().out.splitlines()
    one, two = [line for line in printed if line.startswith("unit ")]
    assert one.startswith("unit toy darts seeds 1,2: stack of 2, about ")
    assert one.endswith(" s, goes on, 2 of 2 epochs recorded")
    assert two.startswith("unit toy darts seeds 0: stack of 1, about ")
    assert printed[-1].startswith("2 units to search, about ")
    assert printed[-1].endswith(" s with 2 at once; 1 runs have finished")


def test_a_dry_run_measures_some_seeds_of_a_wide_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    widths = []

    def measured(stack: Stack, width: int) -> Estimate:
        widths.append((len(stack.specs), width))
        return estimate(stack, width)

    monkeypatch.setattr(announce, "estimate", measured)
    monkeypatch.setattr(announce, "WIDEST", 2)
    assert run.main(command(tmp_path, "darts", *OFF, "--seeds", "0:5", "--dry-run")) == 0
    assert widths == [(2, 5)]
    assert "a stack of 5" in capsys.readouterr().out


def test_a_unit_s_specifications_do_not_take_those_of_all_seeds(tmp_path: Path) -> None:
    bench = benches.bench(tmp_path, "darts")
    expected = variants.stacked(bench, METHODS["darts"], {}, (1,))

    class Unread(tuple[int, ...]):
        def __iter__(self) -> Iterator[int]:
            raise AssertionError("the seeds asked for were gone through")

    many = dataclasses.replace(bench, preset=dataclasses.replace(bench.preset, seeds=Unread((0, 1))))
    assert variants.stacked(many, METHODS["darts"], {}, (1,)) == expected


def test_a_stack_that_cannot_go_on_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last run has been started again in another stack."""
    found = benches.bench(tmp_path, "darts", "--seeds", "0:4")
    specs = variants.specs(found, METHODS["darts"])
    for runs in (specs, specs[-1:]):
        stack = Store(tmp_path, runs)
        stack.create({"seeds": [spec.seed for spec in runs]}, None)
        for path in (stack.folder(spec) / name for spec in runs for name in FILES):
            path.touch()
        stack.save({})
    looked, ask = [], store.stacked_with
    monkeypatch.setattr(store, "stacked_with", lambda folder, spec: looked.append(spec.seed) or ask(folder, spec))
    units = plan(found, variants.variants(found, METHODS["darts"])).units
    assert [(unit.seeds, unit.resumes) for unit in units] == [((3,), True), ((0, 1, 2), False)]
    assert looked == [0, 3]


def test_where_it_is_searched_does_not_name_a_run(tmp_path: Path) -> None:
    more = ("--jobs", "3", "--retries", "5", "--threads", "7", "--launcher", "local")
    alone, several = (planned(command(tmp_path, "darts", *OFF, *extra)) for extra in ((), more))
    assert [one.stack for one in alone.units] == [one.stack for one in several.units]


def test_several_spaces_are_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = command(tmp_path, "darts", *OFF, "--space", "toy,s1", "--dry-run", "--cells", "1")
    assert run.main(arguments) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("unit ")]
    assert [line.split(":")[0] for line in printed] == ["unit toy darts seeds 0,1", "unit s1 darts seeds 0,1"]


def test_other_data_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (one,) = planned(command(tmp_path / "r", "darts", *OFF)).units
    there = dataclasses.replace(one, stack="0" * 16)
    found = Worker().search(there, lambda _moment: None)
    assert (found.state, found.label) == ("refused", one.label)
    assert "not those of the machine that planned it" in found.reason
    assert not (tmp_path / "r").exists()


# The launcher, with workers that search nothing


WORKER = """\
import json, os, signal, sys, time
mode, log = sys.argv[1], sys.argv[2]
for line in sys.stdin:
    unit = json.loads(line)
    seeds = ",".join(map(str, unit["seeds"]))
    with open(log, "a") as file:
        file.write(f"{os.getpid()} {seeds} {unit['fresh']}\\n")
    label = f"toy darts seeds {seeds}"
    tried = open(log).read().count(f" {seeds} ")
    print(json.dumps({"moment": {"label": label, "epoch": 1, "epochs": 2, "text": "x", "last": False}}), flush=True)
    if mode == "hang":
        time.sleep(20)
        with open(log, "a") as file:
            file.write(f"{os.getpid()} ended unkilled\\n")
    if unit["seeds"] == [1] and (mode == "always" or mode == "once" and tried == 1):
        print('{"outco', end="", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    fields = {"label": label, "state": "finished", "reason": "", "attempts": 1, "diverged": []}
    print(json.dumps({"outcome": fields}), flush=True)
"""


@pytest.fixture
def crew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Launcher, tuple[Unit, ...]]]:
    """A launcher whose workers behave as they are told, and units of one seed each."""

    def made(mode: str, *more: str) -> tuple[Launcher, tuple[Unit, ...]]:
        (tmp_path / "worker.py").write_text(WORKER, encoding="utf-8")
        script = (sys.executable, str(tmp_path / "worker.py"), mode, str(tmp_path / "log"))
        monkeypatch.setattr(local, "COMMAND", script)
        arguments = command(tmp_path / "r", "darts", *OFF, "--seeds", "0:4", "--replicas", "1", *more)
        return local.Local(parse(arguments), Worker(), Share(2, 1)), planned(arguments).units

    return made


def log_of(tmp_path: Path) -> list[list[str]]:
    return [line.split() for line in (tmp_path / "log").read_text(encoding="utf-8").splitlines()]


def test_every_unit_is_searched_once_by_as_many_processes_as_asked(crew: Any, tmp_path: Path) -> None:
    launcher, units = crew("calm")
    assert isinstance(launcher, Launcher)
    told: list[Moment] = []
    outcomes = list(launcher.run(units, told.append))
    assert sorted(outcome.label for outcome in outcomes) == [one.label for one in units]
    assert {(outcome.state, outcome.attempts) for outcome in outcomes} == {("finished", 1)}
    assert sorted(moment.label for moment in told) == [one.label for one in units]
    started = log_of(tmp_path)
    assert sorted(seed for _, seed, _ in started) == ["0", "1", "2", "3"]
    assert len({pid for pid, _, _ in started}) == 2
    assert not any(alive(int(pid)) for pid, _, _ in started)


def test_a_process_that_dies_is_tried_again_and_never_fresh(
    crew: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    launcher, units = crew("once", "--fresh")
    outcomes = {outcome.label: outcome for outcome in launcher.run(units, lambda _moment: None)}
    assert {(outcome.state, outcome.attempts) for outcome in outcomes.values()} == {("finished", 1), ("finished", 2)}
    assert [fresh for _, seed, fresh in log_of(tmp_path) if seed == "1"] == ["True", "False"]
    assert [record.getMessage() for record in caplog.records] == [
        "toy darts seeds 1: its process died of SIGKILL; tried again, 1 of 2"
    ]


def test_a_unit_whose_process_always_dies_is_given_up_and_the_others_go_on(crew: Any, tmp_path: Path) -> None:
    launcher, units = crew("always", "--retries", "1")
    folder = tmp_path / "r" / "runs" / setup_name(units[1])
    folder.mkdir(parents=True)
    outcomes = {outcome.label: outcome for outcome in launcher.run(units, lambda _moment: None)}
    lost = outcomes.pop("toy darts seeds 1")
    assert {outcome.state for outcome in outcomes.values()} == {"finished"}
    assert len(outcomes) == 3
    assert lost == Outcome("toy darts seeds 1", "failed", lost.reason, attempts=2)
    assert "its process died 2 times, the last of SIGKILL" in lost.reason
    assert "its process died 2 times" in (folder / "error.txt").read_text(encoding="utf-8")


def setup_name(one: Unit) -> str:
    return Worker().runs(one)[0].name


def test_an_interrupt_ends_the_workers_and_passes(crew: Any, tmp_path: Path) -> None:
    launcher, units = crew("calm")

    def interrupt(_moment: Moment) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(launcher.run(units, interrupt))
    assert not any(alive(int(pid)) for pid, _, _ in log_of(tmp_path))


def test_a_worker_that_does_not_stop_is_killed(crew: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "END_S", 0.2)
    launcher, units = crew("hang")
    found = launcher.run(units, lambda _moment: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        next(found)
    assert not any(alive(int(pid)) for pid, _, _ in log_of(tmp_path))
    assert not any("unkilled" in line for line in log_of(tmp_path))


def test_gpus_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choice.gpus(None) == choice.gpus("cuda") == ["cuda:0", "cuda:1"]
    assert choice.gpus("cuda:1") == choice.gpus("cpu") == []


def test_one_job_stays_in_this_process(tmp_path: Path) -> None:
    from bench.launch.registry import choose

    asked = parse(command(tmp_path, "darts"))
    assert isinstance(choose(asked, Worker(), Share(1, 4)), InProcess)
    assert isinstance(choose(asked, Worker(), Share(2, 1)), local.Local)


# Real workers


SMALL = (*OFF, "--seeds", "0:2", "--replicas", "1", "--threads", "1")


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.usefixtures("workers")
def test_several_processes_leave_what_one_leaves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(command(tmp_path / "one", "darts", *SMALL)) == 0
    alone = capsys.readouterr().out
    assert run.main(command(tmp_path / "two", "darts", *SMALL, "--jobs", "2")) == 0
    together = capsys.readouterr().out
    assert record_bytes(tmp_path / "two") == record_bytes(tmp_path / "one")
    assert rows(together) == rows(alone)
    for seed in (0, 1):
        for epoch in ("epoch 0/2", "epoch 1/2", "epoch 2/2 final"):
            assert f"toy darts seeds {seed}  {epoch}" in together
    pids = {lines(folder / "attempts.jsonl")[0]["pid"] for folder in folders(tmp_path / "two").values()}
    assert os.getpid() not in pids
    environments = [(folder / "environment.json").read_text("utf-8") for folder in folders(tmp_path / "two").values()]
    assert {json.loads(text)["threads"] for text in environments} == {1}


def rows(printed: str) -> list[list[str]]:
    """The closing table without its seconds."""
    found = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if line.startswith("│")]
    return [row[:7] for row in found]


HEARS = """\
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from bench.run import main
sys.exit(main(sys.argv[1:]))
"""


def started(arguments: list[str], folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", HEARS, *arguments],
        cwd=ROOT,
        env=surroundings(folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(found: Callable[[], Any], seconds: float = 120) -> Any:
    """What is found at last; a test that waits in vain fails."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.01)
    pytest.fail("waited in vain")


def under_way(results: Path, records: int) -> Callable[[], Iterator[int] | list[int]]:
    """The processes of two runs that have so many records each."""

    def found() -> list[int]:
        paths = [path for path in folders(results).values() if (path / "records.jsonl").exists()]
        ready = [path for path in paths if (path / "records.jsonl").read_bytes().count(b"\n") >= records]
        return [lines(path / "attempts.jsonl")[-1]["pid"] for path in ready] if len(ready) == 2 else []

    return found


LONG = ("darts", *SMALL, "--epochs", "24", "--jobs", "2")


WAYS = {
    signal.SIGINT: run.INTERRUPTED,
    signal.SIGTERM: run.TERMINATED,
    signal.SIGKILL: -signal.SIGKILL,
}
"""Signals to what the command then returns."""


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize("way", WAYS)
def test_what_becomes_of_the_workers_when_the_command_is_ended(way: signal.Signals, jobs: str, tmp_path: Path) -> None:
    results = tmp_path / "r"
    results.mkdir()
    (results / "runs").mkdir()
    wide = ("--replicas", "2") if jobs == "1" else ()
    with started(command(results, *LONG, "--jobs", jobs, *wide), tmp_path) as process:
        pids = until(under_way(results, 3))
        process.send_signal(way)
        _, said = process.communicate()
    assert process.returncode == WAYS[way]
    assert way == signal.SIGKILL or said.splitlines()[-1].startswith("interrupted: finished epochs are kept")
    until(lambda: not any(map(alive, pids)), 20)
    assert not any((folder / "finished.json").exists() for folder in folders(results).values())
    for folder in (results, tmp_path / "whole"):
        assert run.main(command(folder, *LONG, "--jobs", "1", *wide)) == 0
    assert record_bytes(results) == record_bytes(tmp_path / "whole")
    for folder in folders(results).values():
        first, second = lines(folder / "attempts.jsonl")
        assert first["from_epoch"] is None
        assert second["from_epoch"] >= 1
        assert second["pid"] == os.getpid()


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_the_attempts_say_so(tmp_path: Path) -> None:
    results = tmp_path / "r"
    (results / "runs").mkdir(parents=True)
    with started(command(results, *LONG), tmp_path) as process:
        pids = until(under_way(results, 3))
        os.kill(pids[1], signal.SIGKILL)
        _, said = process.communicate()
    assert process.returncode == 0
    assert said == "toy darts seeds 1: its process died of SIGKILL; tried again, 1 of 2\n"
    assert run.main(command(tmp_path / "whole", *LONG, "--jobs", "1")) == 0
    assert record_bytes(results) == record_bytes(tmp_path / "whole")
    attempts = [lines(folder / "attempts.jsonl") for folder in folders(results).values()]
    assert [len(found) for found in attempts] == [1, 2]
    assert attempts[1][1]["from_epoch"] >= 1
    assert attempts[1][0]["pid"] == pids[1] != attempts[1][1]["pid"]


@pytest.mark.slow
@pytest.mark.usefixtures("workers")
def test_a_method_that_raises_in_a_worker_is_named_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lines = ("import searchers.enas as m", "def fails(*_): raise OverflowError", "m.Agent.train = fails")
    (tmp_path / "sitecustomize.py").write_text("\n".join(lines), "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    more = ("--methods", "enas,darts", "--jobs", "2")
    assert run.main(command(tmp_path, "darts", *OFF, "--threads", "1", *more)) == 1
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("failed: toy enas seeds 0,1: ")
    assert said[-1] == "1 of the stacks failed: toy enas seeds 0,1"
    assert (folders(tmp_path)["toy-darts-s0"] / "finished.json").exists()
    assert (folders(tmp_path)["toy-enas-s0"] / "error.txt").read_text("utf-8").startswith("Traceback")
