"""A unit's files on their way between machines that share no folder: what changed since the last parcel.

A worker makes a parcel after every instant, the driver puts it in place in the order in which a store writes: records,
then what counts them, then the checkpoint. So whatever dies, the driver's folder is one that a search can go on from.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

GROWING = ".jsonl"
"""Files that only grow while one process searches: their new bytes are enough."""
PRIVATE = (".part",)
"""Files that are not whole yet."""


@dataclass(frozen=True)
class Change:
    """What becomes of a file.

    Attributes:
        path: relative to the results folder.
        content: its bytes from `start` to its end.
        moved: the file it was before, where it has only been renamed.
    """

    path: str
    start: int = 0
    content: bytes = b""
    moved: str | None = None


@dataclass(frozen=True)
class Parcel:
    """What has to be done to another folder to make it the same."""

    changes: tuple[Change, ...]
    removed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mirror:
    """What of a results folder has been handed over; the first parcel holds everything.

    Attributes:
        known: files that the other side has already, maybe with other content.
    """

    results: Path
    known: tuple[str, ...] = ()
    _seen: dict[str, os.stat_result] = field(default_factory=dict)

    def parcel(self, folders: Sequence[str]) -> Parcel:
        """Return what changed in these folders since the last parcel; they are put in place in this order."""
        found = [name for folder in folders for name in _files(self.results, folder)]
        before = dict(self._seen)
        changes = [change for name in found if (change := self._change(name, before)) is not None]
        moved = {change.moved for change in changes}
        gone = [name for name in (*self.known, *before) if name not in found and name not in moved]
        for name in before.keys() - set(found):
            del self._seen[name]
        # A checkpoint that becomes the previous one has to make room before the new one comes.
        changes.sort(key=lambda change: (_is_stack(change.path), change.moved is None))
        return Parcel(tuple(changes), tuple(dict.fromkeys(gone)))

    def _change(self, name: str, before: dict[str, os.stat_result]) -> Change | None:
        with (self.results / name).open("rb") as file:
            now, last = os.fstat(file.fileno()), before.get(name)
            self._seen[name] = now
            if last is not None and _identity(last) == _identity(now):
                return None
            for other, seen in before.items():
                if _identity(seen) == _identity(now):
                    return Change(name, moved=other)
            grown = name.endswith(GROWING) and last is not None and last.st_ino == now.st_ino
            start = last.st_size if grown and last is not None and last.st_size <= now.st_size else 0
            file.seek(start)
            return Change(name, start, file.read(now.st_size - start))


def _identity(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_size, found.st_mtime_ns


def _is_stack(name: str) -> bool:
    return name.startswith("stacks/")


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
        if change.moved is not None:
            (results / change.moved).replace(path)
        elif change.start:
            _append(path, change)
        else:
            _replace(path, change.content)
    _remove(results, parcel.removed)


def clear(results: Path, folders: Sequence[str]) -> None:
    """Drop a unit's files, checkpoints first: they count bytes of records."""
    _remove(results, [name for folder in reversed(folders) for name in _files(results, folder)])


def _remove(results: Path, names: Iterable[str]) -> None:
    for name in names:
        path = results / name
        path.unlink(missing_ok=True)
        if path.parent.exists() and not any(path.parent.iterdir()):
            path.parent.rmdir()


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


def everything(results: Path) -> tuple[str, ...]:
    """Return the folders of all runs and stacks, in the order in which a store writes them."""
    kinds = [sorted((results / kind).glob("*")) for kind in ("runs", "stacks")]
    return tuple(str(path.relative_to(results)) for kind in kinds for path in kind)


def folders(results: Path, runs: Sequence[str], stack: str) -> tuple[str, ...]:
    """Return the folders of a unit, with those of the smaller stacks that its runs may have been searched in."""
    stacks = {stack: None}
    for run in runs:
        path = results / "runs" / run / "environment.json"
        if path.exists():
            stacks[json.loads(path.read_text(encoding="utf-8"))["stack"]] = None
    return (*(f"runs/{run}" for run in runs), *(f"stacks/{name}" for name in stacks))
