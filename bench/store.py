"""Folders of runs and checkpoints of stacks: append-only records that survive a kill at any moment.

A run's folder holds its records; a stack's one checkpoint holds the searcher's state and, for each run, how many bytes
of its files belong to that state. On resume the files are cut to those lengths: records and weights are of one epoch.
Files are flushed to disk before the checkpoint that counts them is renamed into place.
"""

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from bench.checkpoint import Checkpoint, write_json
from bench.place import differences
from bench.spec import RunSpec

log = logging.getLogger(__name__)

FILES = ("records.jsonl", "timing.jsonl")
ENDS = ("finished.json", "diverged.json")


@runtime_checkable
class Named(Protocol):
    """A specification that names a folder."""

    @property
    def signature(self) -> str: ...

    @property
    def name(self) -> str: ...

    def resolved(self) -> dict[str, Any]: ...


@runtime_checkable
class Written(Protocol):
    """What is appended to a file: whole lines."""

    def line(self) -> str: ...


@dataclass(frozen=True)
class Store:
    """The results of one stack of runs."""

    results: Path
    specs: tuple[Named, ...]

    @property
    def stack(self) -> str:
        """Return the name of the stack: a hash of its runs."""
        return stack_name([spec.signature for spec in self.specs])

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.results / "stacks" / self.stack)

    def folder(self, spec: Named) -> Path:
        return self.results / "runs" / spec.name

    def create(self, environment: dict[str, Any], table: dict[str, Any] | None) -> None:
        """Start the stack's runs anew; a checkpoint that is left counts bytes of records that go now."""
        self.checkpoint.drop()
        self.checkpoint.folder.mkdir(parents=True, exist_ok=True)
        for spec in self.specs:
            folder = self.folder(spec)
            folder.mkdir(parents=True, exist_ok=True)
            # First of all the name of this stack: a checkpoint of another one that counts these records is then stale.
            write_json(folder / "environment.json", {**environment, "stack": self.stack})
            for name in (*FILES, *ENDS, "error.txt"):
                (folder / name).unlink(missing_ok=True)
            write_json(folder / "spec.json", spec.resolved())
            write_json(folder / "table.json", table)

    def forget(self) -> None:
        """Drop what is told of earlier attempts, whose records go too."""
        for spec in self.specs:
            (self.folder(spec) / "attempts.jsonl").unlink(missing_ok=True)

    def attempt(self, facts: Mapping[str, Any]) -> None:
        """Add a line on this attempt to every run: where it runs and from which epoch, null for the beginning."""
        line = json.dumps(facts, allow_nan=False) + "\n"
        for spec in self.specs:
            path = self.folder(spec) / "attempts.jsonl"
            if path.exists():
                os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
            _add(path, line)

    def resume(self) -> dict[str, Any] | None:
        """Return the state to go on from, after cutting every run's files to it; None to begin with epoch 0.

        A checkpoint that is damaged, or counts bytes that are not there, yields to the one before it.

        Raises:
            ValueError: records are shorter than every checkpoint says.
        """
        if not self.checkpoint.exists():
            return None
        short = None
        for path, saved in self.checkpoint.states():
            short = self._short(saved["bytes"])
            if short is None:
                self._cut(saved["bytes"])
                self.checkpoint.keep_only(path)
                return saved["state"]
            log.warning("%s", short)
        if short is not None:
            raise ValueError(f"{short}; delete its folder to start it again")
        log.warning("no checkpoint of %s is whole: it starts again", ", ".join(spec.name for spec in self.specs))
        self._cut({spec.name: dict.fromkeys(FILES, 0) for spec in self.specs})
        self.checkpoint.drop()
        self.checkpoint.folder.mkdir(parents=True)
        return None

    def _short(self, sizes: Mapping[str, Mapping[str, int]]) -> str | None:
        for spec in self.specs:
            for name in FILES:
                path, size = self.folder(spec) / name, sizes[spec.name][name]
                length = path.stat().st_size if path.exists() else 0
                if length < size:
                    return f"expected at least {size} bytes in {path}, got {length}"
        return None

    def _cut(self, sizes: Mapping[str, Mapping[str, int]]) -> None:
        for spec in self.specs:
            folder = self.folder(spec)
            for name in (*ENDS, "error.txt"):
                (folder / name).unlink(missing_ok=True)
            for name in FILES:
                path = folder / name
                if path.exists() and path.stat().st_size > sizes[spec.name][name]:
                    os.truncate(path, sizes[spec.name][name])

    def resumes(self) -> bool:
        """Return whether there is a checkpoint, and every run's records are those that it counts."""
        return self.checkpoint.exists() and all(stack_of(self.results, spec) == self.stack for spec in self.specs)

    def trained(self) -> int:
        """Return how many epochs of training are recorded."""
        path = self.folder(self.specs[0]) / "records.jsonl"
        return max(path.read_bytes().count(b"\n") - 1, 0) if path.exists() else 0

    def changed(self, environment: dict[str, Any]) -> list[str]:
        """Return what bit-identity depends on and is no longer as it was when the stack was started."""
        path = self.folder(self.specs[0]) / "environment.json"
        return differences(json.loads(path.read_text(encoding="utf-8")), environment)

    def append(self, records: Sequence[Written | None], timing: Written) -> None:
        """Add a record and a timing to every run but those that have ended before, whose record is None."""
        for spec, record in zip(self.specs, records, strict=True):
            if record is not None:
                for name, line in zip(FILES, (record.line(), timing.line()), strict=True):
                    _add(self.folder(spec) / name, line)

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint in one step, and keep the one before it."""
        sizes = {s.name: {name: (self.folder(s) / name).stat().st_size for name in FILES} for s in self.specs}
        self.checkpoint.save({"state": state, "bytes": sizes})

    def finish(self, diverged: Sequence[Mapping[str, Any] | None] = ()) -> None:
        """Mark every run as finished, or as diverged with the reason, then drop the checkpoint."""
        for spec, reason in zip(self.specs, diverged or [None] * len(self.specs), strict=True):
            name = "finished.json" if reason is None else "diverged.json"
            write_json(self.folder(spec) / name, {"records": _counted(self.folder(spec)), **(reason or {})})
        self.checkpoint.drop()

    def fail(self, message: str) -> None:
        """Leave the reason of a failure in every run's folder; where that cannot be written, the log alone has it."""
        for spec in self.specs:
            path = self.folder(spec) / "error.txt"
            try:
                if path.parent.exists():
                    path.write_text(message, encoding="utf-8")
            except OSError as error:
                log.warning("could not write %s: %s", path, error)


