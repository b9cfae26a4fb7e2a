"""Trainings that are done: what a long build writes as it goes, and continues from.

A folder of append-only JSON lines, one file a share of the work, so that several processes or machines build one table:
each writes its own file and reads all of them. A line is one training, appended and flushed to disk when its stack is
done; a line torn by a kill is cut off by the next process. Considered instead: one file a stack (hundreds of them to
carry about) and SQLite (one writer at a time, and no merging of what two machines made).
"""

import fcntl
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO


@dataclass(frozen=True)
class Outcome:
    """One training.

    Attributes:
        key: name of the cell's structure.
        correct: images classified correctly, "budgets splits": training, validation, test.
        wall_s: seconds of its stack divided by the trainings in it.
    """

    key: str
    run: int
    correct: tuple[tuple[int, int, int], ...]
    wall_s: float


class Parts:
    """The trainings of one table in one folder.

    Args:
        identity: what decides the numbers; files of another identity are refused.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder, self.identity = folder, identity

    def read(self) -> dict[tuple[str, int], Outcome]:
        """Return every training that is done.

        Raises:
            ValueError: a file is of another protocol, or damaged before its last line.
        """
        found: dict[tuple[str, int], Outcome] = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
            lines = whole.split("\n") if whole else []
            for number, line in enumerate(lines, start=1):
                fields = _parsed(path, number, line)
                if number == 1:
                    self._check(path, fields)
                else:
                    outcome = _outcome(path, number, fields)
                    found[outcome.key, outcome.run] = outcome
        return found

    def remove(self) -> None:
        """Forget every training."""
        for path in self.folder.glob("*.jsonl"):
            path.unlink()

    def writer(self, name: str) -> "Writer":
        """Return the writer of one file, to be closed.

        Raises:
            ValueError: another process writes it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        return Writer(self.folder / f"{name}.jsonl", self.identity)

    def _check(self, path: Path, header: dict[str, object]) -> None:
        if header != {"identity": self.identity}:
            raise ValueError(
                f"expected trainings of the protocol at hand in {path}, got those of another one; "
                "move the folder away or name another with --parts"
            )


class Writer:
    """Appends trainings to one file; holds a lock on it."""

    def __init__(self, path: Path, identity: str) -> None:
        self._file: IO[bytes] = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise ValueError(f"another process writes {path}; give every process its own --share") from error
        self._file.seek(0)
        content = self._file.read()
        self._file.truncate(content.rfind(b"\n") + 1)
        if b"\n" not in content:
            self._append([{"identity": identity}])

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Write trainings; they are on the disk when this returns."""
        self._append([asdict(outcome) for outcome in outcomes])

    def close(self) -> None:
        """Give the lock back."""
        self._file.close()

    def _append(self, lines: Sequence[dict[str, object]]) -> None:
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
        self._file.write(text.encode())
        self._file.flush()
        os.fsync(self._file.fileno())


def _parsed(path: Path, number: int, line: str) -> dict[str, object]:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError:
        fields = None
    if not isinstance(fields, dict):
        raise ValueError(f"expected a JSON object in {path}:{number}, got {line[:40]!r}; remove the line")
    return fields


def _outcome(path: Path, number: int, fields: dict[str, object]) -> Outcome:
    try:
        correct = tuple((int(a), int(b), int(c)) for a, b, c in fields["correct"])  # type: ignore[attr-defined]
        return Outcome(str(fields["key"]), int(fields["run"]), correct, float(fields["wall_s"]))  # type: ignore[call-overload, arg-type]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"expected a training in {path}:{number}, got {str(fields)[:60]}; remove the line") from error
