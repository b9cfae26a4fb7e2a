"""A unit's files on their way between machines that share no folder: what changed since the last parcel.

A worker makes a parcel after every instant, the driver puts it in place in the order in which a store writes: records,
then what counts them, then the checkpoint. So whatever dies, the driver's folder is one that a search can go on from.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

GROWING = ".jsonl"
"""Files that only grow while one process searches: their new bytes are enough."""
PRIVATE = (".part", ".lock")
"""Files of the process that searches; nobody else's business."""


@dataclass(frozen=True)
class Change:
    """New bytes of a file, from `start` to its end.

    Attributes:
        path: relative to the results folder.
    """

    path: str
    start: int
    content: bytes


@dataclass(frozen=True)
class Parcel:
    """What has to be done to another folder to make it the same."""

    changes: tuple[Change, ...]
    removed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mirror:
    """What of some folders has been handed over; the first parcel holds everything.

    Attributes:
        folders: relative to `results`, in the order in which they are to be put in place.
    """

    results: Path
    folders: tuple[str, ...]
    _seen: dict[str, os.stat_result] = field(default_factory=dict)

    def parcel(self) -> Parcel:
        """Return what changed since the last parcel."""
        found = [name for folder in self.folders for name in _files(self.results, folder)]
        changes = [change for name in found if (change := self._change(name)) is not None]
        removed = tuple(name for name in self._seen if name not in set(found))
        for name in removed:
            del self._seen[name]
        return Parcel(tuple(changes), removed)

    def _change(self, name: str) -> Change | None:
        with (self.results / name).open("rb") as file:
            now, before = os.fstat(file.fileno()), self._seen.get(name)
            if before is not None and _identity(before) == _identity(now):
                return None
            grown = before is not None and name.endswith(GROWING) and now.st_ino == before.st_ino
            start = before.st_size if grown and before is not None and before.st_size <= now.st_size else 0
            self._seen[name] = now
            file.seek(start)
            return Change(name, start, file.read(now.st_size - start))


def _identity(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_size, found.st_mtime_ns


def _files(results: Path, folder: str) -> list[str]:
    """Return a folder's files, those that grow first: others count their lines."""
    place = results / folder
    names = sorted(entry.name for entry in os.scandir(place) if entry.is_file()) if place.is_dir() else []
    names = [name for name in names if not name.endswith(PRIVATE)]
    return [f"{folder}/{name}" for name in sorted(names, key=lambda name: not name.endswith(GROWING))]


def put(results: Path, parcel: Parcel) -> None:
    """Bring a folder up to date; each file is on the disk before the next is touched.

    Raises:
        ValueError: a parcel before this one is missing.
    """
    for change in parcel.changes:
        path = results / change.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if change.start:
            _append(path, change)
        else:
            _replace(path, change.content)
    for name in parcel.removed:
        (results / name).unlink(missing_ok=True)
        if not any((results / name).parent.iterdir()):
            (results / name).parent.rmdir()


def _append(path: Path, change: Change) -> None:
    length = path.stat().st_size if path.exists() else 0
    if length != change.start:
        raise ValueError(f"expected {change.start} bytes in {path}, got {length}; did another process write to it?")
    with path.open("ab") as file:
        file.write(change.content)
        file.flush()
        os.fsync(file.fileno())


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def folders(runs: Sequence[str], stack: str) -> tuple[str, ...]:
    """Return the folders of a unit in the order in which a store writes them."""
    return (*(f"runs/{run}" for run in runs), f"stacks/{stack}")
