"""Checkpoints that are whole or known to be damaged, and the one before the last.

A file begins with the SHA-256 of the rest: torch's own reader does not check what it reads. The checkpoint that is
replaced stays as `previous.pt`; at any moment one of the two is whole on the disk.
"""

import hashlib
import io
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)

DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Checkpoint:
    """The two checkpoints of one stack, in a folder of their own."""

    folder: Path

    @property
    def paths(self) -> tuple[Path, Path]:
        """Return the last one and the one before it."""
        return self.folder / "checkpoint.pt", self.folder / "previous.pt"

    def exists(self) -> bool:
        return any(path.exists() for path in self.paths)

    def save(self, state: dict[str, Any]) -> None:
        """Write the state in one step; it is on the disk when this returns, and what was the last one is kept."""
        last, previous = self.paths
        partial = last.with_suffix(".part")
        _write(partial, state)
        if last.exists():
            last.replace(previous)
        partial.replace(last)

    def states(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yield the states that are whole, newest first; a damaged one is named in the log."""
        for path in self.paths:
            if not path.exists():
                continue
            try:
                yield path, read_state(path)
            except Damaged as damage:
                log.warning("%s", damage)

    def keep_only(self, path: Path) -> None:
        """Drop a checkpoint that is newer than the one that is gone on from."""
        last, _ = self.paths
        if path != last:
            last.unlink(missing_ok=True)

    def drop(self) -> None:
        """Remove both, the last one first: it is the one that is gone on from; and what a killed writer left of one."""
        for path in (*self.paths, *self.folder.glob("*.part")):
            path.unlink(missing_ok=True)
        if self.folder.exists():
            self.folder.rmdir()


class Damaged(ValueError):
    """A checkpoint is not what was written."""


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint in one step; it is on the disk when this returns."""
    partial = path.with_suffix(".part")
    _write(partial, state)
    partial.replace(path)


def read_state(path: Path) -> dict[str, Any]:
    """Return the state of a checkpoint, its tensors on the CPU, where some of them belong on every device.

    Raises:
        Damaged: the file is not what was written.
    """
    content = path.read_bytes()
    digest, state = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(state).digest() != digest:
        raise Damaged(f"the checkpoint {path} is damaged and not used")
    return torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)


def write_json(path: Path, value: Any) -> None:
    """Write a file in one step."""
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def _write(path: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    try:
        with path.open("wb") as file:
            file.write(hashlib.sha256(content).digest())
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)  # a part of a checkpoint is of no use, and takes the room that is missing
        raise
