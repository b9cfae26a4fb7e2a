"""Seconds and bytes of one instant of a search."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bench import memory
from bench.record import Timing


class Clock:
    """Starts when it is made; waits for the device before it reads the time."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.images = device, 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._start = time.perf_counter()
        self._search_s, self._curvature_s = 0.0, 0.0

    def searched(self) -> None:
        """Mark the end of the searching part."""
        self._wait()
        self._search_s = time.perf_counter() - self._start

    @contextmanager
    def curvature(self) -> Iterator[None]:
        """Time what is inside as curvature."""
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        self._curvature_s += time.perf_counter() - start

    def timing(self, epoch: int, stage: str) -> Timing:
        self._wait()
        wall_s = time.perf_counter() - self._start
        return Timing(
            epoch=epoch,
            stage=stage,
            wall_s=wall_s,
            search_s=self._search_s,
            measure_s=wall_s - self._search_s,
            curvature_s=self._curvature_s,
            images_per_s=self.images / self._search_s if self.images else None,
            peak_bytes=memory.peak_bytes(self.device),
        )

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
