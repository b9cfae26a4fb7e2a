"""Records and checkpoints on the disk: what a kill at any moment leaves, and what is gone on from."""

import dataclasses
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.test_spec import spec

from bench.checkpoint import Checkpoint
from bench.place import environment
from bench.record import EpochRecord, Timing
from bench.spec import RunSpec
from bench.store import FILES, Store, finished, stack_name, stacked_with

CPU = torch.device("cpu")


def runs(*seeds: int) -> tuple[RunSpec, ...]:
    return tuple(dataclasses.replace(spec(), seed=seed) for seed in seeds)


def record(epoch: int, **changes: Any) -> EpochRecord:
    empty: dict[str, Any] = {field.name: None for field in dataclasses.fields(EpochRecord)}
    return EpochRecord(**{**empty, "epoch": epoch, "stage": "search", **changes})


def timing(epoch: int) -> Timing:
    return Timing(epoch, "search", 1.5, 1.0, 0.5, 0.25, None, 1_000_000)


def started(results: Path, *seeds: int, epochs: int = 0) -> Store:
    """A stack with records up to an epoch, the last of them saved."""
    store = Store(results, runs(*seeds))
    store.create(environment(CPU, seeds), None)
    for epoch in range(epochs + 1):
        store.append([record(epoch, train_loss=seed + 0.5) for seed in seeds], timing(epoch))
        store.save({"epoch": epoch, "weights": torch.full((2,), float(epoch))})
    return store


def contents(store: Store) -> list[str]:
    return [(store.folder(found) / name).read_text(encoding="utf-8") for found in store.specs for name in FILES]


def test_a_stack_starts_with_what_it_is_and_no_records(tmp_path: Path) -> None:
    store = Store(tmp_path, runs(0, 1))
    store.create(environment(CPU, (0, 1)), {"rows": 3})
    for found in store.specs:
        folder = store.folder(found)
        assert sorted(path.name for path in folder.iterdir()) == ["environment.json", "spec.json", "table.json"]
        assert json.loads((folder / "spec.json").read_text(encoding="utf-8")) == json.loads(
            json.dumps(found.resolved())
        )
        assert json.loads((folder / "table.json").read_text(encoding="utf-8")) == {"rows": 3}
    assert store.resume() is None


def test_the_environment_says_what_the_bits_depend_on(tmp_path: Path) -> None:
    store = started(tmp_path, 4, 7)
    for found in store.specs:
        text = (store.folder(found) / "environment.json").read_text(encoding="utf-8")
        stored = json.loads(text)
        assert stored["versions"]["torch"] == torch.__version__
        assert {"torch", "numpy", "scipy", "pandas", "pyarrow"} <= set(stored["versions"])
        assert (stored["device"], stored["threads"]) == ("cpu", torch.get_num_threads())
        assert (stored["seeds"], stored["stack"]) == ([4, 7], store.stack)
        assert stored["python"].startswith("3.")
        assert stored["device_name"]


def test_what_has_changed_since_the_start_is_named(tmp_path: Path) -> None:
    store = started(tmp_path, 0, 1)
    now = environment(CPU, (0, 1))
    assert store.changed(now) == []
    assert store.changed({**now, "threads": 64, "device": "cuda"}) == ["device", "threads"]


def test_the_state_comes_back_with_records_of_its_epoch(tmp_path: Path) -> None:
    store = started(tmp_path, 0, 1, epochs=2)
    before = contents(store)
    state = store.resume()
    assert state is not None
    assert state["epoch"] == 2
    assert torch.equal(state["weights"], torch.full((2,), 2.0))
    assert contents(store) == before


@pytest.mark.parametrize("after", ["", '{"epoch": 2, "st', '{"epoch": 2}\n', "x" * 100_000])
def test_what_was_written_after_the_checkpoint_is_cut(tmp_path: Path, after: str) -> None:
    store = started(tmp_path, 0, 1, epochs=1)
    before = contents(store)
    for name in FILES:
        with (store.folder(store.specs[1]) / name).open("a", encoding="utf-8") as file:
            file.write(after)
    store.resume()
    assert contents(store) == before


def test_cutting_twice_is_cutting_once(tmp_path: Path) -> None:
    store = started(tmp_path, 0, 1, epochs=1)
    store.append([record(2), record(2)], timing(2))
    store.resume()
    before = contents(store)
    store.resume()
    assert contents(store) == before


def test_records_of_some_runs_only_are_cut_to_the_epoch_of_all(tmp_path: Path) -> None:
    store = started(tmp_path, 0, 1, epochs=1)
    before = contents(store)
    Store(tmp_path, store.specs[:1]).append([record(2)], timing(2))
    store.resume()
    assert contents(store) == before


def test_a_torn_last_line_is_made_good_by_the_checkpoint_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = contents(started(tmp_path / "shorter", 0, 1, epochs=1))
    store = started(tmp_path / "torn", 0, 1, epochs=2)
    path = store.folder(store.specs[1]) / "records.jsonl"
    counted = path.stat().st_size
    os.truncate(path, counted - 3)
    for _ in range(2):
        state = store.resume()
        assert state is not None
        assert state["epoch"] == 1
        assert contents(store) == whole
    assert [record.getMessage() for record in caplog.records] == [
        f"expected at least {counted} bytes in {path}, got {counted - 3}"
    ]
    assert store.resumes()


