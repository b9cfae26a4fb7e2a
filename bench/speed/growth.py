"""How cost grows with every size, one size at a time: the exponent of a power law through a few points."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import data
from bench.setup import Bench
from bench.speed.files import scratch
from bench.speed.lane import Lane
from bench.speed.outside import run
from bench.speed.rounds import Sample, alternate, middle
from bench.speed.section import Column, Plan, Section
from bench.tables.arrow import write
from bench.tables.data import Measurement, Slot, TableData
from bench.tables.table import Table
from searchers.entry import Method

EPOCHS = (2, 4, 8)
TIMES = (1, 2, 4)
WIDTHS = (1, 2, 4, 8)
ROWS = (1_000, 10_000, 100_000)

COLUMNS = (
    Column("factor", "grows with"),
    Column("what", "cost of"),
    Column("sizes", "sizes"),
    Column("wall_ms", "ms"),
    Column("exponent", "exponent", ".2f"),
    Column("cpu_exponent", "the same in CPU s", ".2f"),
)
Works = dict[int, Callable[[], object]]


def measure(bench: Bench, methods: Sequence[Method], plan: Plan) -> list[Section]:
    """Time a few sizes of every factor in turn."""
    method, preset = methods[0], bench.preset
    factors: list[tuple[str, str, Works]] = [
        (
            "epochs",
            "a run, R = 1, with all it measures",
            {n: partial(run, _epochs(bench, n), method, 1) for n in EPOCHS},
        ),
        ("images", "an epoch's steps and data, R = 1", _images(bench, method)),
        ("channels", "a step, R = 1", _sizes(bench, method, "channels", preset.channels)),
        ("cells a stage", "a step, R = 1", _sizes(bench, method, "cells", preset.cells)),
        ("replicas", "a step", {n: Lane(bench, method, n).step for n in plan.widths(*WIDTHS)}),
    ]
    rows = [_row(factor, what, alternate(works, plan.rounds, bench.device)) for factor, what, works in factors]
    with scratch() as folder:
        rows += [
            _row("table's rows", what, alternate(works, plan.rounds, bench.device))
            for what, works in _tables(folder).items()
        ]
    about = (
        f"{methods[0].name}; every factor alone, from the sizes of the benchmark. Exponent: slope of log seconds over "
        "log size; 1 is proportional, less than 1 means that a part does not grow."
    )
    return [Section("Growth", about, COLUMNS, rows)]


def exponent(costs: Mapping[int, float]) -> float:
    """Return the slope of log cost over log size, by least squares."""
    sizes, seconds = (np.log(np.array(values, dtype=np.float64)) for values in zip(*costs.items(), strict=True))
    return float(np.polyfit(sizes, seconds, 1)[0])


def _row(factor: str, what: str, samples: Mapping[int, Sequence[Sample]]) -> dict[str, Any]:
    medians = {size: middle(found) for size, found in samples.items()}
    several = len(medians) > 1
    wall_s = {size: found.wall_s for size, found in medians.items()}
    cpu_s = {size: found.cpu_s for size, found in medians.items()}
    return {
        "factor": factor,
        "what": what,
        "sizes": ", ".join(f"{size:,}" for size in medians),
        "wall_ms": ", ".join(f"{1e3 * seconds:.3g}" for seconds in wall_s.values()),
        "exponent": exponent(wall_s) if several else None,
        "cpu_exponent": exponent(cpu_s) if several and all(cpu_s.values()) else None,
    }


def _epochs(bench: Bench, epochs: int) -> Bench:
    return replace(bench, preset=replace(bench.preset, epochs=epochs))


def _images(bench: Bench, method: Method) -> Works:
    works: Works = {}
    for part in reversed(TIMES):
        images = bench.preset.train_size // part
        small = replace(
            bench, preset=replace(bench.preset, train_size=images), dataset=data.subset(bench.dataset, images)
        )
        works[images] = partial(Lane(small, method, 1).pass_over, 0)
    return works


def _sizes(bench: Bench, method: Method, name: str, base: int) -> Works:
    works: Works = {}
    for times in TIMES:
        sizes = {"channels": bench.preset.channels, "cells": bench.preset.cells, name: base * times}
        preset = replace(bench.preset, channels=sizes["channels"], cells=sizes["cells"])
        works[base * times] = Lane(replace(bench, preset=preset), method, 1).step
    return works


def _tables(folder: Path) -> dict[str, Works]:
    opened: Works = {}
    asked: Works = {}
    for rows in ROWS:
        path = folder / f"{rows}.arrow"
        write(path, _made_up(rows))
        table, keys = Table.open(path, "made up"), [_key(row) for row in range(0, rows, rows // 100)]
        opened[rows] = partial(Table.open, path, "made up")
        asked[rows] = partial(_query, table, keys)
    return {"opening a table": opened, "100 queries": asked}


def _query(table: Table, keys: Sequence[str]) -> None:
    for key in keys:
        if table.query(key) is None:
            raise LookupError(f"expected {key!r} in the table, found nothing")


def _made_up(rows: int) -> TableData:
    values = np.linspace(0.1, 0.9, rows)[:, None].repeat(3, 1)
    runs = Measurement(values, ("0", "1", "2"))
    return TableData(
        space="made up",
        keys=tuple(_key(row) for row in range(rows)),
        cells=("",) * rows,
        multiplicities=np.ones(rows, dtype=np.int64),
        measurements={Slot("made up", split, 1): runs for split in ("val", "test")},
        total_encodings=rows,
        source="made up",
    )


def _key(row: int) -> str:
    return f"{math.trunc(row * 2654435761) % 2**32:08x}{row:08x}"
