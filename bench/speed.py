"""How much stacking seeds pays: `python -m bench.speed --space s1 --benchmark embedded`.

For R = 1, 2, 4, 8 seeds, times one step of both levels of a stack, round after round in one process, and prints the
ratio of R single steps to one stacked step, images per second, and the share of an epoch that curvature takes. Numbers
are medians; shared machines are noisy, so compare ratios of one run only. Other options are those of bench.run.
"""

import json
import logging
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from rich.table import Table as Rows

from bench import place, setup, variants
from bench.metrics import curvature
from bench.progress import new_console
from bench.request import parse
from bench.search import Stack
from bench.setup import Bench
from searchers.base import Method, Searcher, StepBatches

log = logging.getLogger(__name__)

REPLICAS = (1, 2, 4, 8)
ROUNDS = 5


@dataclass(frozen=True)
class Speed:
    """Cost of a stack; times are medians over rounds.

    Attributes:
        ratio: seconds of `replicas` single steps over seconds of one stacked step.
        curvature_share: seconds of one measurement (power iteration, no whole spectrum) over seconds of an epoch's
            steps and that measurement.
    """

    replicas: int
    step_s: float
    images_per_s: float
    ratio: float
    curvature_s: float
    curvature_share: float
    peak_bytes: int | None


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    console = new_console()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        request = parse(arguments)
        torch.set_num_threads(request.threads or torch.get_num_threads())
        method = variants.methods(request)[0]
        bench = setup.prepare(request)
        if variants.specs(bench, method)[0].epochs == 0:
            raise ValueError(f"expected a method that trains, got {method.name}, which has no steps")
    except (ValueError, FileNotFoundError) as error:
        log.error("error: %s", error)
        return 2
    found = measure(bench, method)
    environment = place.environment(bench.device, ())
    preset = bench.preset
    title = (
        f"{method.name} on {bench.space.name}, {preset.dataset}, batch {preset.batch_size}, "
        f"{preset.channels} channels, {preset.cells} cells a stage, probe {preset.probe_size}; "
        f"{environment['device_name']}, {environment['threads']} threads, torch {environment['versions']['torch']}"
    )
    console.print(_rows(title, found))
    console.print_json(json.dumps({"title": title, "speeds": [asdict(speed) for speed in found]}))
    return 0


def measure(bench: Bench, method: Method) -> list[Speed]:
    """Time every stack size, alternating between them in each round."""
    lanes = [_Lane(bench, method, replicas) for replicas in REPLICAS]
    for _ in range(ROUNDS + 1):
        for lane in lanes:
            lane.round()
    single = statistics.median(lanes[0].step_s[1:])
    return [lane.speed(single) for lane in lanes]


class _Lane:
    """One stack size under measurement."""

    def __init__(self, bench: Bench, method: Method, replicas: int) -> None:
        base = variants.specs(bench, method)[0]
        specs = tuple(replace(base, seed=seed) for seed in range(replicas))
        self.stack: Stack = setup.stack(bench, method, specs)
        self.searcher: Searcher = method.build(base.settings, self.stack.lab)
        self.searcher.begin_epoch(0)
        self.batches: StepBatches = next(iter(self.stack.lab.feed.epoch(self.searcher.policy, 0, base.epochs)))
        self.step_s: list[float] = []
        self.curvature_s: list[float] = []
        self.vectors: torch.Tensor | None = None
        self.peak_bytes: int | None = None

    def round(self) -> None:
        device = self.stack.lab.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.step_s.append(_seconds(device, lambda: self.searcher.step(self.batches)))
        if device.type == "cuda":
            self.peak_bytes = torch.cuda.max_memory_allocated(device)
        if self.searcher.no_curvature is None:
            self.curvature_s.append(_seconds(device, self._curve))

    def speed(self, single_s: float) -> Speed:
        step_s, replicas = statistics.median(self.step_s[1:]), self.stack.lab.replicas
        images = sum(batch.labels.numel() for batch in (*self.batches.train, *self.batches.val))
        curve_s = statistics.median(self.curvature_s[1:]) if self.curvature_s else 0.0
        epoch_s = step_s * self.stack.lab.feed.steps_per_epoch(self.searcher.policy, 0)
        return Speed(
            replicas=replicas,
            step_s=step_s,
            images_per_s=images / step_s,
            ratio=replicas * single_s / step_s,
            curvature_s=curve_s,
            curvature_share=curve_s / (epoch_s + curve_s),
            peak_bytes=self.peak_bytes,
        )

    def _curve(self) -> None:
        lab, spec = self.stack.lab, self.stack.spec
        probes = curvature.Probes(lab.feed.probe(spec.probe_size))
        noise = lab.stream("curvature", len(self.curvature_s))
        found = curvature.measure(self.searcher, probes, self.vectors, noise, spec.curvature, False)
        self.vectors = found.vectors


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _rows(title: str, found: Sequence[Speed]) -> Rows:
    rows = Rows(title=title, title_justify="left")
    for name in ("R", "step ms", "images/s", "R single / stacked", "curvature ms", "share of an epoch", "peak MiB"):
        rows.add_column(name, justify="right")
    for speed in found:
        peak = "–" if speed.peak_bytes is None else f"{speed.peak_bytes / 2**20:.0f}"
        rows.add_row(
            str(speed.replicas),
            f"{1e3 * speed.step_s:.1f}",
            f"{speed.images_per_s:.0f}",
            f"{speed.ratio:.2f}",
            f"{1e3 * speed.curvature_s:.0f}",
            f"{speed.curvature_share:.0%}",
            peak,
        )
    return rows


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
