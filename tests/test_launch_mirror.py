"""A unit's files carried to another folder: the same bytes, in an order that a kill at any moment survives."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.launch import mirror
from bench.launch.mirror import Mirror, Parcel, folders, put

FOLDERS = folders(["a", "b"], "s")


def tree(results: Path) -> dict[str, bytes]:
    return {str(path.relative_to(results)): path.read_bytes() for path in results.rglob("*") if path.is_file()}


def write(results: Path, name: str, content: bytes, mode: str = "wb") -> None:
    path = results / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open(mode) as file:
        file.write(content)


def epoch(results: Path, number: int) -> None:
    """What a store writes for an epoch: lines, then a checkpoint that is renamed into place."""
    for run in ("a", "b"):
        write(results, f"runs/{run}/records.jsonl", b"%d of %s\n" % (number, run.encode()), "ab")
    write(results, "stacks/s/checkpoint.part", b"state %d" % number)
    (results / "stacks/s/checkpoint.part").replace(results / "stacks/s/checkpoint.pt")


def test_a_folder_follows_another_and_only_new_bytes_travel(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    found = Mirror(here, FOLDERS)
    write(here, "runs/a/spec.json", b"{}")
    write(here, "runs/other/records.jsonl", b"not ours\n")
    for number in range(3):
        epoch(here, number)
        parcel = found.parcel()
        put(there, parcel)
        ours = {name: content for name, content in tree(here).items() if "other" not in name}
        assert tree(there) == ours
    assert {change.path: change.content for change in parcel.changes} == {
        "runs/a/records.jsonl": b"2 of a\n",
        "runs/b/records.jsonl": b"2 of b\n",
        "stacks/s/checkpoint.pt": b"state 2",
    }
    assert found.parcel() == Parcel(())
    write(here, "runs/a/finished.json", b"{}")
    (here / "stacks/s/checkpoint.pt").unlink()
    (here / "stacks/s").rmdir()
    put(there, found.parcel())
    assert tree(there) == {name: content for name, content in tree(here).items() if "other" not in name}
    assert not (there / "stacks/s").exists()


def test_lines_come_before_what_counts_them(tmp_path: Path) -> None:
    epoch(tmp_path, 0)
    write(tmp_path, "runs/a/environment.json", b"{}")
    write(tmp_path, "runs/b/search.lock", b"pid")
    order = [change.path for change in Mirror(tmp_path, FOLDERS).parcel().changes]
    assert order == [
        "runs/a/records.jsonl",
        "runs/a/environment.json",
        "runs/b/records.jsonl",
        "stacks/s/checkpoint.pt",
    ]


def test_a_file_that_was_cut_or_replaced_travels_whole(tmp_path: Path) -> None:
    found = Mirror(tmp_path, FOLDERS)
    epoch(tmp_path, 0)
    epoch(tmp_path, 1)
    found.parcel()
    os.truncate(tmp_path / "runs/a/records.jsonl", 7)
    (tmp_path / "new").write_bytes(b"quite another file\n")
    (tmp_path / "new").replace(tmp_path / "runs/b/records.jsonl")
    changes = {change.path: (change.start, change.content) for change in found.parcel().changes}
    assert changes == {"runs/a/records.jsonl": (0, b"0 of a\n"), "runs/b/records.jsonl": (0, b"quite another file\n")}


def test_a_missing_parcel_is_noticed(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    found = Mirror(here, FOLDERS)
    epoch(here, 0)
    put(there, found.parcel())
    epoch(here, 1)
    found.parcel()
    epoch(here, 2)
    with pytest.raises(ValueError, match="expected 14 bytes"):
        put(there, found.parcel())


@pytest.mark.parametrize("at", range(6))
def test_a_kill_while_putting_leaves_a_checkpoint_that_its_records_reach(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    found = Mirror(here, FOLDERS)
    epoch(here, 0)
    put(there, found.parcel())
    epoch(here, 1)
    parcel = found.parcel()
    with monkeypatch.context() as patch:
        _dies(patch, at)
        try:
            put(there, parcel)
        except KeyboardInterrupt:
            assert at < 4
    lines = (there / "runs/a/records.jsonl").read_bytes(), (there / "runs/b/records.jsonl").read_bytes()
    if (there / "stacks/s/checkpoint.pt").read_bytes() == b"state 1":
        assert lines == (b"0 of a\n1 of a\n", b"0 of b\n1 of b\n")
    assert all(content.startswith(b"0 of ") for content in lines)


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
