"""Records and checkpoints on the disk: what a kill at any moment leaves, and what is gone on from."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.test_spec import spec

from bench.record import EpochRecord, Timing
from bench.spec import RunSpec
from bench.store import FILES, Store, environment, finished, stack_name, stacked_with

CPU = torch.device("cpu")


def runs(*seeds: int) -> tuple[RunSpec, ...]:
    return tuple(dataclasses.replace(spec(), seed=seed) for seed in seeds)


def record(epoch: int, **changes: Any) -> EpochRecord:
    empty: dict[str, Any] = {field.name: None for field in dataclasses.fields(EpochRecord)}
    return EpochRecord(**{**empty, "epoch": epoch, "stage": "search", **changes})


def timing(epoch: int) -> Timing:
    return Timing(epoch, "search", 1.5, 1.0, 0.5, 0.25, None, None)


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


def test_a_file_shorter_than_counted_is_an_error_and_stays(tmp_path: Path) -> None:
    store = started(tmp_path, 0, 1, epochs=1)
    path = store.folder(store.specs[1]) / "records.jsonl"
    counted = path.stat().st_size
    os.truncate(path, counted - 3)
    with pytest.raises(ValueError, match=rf"expected at least {counted} bytes in {path}, got {counted - 3}"):
        store.resume()
    path.unlink()
    with pytest.raises(ValueError, match=rf"expected at least {counted} bytes in {path}, got 0"):
        store.resume()


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
    assert [path.name for path in store.checkpoint.parent.iterdir()] == ["checkpoint.pt"]


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
    assert calls == ["fsync"] * 5 + ["replace"]


def test_a_checkpoint_holds_data_only(tmp_path: Path) -> None:
    store = started(tmp_path, 0)
    store.save({"epoch": Path("x")})
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        store.resume()


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
