"""How many seeds fit into one stack, found by trying: `--replicas auto`.

Wider and wider stacks take a step of both levels and a Hessian-vector product; how much memory the last widening took
says whether the next one is tried. What a method needs later and not in its first step (a stage with another network)
is not seen: a stack that does not fit after all is searched as smaller ones (`bench.launch.work`).
"""

import dataclasses
import gc
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from bench import memory, setup
from bench.choice import gpus
from bench.instruments import curvature_probes
from bench.metrics import curvature
from bench.replay import stepper
from bench.setup import Bench
from bench.spec import RunSpec
from searchers.entry import Method

log = logging.getLogger(__name__)

SHARE = 0.9
"""Of the memory that is free: fragments, and what others need meanwhile."""


@dataclass(frozen=True)
class Fit:
    """The widest stack that was tried and fitted; `peak_bytes` is None where nothing could be tried."""

    width: int
    peak_bytes: int | None
    limit_bytes: int

    def line(self, label: str) -> str:
        """Return what a user is told."""
        if self.peak_bytes is None:
            return f"{label}: stacks of {self.width}, untried"
        peak, limit = self.peak_bytes / 2**20, self.limit_bytes / 2**20
        return f"{label}: stacks of {self.width}, tried: peak {peak:.0f} MiB of {limit:.0f} MiB"


def fit(bench: Bench, method: Method, specs: Sequence[RunSpec]) -> Fit:
    """Return the widest stack of these runs that fits, at most all of them; a method that trains nothing is not tried.

    What goes wrong in a trial but for memory goes wrong in the search too, which says so.
    """
    limit = limit_bytes(bench)
    if specs[0].epochs == 0:
        return Fit(len(specs), None, limit)
    try:
        return widest(lambda width: peak_bytes(bench, method, tuple(specs[:width])), len(specs), limit)
    except Exception as error:
        log.warning("%s: the trial of its memory failed (%s)", method.name, error)
        return Fit(len(specs), None, limit)


def widest(tried: Callable[[int], int | None], most: int, limit: int) -> Fit:
    """Return the widest stack that fits; `tried` returns the peak of a width in bytes, None where memory ran out."""
    trials: list[tuple[int, int]] = []
    while (width := _next(trials, most, limit)) is not None:
        peak = tried(width)
        if peak is None or peak > limit:
            break
        trials.append((width, peak))
    return Fit(*trials[-1], limit) if trials else Fit(1, None, limit)


def _next(trials: Sequence[tuple[int, int]], most: int, limit: int) -> int | None:
    """Return the width to try next: twice the last, or less if more is not expected to fit; None: there is none."""
    if not trials:
        return 1
    width, peak = trials[-1]
    wider = min(2 * width, most)
    if len(trials) > 1:
        before, peak_before = trials[-2]
        per_seed = (peak - peak_before) / (width - before)
        wider = min(wider, width + int((limit - peak) / per_seed)) if per_seed > 0 else wider
    return wider if wider > width else None


def limit_bytes(bench: Bench) -> int:
    """Return the memory that one stack may take, beside those that other jobs of the command search meanwhile."""
    jobs, devices = bench.request.jobs or 1, len(gpus(bench.request.device)) or 1
    sharing = math.ceil(jobs / devices) if bench.device.type == "cuda" else jobs
    return int(SHARE * memory.limit_bytes(bench.device) / sharing)


def peak_bytes(bench: Bench, method: Method, specs: tuple[RunSpec, ...]) -> int | None:
    """Return the peak after a step and a product of a stack of these runs, None where they do not fit."""
    cuda = bench.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(bench.device)
    try:
        _try(bench, method, specs)
        found = memory.held_bytes(bench.device) if bench.request.cuda_graphs else memory.peak_bytes(bench.device)
    except (RuntimeError, MemoryError) as error:
        if not memory.out_of_memory(error):
            raise
        found = None
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
    return found


def _try(bench: Bench, method: Method, specs: tuple[RunSpec, ...]) -> None:
    stack, spec = setup.stack(bench, method, specs), specs[0]
    lab, searcher = stack.lab, method.build(spec.settings, stack.lab)
    searcher.begin_epoch(0)
    batches, step = next(iter(lab.feed.epoch(searcher.policy, 0, spec.epochs))), stepper(searcher, stack.recorder)
    step(batches)
    if stack.recorder is not None:
        step(batches)  # recorded
        searcher.step(batches)  # the short last one of an epoch, beside the graph
    if spec.curvature.mode != "off" and searcher.no_curvature is None:
        once = dataclasses.replace(spec.curvature, tolerance=math.inf)
        curvature.measure(searcher, curvature_probes(lab), None, lab.stream("curvature", 0), once, False)


def balanced(count: int, width: int) -> int:
    """Return the width of the fewest stacks of at most `width` that hold so many runs, as equal as they can be."""
    return math.ceil(count / math.ceil(count / width)) if count else width
