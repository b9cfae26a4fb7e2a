"""How a process that computes is set up: by command lines and workers, before anything is computed."""

import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

_TRIM_THRESHOLD, _MMAP_MAX, _NEVER = -1, -4, -1
"""Parameters of glibc's mallopt, and the threshold that turns trimming off."""
_CHOSEN = ("GLIBC_TUNABLES", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


def begin(threads: int | None) -> None:
    """Compute with so many threads, None: with torch's choice; keep freed memory."""
    use(threads or torch.get_num_threads())
    keep_freed()


def use(threads: int) -> None:
    """Compute with so many threads from now on."""
    torch.set_num_threads(threads)


class Terminated(KeyboardInterrupt):
    """SIGTERM has come: what Ctrl-C ends is ended."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated inside where SIGTERM comes, unless somebody has said what it does; in the main thread only."""
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


def keep_freed() -> bool:
    """Have the C library keep memory that was freed, instead of handing it back; return whether it can.

    A map over 32 MiB would be handed back whenever it is freed, and faulted in again for the next one: at the papers'
    width that is half of a product with the Hessian (docs/speed.md). Only glibc does so and can be told not to; what
    the user has told it in the environment stays.
    """
    tell = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if tell is None or any(name in os.environ for name in _CHOSEN):
        return False
    return all(tell(parameter, value) == 1 for parameter, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER)))
