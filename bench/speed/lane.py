"""A stack of seeds under measurement, without a store: its searcher, its steps, its curvature."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from bench import precision, setup, variants
from bench.instruments import curvature_probes
from bench.metrics import curvature
from bench.replay import stepper
from bench.search import Stack
from bench.setup import Bench
from searchers.base import Searcher, StepBatches
from searchers.entry import Method


class Lane:
    """A stack of the first seeds of a method.

    Attributes:
        batches: what the first step of the first epoch receives; `step` receives it again and again.
    """

    def __init__(self, bench: Bench, method: Method, replicas: int) -> None:
        base = variants.specs(bench, method)[0]
        specs = tuple(replace(base, seed=seed) for seed in range(replicas))
        self.stack: Stack = setup.stack(bench, method, specs)
        self.searcher: Searcher = method.build(base.settings, self.stack.lab)
        self.searcher.begin_epoch(0)
        self._step = stepper(self.searcher, self.stack.recorder)
        self.batches: StepBatches = next(iter(self._served(0)))

    @property
    def replicas(self) -> int:
        return self.stack.lab.replicas

    @property
    def images(self) -> int:
        """Return how many images a step sees, of both levels and all seeds."""
        return sum(batch.labels.numel() for batch in (*self.batches.train, *self.batches.val))

    @property
    def steps_per_epoch(self) -> int:
        return self.stack.lab.feed.steps_per_epoch(self.searcher.policy, 0, self.stack.spec.epochs)

    def step(self) -> None:
        """Take one step of both levels."""
        with precision.arithmetic(self.stack.spec.precision):
            self._step(self.batches)

    def pass_over(self, epoch: int) -> int:
        """Search one epoch, its data included; return its steps."""
        steps = self.steps(epoch)
        self.searcher.end_epoch(epoch)
        return steps

    def steps(self, epoch: int) -> int:
        """Take the steps of an epoch, their data included, but not what the method does when it ends."""
        self.searcher.begin_epoch(epoch)
        step, steps = stepper(self.searcher, self.stack.recorder), 0
        self._step = stepper(self.searcher, self.stack.recorder)  # of this epoch
        with precision.arithmetic(self.stack.spec.precision):
            for batches in self._served(epoch):
                step(batches)
                steps += 1
        return steps

    def curvature(self, start: torch.Tensor | None, step: int, whole: bool = False) -> curvature.Measured:
        """Measure λ as a run does; `start` is the last measurement's vectors, None where there is none."""
        lab, spec = self.stack.lab, self.stack.spec
        legacy = lab.feed.legacy_probe(0, spec.epochs) if whole else None
        probes, noise = curvature_probes(lab, legacy), lab.stream("curvature", step)
        return curvature.measure(self.searcher, probes, start, noise, spec.curvature, whole)

    def peak_bytes(self, work: Callable[[], object]) -> int | None:
        """Return the most device memory allocated while something is done; None on a CPU, which does not say."""
        device = self.stack.lab.device
        if device.type != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device)

    def _served(self, epoch: int) -> Iterator[StepBatches]:
        return self.stack.lab.feed.epoch(self.searcher.policy, epoch, self.stack.spec.epochs)
