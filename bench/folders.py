"""Results folders of several machines as one: what is taken, what is the same, what cannot be."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bench.lock import Held, locked
from bench.store import ENDS

PARTS = (".", "tabular")
"""Where runs are below a results folder: of searches, of table-only methods."""


class Conflict(NamedTuple):
    """A run of which two folders tell different things."""

    ours: Path
    theirs: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.theirs} and {self.ours}: {self.reason}; neither was touched"


class Merged(NamedTuple):
    """What became of the runs of all sources."""

    copied: int
    known: int
    conflicts: list[Conflict]


@dataclass(frozen=True)
class Run:
    """A run's folder, as far as it decides what is taken.

    Attributes:
        records: whole lines of `records.jsonl`; what a kill has torn is no record.
        ended: whether it has finished or diverged.
    """

    folder: Path
    spec: dict[str, Any]
    environment: dict[str, Any]
    records: bytes
    ended: bool


def merge(sources: Sequence[Path], target: Path) -> Merged:
    """Copy what the target does not have.

    Raises:
        ValueError: a source is no results folder, or is the target.
    """
    for source in sources:
        if not any((source / part / "runs").is_dir() for part in PARTS):
            raise ValueError(f"expected a results folder with runs/ in it, found none in {source}")
        if source.resolve() == target.resolve():
            raise ValueError(f"expected another folder than the sources at --into, got {target}")
    found = [_merge(source / part, target / part) for source in sources for part in PARTS]
    conflicts = [conflict for merged in found for conflict in merged.conflicts]
    return Merged(sum(merged.copied for merged in found), sum(merged.known for merged in found), conflicts)


def _merge(source: Path, target: Path) -> Merged:
    copied: list[Run] = []
    known, conflicts = 0, []
    for theirs in _runs(source):
        folder = target / "runs" / theirs.folder.name
        ours = _run(folder) if folder.exists() else None
        choice = "theirs" if ours is None else _choice(ours, theirs)
        if choice == "theirs":
            copied.append(theirs)
        elif choice == "ours":
            known += 1
        else:
            conflicts.append(Conflict(folder, theirs.folder, choice))
    held = _take(source, target, copied)
    return Merged(len(copied) - len(held), known, conflicts + held)


def _choice(ours: Run, theirs: Run) -> Literal["ours", "theirs"] | str:
    """Return which of two folders of one run has all of it, or why none has."""
    if ours.spec != theirs.spec:
        return "one signature and two specifications: spec.json differs"
    longer, shorter = (ours, theirs) if _extent(ours) >= _extent(theirs) else (theirs, ours)
    same = longer.records == shorter.records
    if not (same or (longer.records.startswith(shorter.records) and not shorter.ended)):
        line = _first_difference(ours.records, theirs.records)
        seeds = [run.environment.get("seeds") for run in (theirs, ours)]
        stacked = f" (stacked as seeds {seeds[0]} and {seeds[1]})" if seeds[0] != seeds[1] else ""
        return f"their records differ from line {line} on{stacked}"
    return "ours" if longer is ours else "theirs"


def _extent(run: Run) -> tuple[bool, int]:
    return run.ended, len(run.records)


def _first_difference(one: bytes, other: bytes) -> int:
    lines = one.splitlines(), other.splitlines()
    pairs = zip(*lines, strict=False)
    return next((n for n, (a, b) in enumerate(pairs, 1) if a != b), min(map(len, lines)) + 1)


def _take(source: Path, target: Path, runs: Sequence[Run]) -> list[Conflict]:
    """Copy runs and the checkpoints of their stacks beside their places, then move them there."""
    area, conflicts = target / "merging", []
    stacks = {stack for run in runs if not run.ended and (stack := run.environment.get("stack"))}
    # Before the records: a search that goes on meanwhile adds to records first, so they have all that these count.
    copies = {stack: _copy(source / "stacks" / stack, area) for stack in stacks if (source / "stacks" / stack).is_dir()}
    for run in runs:
        place = target / "runs" / run.folder.name
        try:
            with locked(target, [run.folder.name], wait_s=0):
                _move(_copy(run.folder, area), place)
        except Held as held:
            conflicts.append(Conflict(place, run.folder, str(held)))
            copies.pop(run.environment.get("stack", ""), None)
    for stack, copy in copies.items():
        _move(copy, target / "stacks" / stack)
    if area.exists():
        shutil.rmtree(area)
    return conflicts


def _copy(folder: Path, area: Path) -> Path:
    copy = area / folder.name
    if copy.exists():
        shutil.rmtree(copy)
    return shutil.copytree(folder, copy)


def _move(copy: Path, place: Path) -> None:
    """Put a folder where there is none, or one that it contains all of."""
    place.parent.mkdir(parents=True, exist_ok=True)
    old = copy.with_suffix(".old")
    if place.exists():
        place.replace(old)
    copy.replace(place)
    if old.exists():
        shutil.rmtree(old)


def _runs(results: Path) -> Iterator[Run]:
    for folder in sorted((results / "runs").glob("*")):
        if (folder / "spec.json").exists():
            yield _run(folder)


def _run(folder: Path) -> Run:
    path = folder / "records.jsonl"
    content = path.read_bytes() if path.exists() else b""
    ended = any((folder / name).exists() for name in ENDS)
    records = content[: content.rfind(b"\n") + 1]
    return Run(folder, read_json(folder / "spec.json"), read_json(folder / "environment.json"), records, ended)


def read_json(path: Path) -> dict[str, Any]:
    """Return what a file of a run says, nothing where there is no file.

    Raises:
        ValueError: it is damaged.
    """
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"expected JSON in {path}, got something else; remove its folder to leave it out") from error
