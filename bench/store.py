"""Folders of runs and checkpoints of stacks: append-only records that survive a kill at any moment.

A run's folder holds its records; a stack's one checkpoint holds the searcher's state and, for each run, how many bytes
of its files belong to that state. On resume the files are cut to those lengths: records and weights are of one epoch.
Files are flushed to disk before the checkpoint that counts them is renamed into place.
"""

import dataclasses
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from bench.spec import RunSpec

FILES = ("records.jsonl", "timing.jsonl")
SAME_BITS = ("python", "versions", "device", "device_name", "threads", "revision")
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "pandas", "pyarrow")


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
    def checkpoint(self) -> Path:
        return self.results / "stacks" / self.stack / "checkpoint.pt"

    def folder(self, spec: Named) -> Path:
        return self.results / "runs" / spec.name

    def create(self, environment: dict[str, Any], table: dict[str, Any] | None) -> None:
        """Start the stack's runs anew; a checkpoint that is left counts bytes of records that go now."""
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        self.checkpoint.unlink(missing_ok=True)
        for spec in self.specs:
            folder = self.folder(spec)
            folder.mkdir(parents=True, exist_ok=True)
            for name in (*FILES, "finished.json", "error.txt"):
                (folder / name).unlink(missing_ok=True)
            write_json(folder / "spec.json", spec.resolved())
            write_json(folder / "environment.json", {**environment, "stack": self.stack})
            write_json(folder / "table.json", table)

    def resume(self) -> dict[str, Any] | None:
        """Return the state to go on from, after cutting every run's files to it; None without a checkpoint.

        Tensors are on the CPU, where some of them belong on every device.
        """
        if not self.checkpoint.exists():
            return None
        saved = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        for spec in self.specs:
            folder = self.folder(spec)
            (folder / "finished.json").unlink(missing_ok=True)
            (folder / "error.txt").unlink(missing_ok=True)
            for name in FILES:
                _cut(folder / name, saved["bytes"][spec.name][name])
        return saved["state"]

    def changed(self, environment: dict[str, Any]) -> list[str]:
        """Return what bit-identity depends on and is no longer as it was when the stack was started."""
        path = self.folder(self.specs[0]) / "environment.json"
        before = json.loads(path.read_text(encoding="utf-8"))
        return [name for name in SAME_BITS if environment[name] != before[name]]

    def append(self, records: Sequence[Written], timing: Written) -> None:
        for spec, record in zip(self.specs, records, strict=True):
            folder = self.folder(spec)
            for name, line in zip(FILES, (record.line(), timing.line()), strict=True):
                with (folder / name).open("a", encoding="utf-8") as file:
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint in one step."""
        sizes = {s.name: {name: (self.folder(s) / name).stat().st_size for name in FILES} for s in self.specs}
        write_state(self.checkpoint, {"state": state, "bytes": sizes})

    def finish(self) -> None:
        """Mark every run as finished, then drop the checkpoint."""
        for spec in self.specs:
            lines = (self.folder(spec) / "records.jsonl").read_text(encoding="utf-8").count("\n")
            write_json(self.folder(spec) / "finished.json", {"records": lines})
        self.checkpoint.unlink(missing_ok=True)
        self.checkpoint.parent.rmdir()

    def fail(self, message: str) -> None:
        """Leave the reason of a failure in every run's folder."""
        for spec in self.specs:
            if self.folder(spec).exists():
                (self.folder(spec) / "error.txt").write_text(message, encoding="utf-8")


def stack_name(signatures: Sequence[str]) -> str:
    return hashlib.sha256("/".join(signatures).encode()).hexdigest()[:16]


def finished(results: Path, spec: Named) -> bool:
    """Return whether a run has finished."""
    return (results / "runs" / spec.name / "finished.json").exists()


def stacked_with(results: Path, spec: RunSpec) -> tuple[RunSpec, ...] | None:
    """Return the runs an unfinished run was stacked with, None where there is nothing to resume."""
    stack = _stack_of(results, spec)
    if stack is None or finished(results, spec) or not (results / "stacks" / stack / "checkpoint.pt").exists():
        return None
    path = results / "runs" / spec.name / "environment.json"
    seeds = json.loads(path.read_text(encoding="utf-8"))["seeds"]
    specs = tuple(dataclasses.replace(spec, seed=seed) for seed in seeds)
    # A member that was started again in another stack has records of its own now.
    return specs if all(_stack_of(results, other) == stack for other in specs) else None


def _stack_of(results: Path, spec: RunSpec) -> str | None:
    path = results / "runs" / spec.name / "environment.json"
    return json.loads(path.read_text(encoding="utf-8"))["stack"] if path.exists() else None


def environment(device: torch.device, seeds: Sequence[int]) -> dict[str, Any]:
    """Return what bit-identity depends on beside the specification."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "python": sys.version.split()[0],
        "versions": {package: metadata.version(package) for package in PACKAGES},
        "device": str(device),
        "device_name": name,
        "threads": torch.get_num_threads(),
        "seeds": list(seeds),
        "revision": revision(),
    }


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint in one step; it is on the disk when this returns."""
    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write a file in one step."""
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def _cut(path: Path, size: int) -> None:
    length = path.stat().st_size if path.exists() else 0
    if length < size:
        raise ValueError(f"expected at least {size} bytes in {path}, got {length}; delete its folder to start it again")
    if length > size:
        os.truncate(path, size)


def revision() -> str | None:
    """Return the git revision of the code, None outside a checkout."""
    try:
        root = Path(__file__).resolve().parent
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
