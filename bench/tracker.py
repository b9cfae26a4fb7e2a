"""Curves of runs for TensorBoard: `results`/tensorboard/<run>/, a view of the records, under the field's tags.

The tags are those of SmoothDARTS' logs (Chen, Hsieh, 2020). Points are read from records.jsonl after it was written, so
a tracker can change nothing in a search, and a run that goes on from its checkpoint has every point once: its file is
written anew from the records that were kept. Needs the extra [tensorboard].
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import util
from pathlib import Path
from typing import Any

from bench.launch.unit import Moment, Watch

SEARCH = (
    ("Obj/train", "train_loss"),
    ("Obj/arch", "val_loss"),
    ("Obj/valid", "supernet.val_loss"),
    ("Acc/valid", "supernet.val_accuracy"),
    ("Analysis/eigenvalue", "curvature.lambda_dominant"),
    ("Analysis/eigenvalue_legacy", "curvature.lambda_legacy"),
)
ERRORS = (("valid", "table.val_mean"), ("test", "table.test_mean"))
"""Errors of the cell in the table, one minus its mean accuracy: `Analysis/` after an epoch, `Final/` at the end."""


def check() -> None:
    """Raise where nothing could be written.

    Raises:
        ValueError: the package is not installed.
    """
    if util.find_spec("tensorboardX") is None:
        raise ValueError(
            "expected the package tensorboardX for --tensorboard, found none; "
            "install it with pip install 'nas-stability[tensorboard]'"
        )


@contextmanager
def tracked(watch: Watch, results: Path, runs: Mapping[str, Sequence[str]]) -> Iterator[Watch]:
    """Yield what is told every instant and also brings the curves of that unit's runs up to date.

    `runs` are the names of the runs by the label of their unit.
    """
    open_boards: dict[str, list[Board]] = {}

    def both(moment: Moment) -> None:
        boards = open_boards.setdefault(moment.label, [Board(results, run) for run in runs[moment.label]])
        for board in boards:
            board.update()
        if moment.last:
            _close(open_boards.pop(moment.label))
        watch(moment)

    try:
        yield both
    finally:
        for boards in open_boards.values():
            _close(boards)


def _close(boards: Sequence["Board"]) -> None:
    for board in boards:
        board.close()


def complete(results: Path, runs: Sequence[str]) -> None:
    """Write the curves of those of these runs that have records and no curves."""
    for run in runs:
        if (results / "runs" / run / "records.jsonl").exists() and not any(_events(folder(results, run))):
            board = Board(results, run)
            board.update()
            _close([board])


def folder(results: Path, run: str) -> Path:
    return results / "tensorboard" / run


def _events(place: Path) -> Iterator[Path]:
    return place.glob("*.tfevents.*")


class Board:
    """The curves of one run; the first update writes them anew, later ones add what was recorded since."""

    def __init__(self, results: Path, run: str) -> None:
        self.records, self.folder = results / "runs" / run / "records.jsonl", folder(results, run)
        self.read = 0
        self.writer: Any = None

    def update(self) -> None:
        """Add a point for every whole line that came since the last update."""
        if self.writer is None or self.records.stat().st_size < self.read:
            self._start()
        with self.records.open("rb") as file:
            file.seek(self.read)
            for line in file:
                if line.endswith(b"\n"):
                    self.read += len(line)
                    self._add(json.loads(line))
        self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None

    def _start(self) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        self.close()
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in _events(self.folder):
            path.unlink()
        self.read, self.writer = 0, EventsWriter(str(self.folder / "events"))

    def _add(self, record: dict[str, Any]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for tag, value in points(record).items():
            self.writer.write_event(Event(wall_time=time.time(), step=record["epoch"], summary=scalar(tag, value)))


def points(record: dict[str, Any]) -> dict[str, float]:
    """Return the values of a record by tag; what was not measured has none."""
    final = record["stage"] == "final"
    found = {} if final else {tag: _at(record, path) for tag, path in SEARCH}
    for split, path in ERRORS:
        accuracy = _at(record, path)
        found[f"{'Final' if final else 'Analysis'}/{split}"] = None if accuracy is None else 1 - accuracy
    return {tag: value for tag, value in found.items() if value is not None}


def _at(record: dict[str, Any], path: str) -> float | None:
    value: Any = record
    for name in path.split("."):
        value = None if value is None else value.get(name)
    return value
