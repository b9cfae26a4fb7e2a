"""What curvature costs beside the steps of an epoch: without a start vector, with the last epoch's, and all of it."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from bench.setup import Bench
from bench.speed.lane import Lane
from bench.speed.rounds import Sample, middle, sample
from bench.speed.section import Column, Plan, Section
from searchers.entry import Method

WIDTHS = (1, 4)
STEPS_BETWEEN = 4

COLUMNS = (
    Column("replicas", "R"),
    Column("what", "measured"),
    Column("products", "products", ".0f"),
    Column("curvature_ms", "curvature, ms", ".0f"),
    Column("ms_per_product", "a product, ms", ".1f"),
    Column("epoch_ms", "steps of an epoch, ms", ".0f"),
    Column("share", "share of an epoch", ".1%"),
    Column("cpu_share", "the same in CPU s", ".1%"),
)


def measure(bench: Bench, methods: Sequence[Method], plan: Plan) -> list[Section]:
    """Measure λ once from nothing, and after every few steps from the last vectors."""
    rows: list[dict[str, Any]] = []
    for width in plan.widths(*WIDTHS):
        lane = Lane(bench, methods[0], width)
        if lane.searcher.no_curvature is not None:
            return [Section("Curvature", f"{methods[0].name} has none: {lane.searcher.no_curvature}.", (), [])]
        rows += _rows(lane, plan)
    spec = lane.stack.spec
    about = (
        f"λ ({spec.curvature.mode}) of {methods[0].name} on {spec.probe_size} probe images. Cold: from a random "
        f"vector, once. Warm: from the vector before the last {min(lane.steps_per_epoch, STEPS_BETWEEN)} steps. Whole: "
        f"what is due every {spec.curvature.spectrum_every} epochs, from the same vector: λ, the spectrum, λ in mixing "
        "weights, and that of earlier papers. The slowest replica decides how many products a stack takes."
    )
    return [Section("Curvature", about, COLUMNS, rows)]


class _Measured:
    """Measures λ of a lane and keeps what came out."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.calls = 0
        self.vectors: torch.Tensor | None = None
        self.products: dict[str, list[int]] = {"cold": [], "warm": [], "whole": []}

    def of(self, what: str, start: torch.Tensor | None) -> None:
        self.calls += 1
        found = self.lane.curvature(start, self.calls, whole=what == "whole")
        self.products[what].append(max(record["products"] for record in found.records))
        if what != "whole":
            self.vectors = found.vectors


def _rows(lane: Lane, plan: Plan) -> list[dict[str, Any]]:
    device, measured = lane.stack.lab.device, _Measured(lane)
    samples: dict[str, list[Sample]] = {"step": [], "cold": [], "warm": [], "whole": []}
    lane.step()
    samples["cold"].append(sample(device, partial(measured.of, "cold", None)))
    for _ in range(plan.rounds):
        for _ in range(min(lane.steps_per_epoch, STEPS_BETWEEN)):
            samples["step"].append(sample(device, lane.step))
        samples["warm"].append(sample(device, partial(measured.of, "warm", measured.vectors)))
    if plan.spectrum:
        samples["whole"].append(sample(device, partial(measured.of, "whole", measured.vectors)))
    step, steps = middle(samples["step"]), lane.steps_per_epoch
    rows = []
    for what, products in measured.products.items():
        if not products:
            continue
        spent, used = middle(samples[what]), sorted(products)[len(products) // 2]
        rows.append(
            {
                "replicas": lane.replicas,
                "what": what,
                "products": used,
                "curvature_ms": 1e3 * spent.wall_s,
                "ms_per_product": None if what == "whole" else 1e3 * spent.wall_s / used,
                "epoch_ms": 1e3 * steps * step.wall_s,
                "share": spent.wall_s / (spent.wall_s + steps * step.wall_s),
                "cpu_share": spent.cpu_s / (spent.cpu_s + steps * step.cpu_s),
            }
        )
    return rows