def test_a_file_shorter_than_both_checkpoints_count_is_an_error_and_stays(tmp_path: Path) -> None:
    store = started(tmp_path, 0, 1, epochs=1)
    path = store.folder(store.specs[1]) / "records.jsonl"
    os.truncate(path, 3)
    before = contents(store)
    with pytest.raises(ValueError, match=rf"expected at least \d+ bytes in {path}, got 3; delete its folder"):
        store.resume()
    assert contents(store) == before


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "gone"])
def test_a_damaged_checkpoint_yields_to_the_one_before(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = contents(started(tmp_path / "shorter", 0, 1, epochs=1))
    store = started(tmp_path / "damaged", 0, 1, epochs=2)
    last, previous = store.checkpoint.paths
    spoil(last, damage)
    for _ in range(2):
        state = store.resume()
        assert state is not None
        assert state["epoch"] == 1
        assert contents(store) == whole
    said = [] if damage == "gone" else [f"the checkpoint {last} is damaged and not used"]
    assert [record.getMessage() for record in caplog.records] == said
    store.append([record(2), record(2)], timing(2))
    store.save({"epoch": 2})
    assert {path.name for path in last.parent.iterdir()} == {"checkpoint.pt", "previous.pt"}
    spoil(last, "flipped")
    assert store.resume() == {"epoch": 1, "weights": pytest.approx(torch.full((2,), 1.0))}
    assert previous.exists()


def test_without_a_whole_checkpoint_it_starts_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = started(tmp_path, 0, 1, epochs=2)
    for path in store.checkpoint.paths:
        spoil(path, "flipped")
    assert store.resume() is None
    assert contents(store) == [""] * 4
    assert "it starts again" in caplog.records[-1].getMessage()
    store.append([record(0), record(0)], timing(0))
    store.save({"epoch": 0})
    assert store.resume() == {"epoch": 0}


def spoil(path: Path, damage: str) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    left = {"flipped": bytes(content), "cut": bytes(content[:-40]), "empty": b""}
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(left[damage])


def test_attempts_are_added_and_a_torn_line_is_not_added_to(tmp_path: Path) -> None:
    store = started(tmp_path, 0)
    store.attempt({"from_epoch": None})
    path = store.folder(store.specs[0]) / "attempts.jsonl"
    with path.open("a", encoding="utf-8") as file:
        file.write('{"from_ep')
    store.attempt({"from_epoch": 3})
    assert path.read_text(encoding="utf-8") == '{"from_epoch": null}\n{"from_epoch": 3}\n'
    store.create(environment(CPU, (0,)), None)
    assert path.exists()
    store.forget()
    assert not path.exists()


@pytest.mark.parametrize("moment", ["write", "replace"])
def test_a_checkpoint_is_the_old_one_until_the_new_one_is_whole(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = started(tmp_path, 0, 1, epochs=1)

    def die(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync", die) if moment == "write" else (Path, "replace", die)))
        with pytest.raises(KeyboardInterrupt):
            store.save({"epoch": 2})
    state = store.resume()
    assert state is not None
    assert state["epoch"] == 1
    store.save({"epoch": 2})
    assert sorted(path.name for path in store.checkpoint.folder.iterdir()) == ["checkpoint.pt", "previous.pt"]


def test_files_are_on_the_disk_before_the_checkpoint_that_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = started(tmp_path, 0, 1)
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: (calls.append("fsync"), fsync(number))[1])
    monkeypatch.setattr(Path, "replace", lambda path, to: (calls.append("replace"), replace(path, to))[1])
    store.append([record(1), record(1)], timing(1))
    assert calls == ["fsync"] * 4
    store.save({"epoch": 1})
    assert calls == ["fsync"] * 5 + ["replace", "replace"]


def test_a_checkpoint_holds_data_only(tmp_path: Path) -> None:
    store = started(tmp_path, 0)
    store.save({"epoch": Path("x")})
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        store.resume()


def test_what_a_killed_writer_left_of_a_checkpoint_goes_with_it(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "stack")
    checkpoint.folder.mkdir()
    checkpoint.save({"epoch": 1})
    for name in ("checkpoint.part", "checkpoint.pt.part", "previous.pt.part"):
        (checkpoint.folder / name).write_bytes(b"half")
    checkpoint.drop()
    assert not checkpoint.folder.exists()


def test_finishing_counts_the_records_and_drops_the_checkpoint(tmp_path: Path) -> None:
    store = started(tmp_path, 0, 1, epochs=3)
    assert not finished(tmp_path, store.specs[0])
    store.finish()
    for found in store.specs:
        assert finished(tmp_path, found)
        text = (store.folder(found) / "finished.json").read_text(encoding="utf-8")
        assert json.loads(text) == {"records": 4}
    assert not store.checkpoint.exists()
    assert list((tmp_path / "stacks").iterdir()) == []


def test_resuming_takes_the_marks_of_an_unfinished_finish_and_of_a_failure_back(tmp_path: Path) -> None:
    store = started(tmp_path, 0, 1, epochs=1)
    store.fail("Traceback: it broke")
    (store.folder(store.specs[0]) / "finished.json").write_text("{}", encoding="utf-8")
    assert (store.folder(store.specs[1]) / "error.txt").read_text(encoding="utf-8") == "Traceback: it broke"
    store.resume()
    assert not finished(tmp_path, store.specs[0])
    assert not (store.folder(store.specs[1]) / "error.txt").exists()


def test_a_failure_before_the_folder_exists_leaves_nothing(tmp_path: Path) -> None:
    Store(tmp_path, runs(0)).fail("Traceback")
    assert list(tmp_path.iterdir()) == []


def test_a_reason_that_cannot_be_written_is_no_failure_of_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = started(tmp_path, 0, 1)
    path = store.folder(store.specs[0]) / "error.txt"
    path.mkdir()
    store.fail("Traceback")
    assert (store.folder(store.specs[1]) / "error.txt").read_text(encoding="utf-8") == "Traceback"
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"could not write {path}: ")


def test_a_checkpoint_that_finds_no_room_leaves_the_last_one_and_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = started(tmp_path, 0, 1, epochs=1)

    def full(_file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            store.save({"epoch": 2})
    assert sorted(path.name for path in store.checkpoint.folder.iterdir()) == ["checkpoint.pt", "previous.pt"]
    state = store.resume()
    assert state is not None
    assert state["epoch"] == 1


def test_starting_again_drops_records_marks_and_checkpoint(tmp_path: Path) -> None:
    store = started(tmp_path, 0, 1, epochs=2)
    store.fail("Traceback")
    again = started(tmp_path, 0, 1)
    assert again.checkpoint == store.checkpoint
    again.create(environment(CPU, (0, 1)), None)
    assert again.resume() is None
    assert sorted(path.name for path in again.folder(again.specs[0]).iterdir()) == [
        "environment.json",
        "spec.json",
        "table.json",
    ]


def test_a_stack_is_named_by_its_runs_in_order() -> None:
    assert stack_name(["a", "b"]) != stack_name(["b", "a"])
    assert stack_name(["a"]) != stack_name(["a", "b"])


@pytest.mark.parametrize("asked", [0, 1, 2])
def test_an_interrupted_run_is_stacked_with_what_it_was(tmp_path: Path, asked: int) -> None:
    store = started(tmp_path, 0, 2, 1, epochs=1)
    assert stacked_with(tmp_path, runs(asked)[0]) == store.specs


def test_nothing_to_resume_is_none(tmp_path: Path) -> None:
    run = runs(0)[0]
    assert stacked_with(tmp_path, run) is None
    store = Store(tmp_path, runs(0, 1))
    store.create(environment(CPU, (0, 1)), None)
    assert stacked_with(tmp_path, run) is None
    store = started(tmp_path, 0, 1, epochs=1)
    assert stacked_with(tmp_path, run) == store.specs
    assert stacked_with(tmp_path, dataclasses.replace(run, epochs=8)) is None
    store.finish()
    assert stacked_with(tmp_path, run) is None


def test_a_stack_one_of_whose_runs_was_started_again_elsewhere_is_stale(tmp_path: Path) -> None:
    started(tmp_path, 0, 1, epochs=2)
    alone = started(tmp_path, 0)
    assert stacked_with(tmp_path, runs(1)[0]) is None
    assert stacked_with(tmp_path, runs(0)[0]) == alone.specs
    alone.finish()
    assert stacked_with(tmp_path, runs(1)[0]) is None


def test_a_kill_within_finish_can_be_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = started(tmp_path, 0, 1, epochs=1)
    replace = Path.replace

    def die_at_the_second(path: Path, to: Path) -> Path:
        if store.specs[1].name in str(to):
            raise KeyboardInterrupt
        return replace(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            store.finish()
    assert finished(tmp_path, store.specs[0])
    assert not finished(tmp_path, store.specs[1])
    assert stacked_with(tmp_path, store.specs[1]) == store.specs


def test_a_record_is_one_line_and_a_number_that_is_not_finite_is_null() -> None:
    line = record(
        1, train_loss=float("nan"), logits={"op": [[float("inf"), 0.5], [float("-inf"), 1.0]]}, table={"n_runs": 3}
    ).line()
    assert line.endswith("\n")
    assert line.count("\n") == 1
    found = json.loads(line, parse_constant=pytest.fail)
    assert found["train_loss"] is None
    assert found["logits"] == {"op": [[None, 0.5], [None, 1.0]]}
    assert found["table"] == {"n_runs": 3}


def test_a_record_keeps_every_digit() -> None:
    value = 0.1 + 0.2
    assert json.loads(record(0, train_loss=value).line())["train_loss"] == value
