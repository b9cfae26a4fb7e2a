"""A unit's files carried to another folder: the same bytes, in an order that a kill at any moment survives."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.launch import mirror
from bench.launch.mirror import Mirror, Parcel, clear, everything, folders, put

FOLDERS = ("runs/a", "runs/b", "stacks/s")


def tree(results: Path) -> dict[str, bytes]:
    return {str(path.relative_to(results)): path.read_bytes() for path in results.rglob("*") if path.is_file()}


def write(results: Path, name: str, content: bytes, mode: str = "wb") -> None:
    path = results / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open(mode) as file:
        file.write(content)


def epoch(results: Path, number: int) -> None:
    """What a store writes for an epoch: lines, then a checkpoint that is renamed into place, the last one kept."""
    for run in ("a", "b"):
        write(results, f"runs/{run}/records.jsonl", b"%d of %s\n" % (number, run.encode()), "ab")
    write(results, "stacks/s/checkpoint.part", b"state %d" % number)
    if (results / "stacks/s/checkpoint.pt").exists():
        (results / "stacks/s/checkpoint.pt").replace(results / "stacks/s/previous.pt")
    (results / "stacks/s/checkpoint.part").replace(results / "stacks/s/checkpoint.pt")


def test_a_folder_follows_another_and_only_what_is_new_travels(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    found = Mirror(here)
    write(here, "runs/a/spec.json", b"{}")
    write(here, "locks/a", b"not for others")
    for number in range(4):
        epoch(here, number)
        parcel = found.parcel(everything(here))
        put(there, parcel)
        assert tree(there) == {name: content for name, content in tree(here).items() if "locks" not in name}
    assert {change.path: (change.content, change.moved) for change in parcel.changes} == {
        "runs/a/records.jsonl": (b"3 of a\n", None),
        "runs/b/records.jsonl": (b"3 of b\n", None),
        "stacks/s/previous.pt": (b"", "stacks/s/checkpoint.pt"),
        "stacks/s/checkpoint.pt": (b"state 3", None),
    }
    assert found.parcel(everything(here)) == Parcel(())
    write(here, "runs/a/finished.json", b"{}")
    for name in ("checkpoint.pt", "previous.pt"):
        (here / "stacks/s" / name).unlink()
    (here / "stacks/s").rmdir()
    put(there, found.parcel(everything(here)))
    assert tree(there) == {name: content for name, content in tree(here).items() if "locks" not in name}
    assert not (there / "stacks/s").exists()


def test_lines_come_before_what_counts_them(tmp_path: Path) -> None:
    epoch(tmp_path, 0)
    write(tmp_path, "runs/a/environment.json", b"{}")
    write(tmp_path, "stacks/s/checkpoint.part", b"torn")
    order = [change.path for change in Mirror(tmp_path).parcel(everything(tmp_path)).changes]
    assert order == [
        "runs/a/records.jsonl",
        "runs/a/environment.json",
        "runs/b/records.jsonl",
        "stacks/s/checkpoint.pt",
    ]


def test_a_file_that_was_cut_or_replaced_travels_whole(tmp_path: Path) -> None:
    found = Mirror(tmp_path)
    epoch(tmp_path, 0)
    epoch(tmp_path, 1)
    found.parcel(FOLDERS)
    os.truncate(tmp_path / "runs/a/records.jsonl", 7)
    (tmp_path / "new").write_bytes(b"quite another file\n")
    (tmp_path / "new").replace(tmp_path / "runs/b/records.jsonl")
    changes = {change.path: (change.start, change.content) for change in found.parcel(FOLDERS).changes}
    assert changes == {"runs/a/records.jsonl": (0, b"0 of a\n"), "runs/b/records.jsonl": (0, b"quite another file\n")}


def test_what_the_other_side_has_and_is_gone_here_is_removed_there(tmp_path: Path) -> None:
    """A second attempt gets the files of the first, and its search drops some before it makes a parcel."""
    here, there = tmp_path / "here", tmp_path / "there"
    epoch(there, 0)
    write(there, "runs/a/error.txt", b"killed")
    first = Mirror(there).parcel(folders(there, ["a", "b"], "s"))
    put(here, first)
    (here / "runs/a/error.txt").unlink()
    epoch(here, 1)
    put(there, Mirror(here, known=tuple(change.path for change in first.changes)).parcel(everything(here)))
    assert tree(there) == tree(here)


def test_clearing_leaves_other_runs_alone(tmp_path: Path) -> None:
    epoch(tmp_path, 0)
    write(tmp_path, "runs/other/records.jsonl", b"1\n")
    clear(tmp_path, FOLDERS)
    assert set(tree(tmp_path)) == {"runs/other/records.jsonl"}


def test_the_smaller_stacks_of_a_unit_belong_to_it(tmp_path: Path) -> None:
    write(tmp_path, "runs/b/environment.json", json.dumps({"stack": "half"}).encode())
    assert folders(tmp_path, ["a", "b"], "s") == ("runs/a", "runs/b", "stacks/s", "stacks/half")


def test_a_missing_parcel_is_noticed(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    found = Mirror(here)
    epoch(here, 0)
    put(there, found.parcel(FOLDERS))
    epoch(here, 1)
    found.parcel(FOLDERS)
    epoch(here, 2)
    with pytest.raises(ValueError, match="expected 14 bytes"):
        put(there, found.parcel(FOLDERS))


@pytest.mark.parametrize("at", range(7))
def test_a_kill_while_putting_leaves_a_checkpoint_that_its_records_reach(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    found = Mirror(here)
    epoch(here, 0)
    put(there, found.parcel(FOLDERS))
    epoch(here, 1)
    parcel = found.parcel(FOLDERS)
    with monkeypatch.context() as patch:
        _dies(patch, at)
        try:
            put(there, parcel)
        except KeyboardInterrupt:
            assert at < 5
    records = [(there / f"runs/{run}/records.jsonl").read_bytes() for run in ("a", "b")]
    paths = [there / "stacks/s" / name for name in ("checkpoint.pt", "previous.pt")]
    (state, *_) = [path.read_bytes() for path in paths if path.exists()]
    epochs = 1 + int(state.decode().split()[1])
    assert all(content.count(b"\n") >= epochs for content in records)


def _dies(patch: pytest.MonkeyPatch, at: int) -> None:
    """Die just before the n-th change that reaches the disk."""
    count = [0]

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            count[0] += 1
            if count[0] - 1 == at:
                raise KeyboardInterrupt
            return call(*arguments)

        return wrapped

    patch.setattr(mirror.os, "fsync", counted(os.fsync))
    patch.setattr(Path, "replace", counted(Path.replace))
