"""What a process of a Ray cluster does with a unit: search it, and send what is new after every instant."""

import dataclasses
import hashlib
import os
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench import process
from bench.launch import mirror
from bench.launch.mirror import Mirror, Parcel
from bench.launch.unit import Moment, Outcome, unit
from bench.launch.work import Worker


@dataclass(frozen=True)
class Letter:
    """What a worker tells the driver.

    Attributes:
        attempt: of the unit; letters of an attempt that was given up are not opened.
        moment: None where only files come, after the end.
        parcel: None where the folder is shared.
    """

    label: str
    attempt: int
    moment: Moment | None
    parcel: Parcel | None


@dataclass(frozen=True)
class Errand:
    """What a worker is given; plain values.

    Attributes:
        unit: `Unit.plain`.
        seed: the files of an earlier attempt; None: there are none.
        shared: whether the results folder is the driver's own.
        threads: for torch, where the command does not say.
    """

    unit: dict[str, Any]
    attempt: int
    seed: Parcel | None
    shared: bool
    threads: int


def search(errand: Errand, table: bytes | None, mailbox: Any) -> Outcome:
    """Search a unit, in a process of the cluster; `table` is the content of its benchmark table's file."""
    one = unit(errand.unit)
    process.begin(one.request.threads or errand.threads)
    if errand.shared:
        return _worker().search(one, lambda moment: mailbox.put(Letter(one.label, errand.attempt, moment, None)))
    results = _folder()
    mirror.clear(results, mirror.everything(results))
    seed = errand.seed or Parcel(())
    mirror.put(results, seed)
    where = {"results": results} if table is None else {"results": results, "table": _kept(table)}
    here = dataclasses.replace(one, request=dataclasses.replace(one.request, **where))
    changed = Mirror(results, known=tuple(change.path for change in seed.changes))

    def tell(moment: Moment | None) -> None:
        mailbox.put(Letter(one.label, errand.attempt, moment, changed.parcel(mirror.everything(results))))

    outcome = _worker().search(here, tell)
    tell(None)
    return outcome


def _kept(table: bytes) -> str:
    """Return the file of a table, written where this process has not got it yet."""
    path = _folder() / "tables" / f"{hashlib.sha256(table).hexdigest()[:16]}.arrow"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(table)
    return str(path)


@cache
def _worker() -> Worker:
    """Return what searches in this process; data and tables stay loaded from one unit to the next."""
    return Worker()


@cache
def _folder() -> Path:
    """Return a folder of this process; Ray's processes are killed, so it stays until the machine clears it."""
    return Path(tempfile.mkdtemp(prefix=f"nas-stability-{os.getpid()}-"))
