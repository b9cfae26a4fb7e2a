"""One process at a time on a run: locks that the system lets go of when a process dies, however it dies."""

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

WAIT_S, POLL_S = 5.0, 0.1


class Held(ValueError):
    """Another process has the lock."""


def check_writable(results: Path) -> None:
    """Raise where nothing can be written, before anything is searched.

    Raises:
        ValueError: the folder cannot be made or written to.
    """
    probe = results / "locks" / f"{socket.gethostname()}-{os.getpid()}"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"expected a folder that can be written to at --results, got {results}: {reason}") from error


@contextmanager
def locked(results: Path, names: Sequence[str], wait_s: float | None = None) -> Iterator[None]:
    """Hold the locks of some runs; a process that was killed a moment ago may need that moment to let go of them.

    Raises:
        Held: another process has one of them, after `wait_s` seconds (`WAIT_S`).
    """
    until = time.monotonic() + (WAIT_S if wait_s is None else wait_s)
    folder = results / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        # In one order everywhere, so that two processes never wait for each other.
        for name in sorted(names):
            stack.enter_context(_one(folder / name, name, until))
        yield


@contextmanager
def _one(path: Path, name: str, until: float) -> Iterator[None]:
    file = _take(path, name, until)
    try:
        os.ftruncate(file, 0)
        os.write(file, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode())
        yield
    finally:
        # Removed while it is held: whoever opened it before this sees that it is gone, and opens the next one.
        try:
            path.unlink(missing_ok=True)
        finally:
            os.close(file)


def _take(path: Path, name: str, until: float) -> int:
    """Return the open file of a lock that is held and still the one at `path`."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            if time.monotonic() >= until:
                raise Held(f"the run {name} is being searched by {_holder(path)}; wait for it, or end it") from None
            time.sleep(POLL_S)
            continue
        except OSError as error:
            log.warning("no locks under %s (%s): nothing keeps two processes from one run", path.parent, error)
            return file
        if _still_there(path, file):
            return file
        os.close(file)


def _still_there(path: Path, file: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(file).st_ino
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return f"process {found['pid']} on {found['host']}"
    except (OSError, ValueError, KeyError):
        return "another process"
