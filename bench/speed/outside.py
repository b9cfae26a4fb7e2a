"""Where the seconds of a short run go: steps, what is measured, and everything else the loop over epochs does."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch

from bench import place, setup, variants
from bench.data.feed import Feed
from bench.metrics import cell, curvature
from bench.search import search
from bench.setup import Bench
from bench.speed.files import scratch
from bench.speed.rounds import Sample, middle, sample
from bench.speed.section import Column, Plan, Section
from bench.store import Store
from searchers.entry import Method

EPOCHS = 10
REPLICAS = 4
NOT_OUTSIDE = ("steps", "curvature", "supernet's validation accuracy")

COLUMNS = (
    Column("part", "part"),
    Column("epoch_ms", "an epoch, ms", ".1f"),
    Column("share", "share of the run", ".1%"),
)
Place = tuple[object, str]


def measure(bench: Bench, methods: Sequence[Method], plan: Plan) -> list[Section]:
    """Search short runs and add up what their parts take."""
    method, width = methods[0], min(REPLICAS, plan.most)
    bench = replace(bench, preset=replace(bench.preset, epochs=EPOCHS))
    runs: list[dict[str, float]] = []
    for _ in range(plan.rounds + 1):
        with _timed(_places(bench, method), bench.device) as spent:
            whole = run(bench, method, width)
        runs.append({**spent, "whole run": whole.wall_s})
    found = {part: middle([Sample(one[part], 0.0) for one in runs[1:]]).wall_s for part in runs[0]}
    total = found.pop("whole run")
    found["everything else"] = total - sum(found.values())
    outside = total - sum(found[part] for part in NOT_OUTSIDE)
    rows = [_row(part, part_s, total) for part, part_s in {**found, "whole run": total}.items()]
    rows.append(_row("outside steps and what is measured on the network", outside, total))
    about = (
        f"A run of {EPOCHS} epochs of {method.name}, R = {width}, as bench.run searches it: records and checkpoints on "
        f"the disk after every epoch, curvature ({bench.preset.curvature}) as usual, "
        + ("without a table." if bench.truth is None else f"a table of {bench.truth.reference.rows} cells.")
    )
    return [Section("Outside the steps", about, COLUMNS, rows)]


def run(bench: Bench, method: Method, replicas: int) -> Sample:
    """Search a stack of the first seeds in a folder that goes again; return its seconds, without loading data."""
    base = variants.specs(bench, method)[0]
    specs = tuple(replace(base, seed=seed) for seed in range(replicas))
    with scratch() as folder:
        store = Store(folder, specs)
        store.create(place.environment(bench.device, range(replicas)), setup.table_facts(bench.truth))
        stack = setup.stack(bench, method, specs)
        return sample(bench.device, lambda: search(stack, store, lambda _records, _timing: None))


def _places(bench: Bench, method: Method) -> dict[str, list[Place]]:
    """Return which functions make up each part; none is called inside another."""
    specs = variants.specs(bench, method)[:1]
    searcher = type(method.build(specs[0].settings, setup.stack(bench, method, specs).lab))
    return {
        "steps": [(searcher, "step")],
        "data: order, augmentation": [(Feed, "epoch")],
        "curvature": [(curvature, "measure")],
        "supernet's validation accuracy": [(cell, "supernet")],
        "decoding and table": [(cell, "cells"), (cell, "choices")],
        "records": [(Store, "append")],
        "checkpoint": [(Store, "save"), (searcher, "state_dict")],
    }


@contextmanager
def _timed(places: Mapping[str, Sequence[Place]], device: torch.device) -> Iterator[dict[str, float]]:
    """Yield the seconds spent in these functions while this lasts; on a GPU each call is waited for."""
    spent = dict.fromkeys(places, 0.0)
    with ExitStack() as patches:
        for part, functions in places.items():
            for owner, name in functions:
                timed = _timed_function(getattr(owner, name), part, spent, device)
                patches.enter_context(patch.object(owner, name, timed))
        yield spent


def _timed_function(
    function: Callable[..., Any], part: str, spent: dict[str, float], device: torch.device
) -> Callable[..., Any]:
    @contextmanager
    def clock() -> Iterator[None]:
        start = time.perf_counter()
        yield
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        spent[part] += time.perf_counter() - start

    def each(served: Iterator[Any]) -> Iterator[Any]:
        while True:
            with clock():
                item = next(served, None)
            if item is None:
                return
            yield item

    def timed(*arguments: Any, **named: Any) -> Any:
        with clock():
            found = function(*arguments, **named)
        return each(found) if isinstance(found, Iterator) else found

    return timed


def _row(part: str, part_s: float, total_s: float) -> dict[str, Any]:
    return {"part": part, "epoch_ms": 1e3 * part_s / EPOCHS, "share": part_s / total_s}