def stack_name(signatures: Sequence[str]) -> str:
    return hashlib.sha256("/".join(signatures).encode()).hexdigest()[:16]


def finished(results: Path, spec: Named) -> bool:
    """Return whether a run has finished, and its records are all there."""
    return _whole(results / "runs" / spec.name, "finished.json")


def ended(results: Path, spec: Named) -> bool:
    """Return whether nothing is left to search: a run has finished, or has diverged, and its records are all there."""
    return any(_whole(results / "runs" / spec.name, name) for name in ENDS)


def damage(results: Path, spec: Named) -> str | None:
    """Return what has become of the records of a run that has ended, None where they are all there."""
    folder = results / "runs" / spec.name
    name = next((name for name in ENDS if (folder / name).exists()), None)
    if name is None or _whole(folder, name):
        return None
    written = _written(folder, name)
    if written is None:
        return f"{folder / name} does not say how many records its run ended with"
    return f"{folder} has {_counted(folder)} of the {written} records that its run ended with"


def _whole(folder: Path, name: str) -> bool:
    return (folder / name).exists() and _counted(folder) == _written(folder, name)


def _counted(folder: Path) -> int:
    path = folder / "records.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _written(folder: Path, name: str) -> int | None:
    """Return how many records a run has ended with, None where its file is damaged."""
    try:
        return int(json.loads((folder / name).read_text(encoding="utf-8"))["records"])
    except (ValueError, KeyError, TypeError):
        return None


def diverged(results: Path, specs: Iterable[Named]) -> dict[str, dict[str, Any]]:
    """Return what is known of the runs that have diverged, by name."""
    paths = {spec.name: results / "runs" / spec.name / "diverged.json" for spec in specs}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}


def stacked_with(results: Path, spec: RunSpec) -> tuple[RunSpec, ...] | None:
    """Return the runs an unfinished run was stacked with, None where there is nothing to resume."""
    stack = stack_of(results, spec)
    if stack is None or ended(results, spec) or not Checkpoint(results / "stacks" / stack).exists():
        return None
    path = results / "runs" / spec.name / "environment.json"
    seeds = json.loads(path.read_text(encoding="utf-8"))["seeds"]
    specs = tuple(dataclasses.replace(spec, seed=seed) for seed in seeds)
    # A member that was started again in another stack has records of its own now.
    return specs if all(stack_of(results, other) == stack for other in specs) else None


def stack_of(results: Path, spec: Named) -> str | None:
    """Return the name of the stack that a run was last started in, None where it was in none."""
    path = results / "runs" / spec.name / "environment.json"
    return json.loads(path.read_text(encoding="utf-8"))["stack"] if path.exists() else None


def _add(path: Path, line: str) -> None:
    """Append a line; it is on the disk when this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
