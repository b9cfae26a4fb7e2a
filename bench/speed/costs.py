"""What every method's epoch costs over DARTS', beside what its own mathematics demands.

What it demands is counted: the operations of all convolutions and products in its steps, forward and backward, over
those of DARTS. Passes a step are those the method's entry in the registry claims. Time over demand is what a method
loses by how it is written or by having calls too small to be worth their start.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from bench import variants
from bench.setup import Bench
from bench.speed.counting import count
from bench.speed.lane import Lane
from bench.speed.rounds import Sample, alternate, middle, ratio
from bench.speed.section import Column, Plan, Section
from searchers import darts
from searchers.entry import Method

EPOCHS = 4
REPLICAS = 2
BOUND = 1.3
ROUNDS = 3
"""At most: there are many methods."""

COLUMNS = (
    Column("method", "method"),
    Column("step_ms", "step, ms", ".1f"),
    Column("over_darts", "time / DARTS", ".2f"),
    Column("cpu_over_darts", "CPU s / DARTS", ".2f"),
    Column("flops", "FLOP / DARTS", ".2f"),
    Column("bytes", "bytes / DARTS", ".2f"),
    Column("calls", "calls / DARTS", ".2f"),
    Column("passes", "passes claimed / 2", ".2f"),
    Column("excess", "CPU s / demand", ".2f"),
    Column("flag", f"> {BOUND}"),
)


def measure(bench: Bench, methods: Sequence[Method], plan: Plan) -> list[Section]:
    """Time the last of a few epochs of every method in turn, and count it."""
    bench = replace(bench, preset=replace(bench.preset, epochs=EPOCHS))
    chosen = {darts.METHOD.name: darts.METHOD} | {method.name: method for method in methods}
    trained = {n: m for n, m in chosen.items() if variants.specs(bench, m)[0].epochs}
    lanes = {name: _begun(bench, method, min(REPLICAS, plan.most)) for name, method in trained.items()}
    counted = {name: count(partial(lane.steps, EPOCHS - 1)) for name, lane in lanes.items()}
    steps = {name: lane.steps(EPOCHS - 1) for name, lane in lanes.items()}
    works: dict[str, Callable[[], object]] = {n: partial(lane.steps, EPOCHS - 1) for n, lane in lanes.items()}
    samples = alternate(works, min(plan.rounds, ROUNDS), bench.device)
    sums = {
        name: (sum(c.flops for c in calls), sum(c.bytes for c in calls), len(calls)) for name, calls in counted.items()
    }
    rows = [_row(trained[name], samples, sums, steps) for name in lanes]
    about = (
        f"A step of every method, R = {min(REPLICAS, plan.most)}: epoch {EPOCHS} of {EPOCHS} with its data, without "
        "what the method does when an epoch ends, over its steps. Demand: the larger of the counted ratios of FLOP and "
        "of bytes, because small maps are bound by bytes. Where maps are so small that the start of a call is what "
        "costs, time follows the calls. Counted is what runs: in stacks of small maps options that some seeds use are "
        "computed for all. FLOP over claimed passes shows a pass too many. A method whose steps differ "
        "from epoch to epoch (stages, warm-ups) shows its last epoch."
    )
    return [Section("Methods", about, COLUMNS, rows)]


def _begun(bench: Bench, method: Method, replicas: int) -> Lane:
    """Return a lane before its last epoch."""
    lane = Lane(bench, method, replicas)
    for number in range(EPOCHS - 1):
        lane.pass_over(number)
    return lane


def _row(
    method: Method,
    samples: dict[str, list[Sample]],
    sums: dict[str, tuple[int, int, int]],
    steps: dict[str, int],
) -> dict[str, Any]:
    name, base = method.name, darts.METHOD.name
    times = steps[base] / steps[name]
    gain = ratio(samples[name], samples[base])
    flops, moved, calls = (times * mine / theirs for mine, theirs in zip(sums[name], sums[base], strict=True))
    excess = times * gain.cpu_s / max(flops, moved)
    return {
        "method": name,
        "step_ms": 1e3 * middle(samples[name]).wall_s / steps[name],
        "over_darts": times * gain.wall_s,
        "cpu_over_darts": times * gain.cpu_s,
        "flops": flops,
        "bytes": moved,
        "calls": calls,
        "passes": method.passes_per_step / darts.METHOD.passes_per_step,
        "excess": excess,
        "flag": "yes" if excess > BOUND else "",
    }
