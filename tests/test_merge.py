"""Several results folders as one: nothing is lost, nothing written over, what cannot be merged is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import benches
from tests.benches import command, record_bytes
from tests.test_store import record, runs, spoil, timing

from bench import merge, run
from bench.place import environment
from bench.store import Store

OFF = ("--curvature", "off")


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unchecked: None) -> None:
    benches.isolate(monkeypatch, tmp_path)


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    return lambda: [entry.getMessage() for entry in caplog.records if entry.levelname == "ERROR"]


def searched(results: Path, *seeds: int, epochs: int = 2, finish: bool = True, **changes: Any) -> Store:
    """A stack with records up to an epoch."""
    store = Store(results, runs(*seeds))
    store.create(environment(torch.device("cpu"), seeds), None)
    for epoch in range(epochs + 1):
        store.append([record(epoch, train_loss=seed + epoch / 7, **changes) for seed in seeds], timing(epoch))
        store.save({"epoch": epoch})
    if finish:
        store.finish()
    return store


def snapshot(results: Path) -> dict[str, bytes]:
    return {str(path.relative_to(results)): path.read_bytes() for path in results.rglob("*") if path.is_file()}


def merged(tmp_path: Path, *names: str) -> int:
    return merge.main([*(str(tmp_path / name) for name in names), "--into", str(tmp_path / "c")])


def test_runs_of_two_folders_become_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    searched(tmp_path / "a", 0, 1)
    searched(tmp_path / "b", 2)
    before = {**snapshot(tmp_path / "a"), **snapshot(tmp_path / "b")}
    assert merged(tmp_path, "a", "b") == 0
    assert snapshot(tmp_path / "c") == before
    assert capsys.readouterr().out == "3 runs copied, 0 were there already, 0 conflicts\n"
    assert merged(tmp_path, "a", "b") == 0
    assert snapshot(tmp_path / "c") == before
    assert capsys.readouterr().out == "0 runs copied, 3 were there already, 0 conflicts\n"


def test_the_same_run_twice_may_differ_in_its_timing(tmp_path: Path) -> None:
    searched(tmp_path / "a", 0)
    again = searched(tmp_path / "b", 0)
    (again.folder(again.specs[0]) / "timing.jsonl").write_text('{"epoch": 0}\n', encoding="utf-8")
    before = snapshot(tmp_path / "a")
    assert merged(tmp_path, "a", "b") == 0
    assert snapshot(tmp_path / "c") == before


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_a_beginning_yields_to_the_whole(order: tuple[str, str], tmp_path: Path) -> None:
    searched(tmp_path / "a", 0, 1)
    beginning = searched(tmp_path / "b", 0, 1, epochs=1, finish=False)
    with (beginning.folder(beginning.specs[0]) / "records.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"torn')
    before = snapshot(tmp_path / "a")
    assert merged(tmp_path, *order) == 0
    left = snapshot(tmp_path / "c")
    assert {name: left[name] for name in before} == before


def test_records_that_differ_are_a_conflict_and_the_others_are_merged(
    tmp_path: Path, errors: Callable[[], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    ours = searched(tmp_path / "a", 0, 1)
    theirs = searched(tmp_path / "b", 0, val_loss=0.5)
    searched(tmp_path / "b", 3)
    before = snapshot(tmp_path / "a")
    assert merged(tmp_path, "a", "b") == 1
    place, other = (tmp_path / "c" / "runs" / ours.specs[0].name, theirs.folder(theirs.specs[0]))
    assert errors() == [
        f"conflict: {other} and {place}: their records differ from line 1 on (stacked as seeds [0] and [0, 1]); "
        "neither was touched"
    ]
    left = snapshot(tmp_path / "c")
    assert {name: left[name] for name in before} == before
    assert (tmp_path / "c" / "runs" / runs(3)[0].name / "finished.json").exists()
    assert capsys.readouterr().out == "3 runs copied, 0 were there already, 1 conflicts\n"


@pytest.mark.parametrize("finished", ["shorter", "both"])
def test_a_finished_run_that_is_only_a_beginning_is_a_conflict(
    finished: str, tmp_path: Path, errors: Callable[[], list[str]]
) -> None:
    searched(tmp_path / "a", 0, epochs=2, finish=finished == "both")
    searched(tmp_path / "b", 0, epochs=1)
    before = snapshot(tmp_path / "a")
    assert merged(tmp_path, "a", "b") == 1
    assert snapshot(tmp_path / "c") == before
    (said,) = errors()
    assert "differ from line 3 on; neither was touched" in said


def test_one_name_with_two_specifications_is_a_conflict(tmp_path: Path, errors: Callable[[], list[str]]) -> None:
    searched(tmp_path / "a", 0)
    theirs = searched(tmp_path / "b", 0)
    path = theirs.folder(theirs.specs[0]) / "spec.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "epochs": 77}), encoding="utf-8")
    assert merged(tmp_path, "a", "b") == 1
    assert "spec.json differs" in errors()[0]


@pytest.mark.parametrize(
    ("names", "message"),
    [(("nowhere",), "expected a results folder with runs/ in it, found none in"), (("c",), "expected another folder")],
)
def test_a_wrong_request_is_one_sentence(
    names: tuple[str, ...], message: str, tmp_path: Path, errors: Callable[[], list[str]]
) -> None:
    searched(tmp_path / "c", 0)
    before = snapshot(tmp_path / "c")
    assert merged(tmp_path, *names) == 2
    (said,) = errors()
    assert message in said
    assert snapshot(tmp_path / "c") == before


def test_a_run_that_is_being_searched_is_left_alone(tmp_path: Path, errors: Callable[[], list[str]]) -> None:
    from bench.lock import locked

    searched(tmp_path / "a", 0)
    ours = searched(tmp_path / "c", 0, epochs=0, finish=False)
    before = snapshot(tmp_path / "c")
    with locked(tmp_path / "c", [ours.specs[0].name]):
        assert merged(tmp_path, "a") == 1
    assert snapshot(tmp_path / "c") == before
    assert "is being searched by process" in errors()[0]


def test_an_interrupted_stack_goes_on_where_it_was_merged_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a study on one machine, the other half interrupted on another; both are gone on from in one folder."""
    from tests.test_run import interrupted

    assert run.main(command(tmp_path / "whole", "darts", *OFF, "--seeds", "0:4", "--replicas", "2")) == 0
    assert run.main(command(tmp_path / "a", "darts", *OFF, "--seeds", "0:2")) == 0
    interrupted(monkeypatch, command(tmp_path / "b", "darts", *OFF, "--seeds", "2:4"), 3)
    assert merged(tmp_path, "a", "b") == 0
    shutil.rmtree(tmp_path / "b")
    assert run.main(command(tmp_path / "c", "darts", *OFF, "--seeds", "0:4", "--replicas", "2")) == 0
    assert record_bytes(tmp_path / "c") == record_bytes(tmp_path / "whole")
    attempts = benches.lines(benches.folders(tmp_path / "c")["toy-darts-s3"] / "attempts.jsonl")
    assert [line["from_epoch"] for line in attempts] == [None, 1]


