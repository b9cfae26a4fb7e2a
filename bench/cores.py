"""How a command shares out the cores of this machine where `--jobs` and `--threads` do not say.

Where the maps of one seed are small, torch's second thread saves little: seconds of a step with one thread over those
with two are 1.00 to 1.13 for one to four seeds of the embedded size and 1.24 for one seed of 2¹⁷ numbers; they are 1.5
at the papers' 2²⁰. And where anything else keeps one of the cores busy, both threads wait for that one at every call:
ten epochs of two methods took 210 s so, and 16 s on one thread. So a stack gets one thread there, whose records then
have the same bits on machines of any number of cores, and as many stacks are searched at once as there are cores. Where
maps are larger it is one stack at a time, with torch's threads.
"""

import os
from dataclasses import dataclass, replace

import torch

from bench import memory

SMALL = 2**17
"""Numbers of a map of one seed, in the first stage, up to which one thread computes it."""
PROCESS_BYTES = 2**30
"""Of a process that searches small maps, its libraries and what others need included: most take a third of it."""


@dataclass(frozen=True)
class Share:
    """How many processes search at once, and the threads of each."""

    jobs: int
    threads: int

    def of(self, units: int) -> "Share":
        """Return the share where there are no more processes than units to search."""
        return replace(self, jobs=max(1, min(self.jobs, units)))


def cores() -> int:
    """Return how many cores this process may use."""
    mine = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(mine(0)) if mine else os.cpu_count() or 1


def at_once(threads: int = 1) -> int:
    """Return how many processes of so many threads this machine has cores and memory for."""
    room = memory.limit_bytes(torch.device("cpu")) // PROCESS_BYTES
    return max(1, min(cores() // threads, room))


def share(map_numbers: int, device: torch.device, jobs: int | None, threads: int | None) -> Share:
    """Return the share of each search; numbers that are given stay.

    Args:
        map_numbers: of one seed's map in the first stage.
        device: that the searches are on.
        jobs: processes that were asked for.
        threads: of each that were asked for.
    """
    small = device.type == "cpu" and map_numbers <= SMALL
    jobs = jobs or (at_once(threads or 1) if small else 1)
    alone = torch.get_num_threads() if jobs == 1 else max(1, cores() // jobs)
    return Share(jobs, threads or (1 if small else alone))
