"""How a command shares out the cores of this machine where `--jobs` and `--threads` do not say.

Where the maps of one seed are small, torch's second thread saves little: seconds of a step with one thread over those
with two are 1.00 to 1.13 for one to four seeds of the embedded size and 1.24 for one seed of 2¹⁷ numbers; they are 1.5
at the papers' 2²⁰. And where anything else keeps one of the cores busy, both threads wait for that one at every call:
ten epochs of two methods took 210 s so, and 16 s on one thread. So a stack gets one thread there, whose records then
have the same bits on machines of any number of cores, and as many stacks are searched at once as there are cores; a
single stack of many seeds is spread over cores by `--replicas`. Where maps are larger it is one stack at a time, with
torch's threads.
"""

import os
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from bench import memory

SMALL = 2**17
"""Numbers of a map of one seed, in the first stage, up to which one thread computes it."""
QUOTA = memory.CONTAINER / "cpu.max"
"""Microseconds of computing in a period, or max, and the period."""
PROCESS_BYTES = 2**29
"""Of a process, beside what its maps take."""


class Work(NamedTuple):
    """What a process does: numbers of one seed's map in the first stage, and bytes that all of a stack's maps take."""

    numbers: int
    maps_bytes: int


@dataclass(frozen=True)
class Share:
    """How many processes search at once, and the threads of each."""

    jobs: int
    threads: int

    def of(self, units: int) -> "Share":
        """Return the share where there are no more processes than units to search."""
        return replace(self, jobs=max(1, min(self.jobs, units)))


def cores() -> int:
    """Return how many cores this process may use: those it is bound to, within the quota of its control group."""
    mine = getattr(os, "sched_getaffinity", None)  # not on every system
    bound = len(mine(0)) if mine else os.cpu_count() or 1
    told = QUOTA.read_text(encoding="utf-8").split() if QUOTA.exists() else ["max"]
    return bound if told[0] == "max" else max(1, min(bound, int(told[0]) // int(told[1])))


def share(work: Work, device: torch.device, jobs: int | None, threads: int | None) -> Share:
    """Return the share of each search; numbers that are given stay.

    Args:
        work: of a process.
        device: that the searches are on.
        jobs: processes that were asked for.
        threads: of each that were asked for.
    """
    small = device.type == "cpu" and work.numbers <= SMALL
    jobs = jobs or (_at_once(work, threads or 1) if small else 1)
    alone = torch.get_num_threads() if jobs == 1 else max(1, cores() // jobs)
    return Share(jobs, threads or (1 if small else alone))


def _at_once(work: Work, threads: int) -> int:
    """Return how many processes of so many threads this machine has cores and memory for."""
    room = memory.limit_bytes(torch.device("cpu")) // (PROCESS_BYTES + work.maps_bytes)
    return max(1, min(cores() // threads, room))
