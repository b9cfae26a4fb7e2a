"""What is there of a dataset, and getting what is not: from an archive, file by file, or by hand."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.data import splits
from bench.data.download import NewBar, fetch, is_good
from bench.data.sources import File, Part
from bench.data.unpack import unpack

Say = Callable[[str], object]
"""Told what is done, a line each."""


@dataclass(frozen=True)
class State:
    """What is there of a part.

    Attributes:
        good: files that are there as published.
        missing: files that are not there.
        wrong: files that are there and are not the published ones.
    """

    good: tuple[File, ...]
    missing: tuple[File, ...]
    wrong: tuple[File, ...]

    @property
    def whole(self) -> bool:
        return not self.missing and not self.wrong


def state(part: Part, root: Path) -> State:
    """Return what is there of a part below the data folder; every byte is read and compared."""
    found: dict[str, list[File]] = {"good": [], "missing": [], "wrong": []}
    for file in part.files:
        path = root / part.folder / file.name
        found["missing" if not path.is_file() else "good" if _good(part, file, path) else "wrong"].append(file)
    return State(*(tuple(found[name]) for name in ("good", "missing", "wrong")))


def obtain(part: Part, root: Path, downloads: Path, new_bar: NewBar, say: Say) -> None:
    """Get what is missing of a part; `downloads` is held.

    Raises:
        ValueError: something is not the published file, or has to be put there by hand; the message says where from.
        OSError: it cannot be fetched or written.
    """
    before = state(part, root)
    absent = (*before.missing, *before.wrong)
    if before.whole:
        say(f"{part.name} is there: {place(part, root)}")
        return
    if part.archive is not None:
        _from_archive(part, part.archive, root, downloads, new_bar)
    elif all(file.url is not None for file in absent):
        for file in absent:
            _one_by_one(part, file, root, downloads, new_bar)
    else:
        raise ValueError(by_hand(part, before, root))
    say(f"{part.name} is there now: {place(part, root)}")


def by_hand(part: Part, found: State, root: Path) -> str:
    """Return how to get what is missing of a part that has no direct address."""
    absent = (*found.missing, *found.wrong)
    lines = [
        f"{part.name} has no direct address: get {len(absent)} of its {len(part.files)} files from {absent[0].page}, "
        f"and put them into {root / part.folder}:"
    ]
    for file in absent:
        note = ", the one that is there is another" if file in found.wrong else ""
        lines.append(f"  {file.name}, {(file.checksum or 'no checksum is published').replace(':', ' ')}{note}")
    return "\n".join(lines)


def _from_archive(part: Part, archive: File, root: Path, downloads: Path, new_bar: NewBar) -> None:
    path = fetch(archive, downloads, new_bar)
    wanted = {f"{part.folder}/{file.name}": file.checksum or "" for file in part.files}
    unpack(path, wanted, root / part.folder, downloads / "unpacking")


def _one_by_one(part: Part, file: File, root: Path, downloads: Path, new_bar: NewBar) -> None:
    path = fetch(file, downloads, new_bar)
    if not _good(part, file, path):
        path.unlink()
        raise ValueError(f"expected {part.title} from {file.url}, the server sent something else, which is not kept")
    (root / part.folder).mkdir(parents=True, exist_ok=True)
    shutil.move(path, root / part.folder / file.name)


def _good(part: Part, file: File, path: Path) -> bool:
    """Return whether a file is as published; a split without a checksum has to divide its images."""
    if part.division is None or not is_good(path, file.checksum):
        return is_good(path, file.checksum)
    try:
        splits.parse(path.read_bytes(), *part.division, str(path))
    except ValueError:
        return False
    return True


def place(part: Part, root: Path) -> Path:
    """Return where a part belongs: its folder, or its only file."""
    return root / part.folder if len(part.files) > 1 else root / part.folder / part.files[0].name
