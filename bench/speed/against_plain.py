"""The fast supernet against the plain one, in two factors: the kernels, and the stacking of seeds."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from bench import precision
from bench.kernels import NAMES
from bench.setup import Bench
from bench.speed.counting import count
from bench.speed.lane import Lane
from bench.speed.plain import PlainDarts
from bench.speed.rounds import alternate, middle, ratio
from bench.speed.section import Column, Plan, Section
from searchers import darts
from searchers.entry import Method

STACKED = 4

COLUMNS = (
    Column("path", "path"),
    Column("calls", "calls a step", ".0f"),
    Column("step_ms_per_seed", "step, ms a seed", ".1f"),
    Column("over_plain", "plain / this", ".2f"),
    Column("cpu_over_plain", "the same in CPU s", ".2f"),
    Column("over_single", "fast R = 1 / this", ".2f"),
    Column("cpu_over_single", "the same in CPU s", ".2f"),
)


def measure(bench: Bench, _methods: Sequence[Method], plan: Plan) -> list[Section]:
    """Time a step of DARTS written plainly, of the fast one, and of a stack of fast ones, in turn."""
    lanes = _lanes(bench, min(STACKED, plan.most))
    single = lanes["fast, R = 1"]
    plain = plain_darts(single)
    works: dict[str, Callable[[], object]] = {
        "plain, one by one": lambda: plain_step(plain, single),
        **{path: lane.step for path, lane in lanes.items()},
    }
    samples = alternate(works, plan.rounds, bench.device)
    seeds = {"plain, one by one": 1, **{path: lane.replicas for path, lane in lanes.items()}}
    of_plain, of_single = samples["plain, one by one"], samples["fast, R = 1"]
    rows: list[dict[str, Any]] = []
    for path, n in seeds.items():
        plain_gain, single_gain = ratio(of_plain, samples[path]), ratio(of_single, samples[path])
        rows.append(
            {
                "path": path,
                "calls": len(count(works[path])),
                "step_ms_per_seed": 1e3 * middle(samples[path]).wall_s / n,
                "over_plain": n * plain_gain.wall_s,
                "cpu_over_plain": n * plain_gain.cpu_s,
                "over_single": n * single_gain.wall_s,
                "cpu_over_single": n * single_gain.cpu_s,
            }
        )
    about = (
        "One step of both levels of first-order DARTS. Plain: torch's layers and optimisers, one call an operation of "
        "an edge, channels outermost, a loop over seeds, bf16 by torch.autocast; its architecture step forms no "
        "gradient of the weights. Calls of torch's library include those of derivatives, not Triton's. The factor "
        "of a stack over plain is that of its kernels at R = 1 times that of stacking."
    )
    return [Section("Fast against plain", about, COLUMNS, rows)]


def _lanes(bench: Bench, width: int) -> dict[str, Lane]:
    """Return fast searches of one seed and of several, with torch's kernels and on to those that were asked for."""
    found: dict[str, Lane] = {}
    asked = NAMES.index(bench.request.kernels)
    for kernels in NAMES[: asked + 1]:
        own = replace(bench, request=replace(bench.request, kernels=kernels))
        with_them = "" if kernels == "torch" else f", {kernels}"
        found |= {f"fast, R = {n}{with_them}": Lane(own, darts.METHOD, n) for n in dict.fromkeys((1, width))}
    return found


def plain_step(plain: PlainDarts, lane: Lane) -> None:
    """Take a plain step on the batches of a lane, in the precision of its steps."""
    name, device = lane.stack.spec.precision, lane.stack.lab.device.type
    narrow = precision.step_dtype(name)
    with precision.arithmetic(name), torch.autocast(device, narrow or torch.bfloat16, enabled=narrow is not None):
        plain.step(lane.batches.train[0], lane.batches.val[0], 0)


def plain_darts(lane: Lane) -> PlainDarts:
    """Return the plain search that starts where the first seed of a lane of DARTS is."""
    settings = lane.stack.spec.settings
    parameters = {name: value.detach()[0] for name, value in lane.searcher.supernet.named_parameters()}
    logits = {name: value[0] for name, value in lane.searcher.logits().items()}
    return PlainDarts(lane.stack.lab.space.name, parameters, logits, (settings.weights, settings.arch))