def test_the_longer_beginning_brings_its_checkpoint(tmp_path: Path) -> None:
    searched(tmp_path / "a", 0, 1, epochs=1, finish=False)
    searched(tmp_path / "b", 0, 1, epochs=3, finish=False)
    assert merged(tmp_path, "a", "b") == 0
    assert Store(tmp_path / "c", runs(0, 1)).resume() == {"epoch": 3}


def test_table_searches_are_merged_too(tmp_path: Path) -> None:
    from tests.tables import synthetic
    from tests.test_tabular_run import command as table_command

    path = synthetic(tmp_path)
    for name, method in (("a", "random_search"), ("b", "local_search")):
        assert run.main([*table_command(path, "--methods", method), "--results", str(tmp_path / name)]) == 0
    assert merged(tmp_path, "a", "b") == 0
    names = {folder.name.split("-")[2] for folder in (tmp_path / "c" / "tabular" / "runs").iterdir()}
    assert names == {"random_search", "local_search"}
    assert not (tmp_path / "c" / "tabular" / "merging").exists()


def test_a_damaged_copy_is_not_taken_for_the_run(tmp_path: Path, errors: Callable[[], list[str]]) -> None:
    searched(tmp_path / "a", 0)
    theirs = searched(tmp_path / "b", 0)
    spoil(theirs.folder(theirs.specs[0]) / "records.jsonl", "flipped")
    assert merged(tmp_path, "a", "b") == 1
    assert len(errors()) == 1


def test_a_specification_that_cannot_be_read_is_named(tmp_path: Path, errors: Callable[[], list[str]]) -> None:
    theirs = searched(tmp_path / "a", 0)
    path = theirs.folder(theirs.specs[0]) / "spec.json"
    path.write_text("{", encoding="utf-8")
    assert merged(tmp_path, "a") == 2
    assert errors() == [f"error: expected JSON in {path}, got something else; remove its folder to leave it out"]
