"""Seconds of things that are compared, taken in turn: what else the machine does meets all of them alike."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch

Key = TypeVar("Key", bound=Hashable)


class Sample(NamedTuple):
    """One execution: seconds that passed, and seconds of this process's threads on the CPU."""

    wall_s: float
    cpu_s: float


def sample(device: torch.device, work: Callable[[], object]) -> Sample:
    """Execute once, waiting for the device before and after."""
    _wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    _wait(device)
    return Sample(time.perf_counter() - wall, time.process_time() - cpu)


def alternate(works: Mapping[Key, Callable[[], object]], rounds: int, device: torch.device) -> dict[Key, list[Sample]]:
    """Execute each work once a round, in order; the first round warms up and is left out."""
    found: dict[Key, list[Sample]] = {key: [] for key in works}
    for _ in range(rounds + 1):
        for key, work in works.items():
            found[key].append(sample(device, work))
    return {key: samples[1:] for key, samples in found.items()}


def middle(samples: Sequence[Sample]) -> Sample:
    """Return the medians."""
    return Sample(*(statistics.median(values) for values in zip(*samples, strict=True)))


def ratio(over: Sequence[Sample], under: Sequence[Sample]) -> Sample:
    """Return the medians of the ratios of each round; that of CPU seconds is NaN where the clock saw none."""
    walls = [a.wall_s / b.wall_s for a, b in zip(over, under, strict=True)]
    cpus = [a.cpu_s / b.cpu_s if b.cpu_s else float("nan") for a, b in zip(over, under, strict=True)]
    return Sample(statistics.median(walls), statistics.median(cpus))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
