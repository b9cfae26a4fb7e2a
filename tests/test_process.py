"""How a process that computes is set up."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from bench import process

FAULTS = """
import resource
import torch
from bench import process

process.begin(1) if {begun} else None
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for turn in range(40):
    torch.ones(10 << 20)  # 40 MiB
print(torch.get_num_threads(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(begun: bool, **environment: str) -> tuple[int, int]:
    """Threads, and the pages that forty equal tensors, each freed before the next, ask the kernel for."""
    command = [sys.executable, "-c", FAULTS.format(begun=begun)]
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=own | environment)
    threads, pages = found.stdout.split()
    return int(threads), int(pages)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_kept_unless_the_environment_says_otherwise() -> None:
    threads, pages = faults(begun=True)
    assert threads == 1
    assert 2 * pages < faults(begun=False)[1]
    assert 2 * pages < faults(begun=True, MALLOC_MMAP_THRESHOLD_="65536")[1]


@pytest.fixture
def untouched() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("untouched")
def test_sigterm_is_an_interrupt_inside_and_what_it_was_outside() -> None:
    with pytest.raises(process.Terminated), process.terminable():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.usefixtures("untouched")
def test_sigterm_stays_another_s_and_other_threads_leave_it_alone() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: heard.append(number))
    with process.terminable():
        signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    found: list[object] = []

    def elsewhere() -> None:
        with process.terminable():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]
