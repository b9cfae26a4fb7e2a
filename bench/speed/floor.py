"""The least time of a step: its bytes and operations at the rates this machine reaches, and our ratio to it."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench.setup import Bench
from bench.speed.counting import Call, count
from bench.speed.lane import Lane
from bench.speed.rounds import alternate, middle, sample
from bench.speed.section import Column, Plan, Section
from searchers.entry import Method

WIDTHS = (1, 4, 8)
LARGE_BYTES = 2**27
MATRIX = {"cpu": 1024, "cuda": 8192}
REPEATS = 20
SHOWN = 10

RATES = (
    Column("what", "rate"),
    Column("size", "of"),
    Column("per_s", "per second", ".3g"),
    Column("unit", "unit"),
)
FLOORS = (
    Column("replicas", "R"),
    Column("calls", "calls", ".0f"),
    Column("mib", "MiB moved", ".1f"),
    Column("gflop", "GFLOP", ".3f"),
    Column("bytes_ms", "bytes, ms", ".1f"),
    Column("cached_ms", "bytes from a cache, ms", ".1f"),
    Column("flops_ms", "FLOP, ms", ".1f"),
    Column("floor_ms", "floor, ms", ".1f"),
    Column("step_ms", "step, ms", ".1f"),
    Column("over_floor", "step / floor", ".2f"),
    Column("cpu_over_floor", "the same in CPU s", ".2f"),
)
CALLS = (
    Column("name", "call"),
    Column("calls", "calls", ".0f"),
    Column("mib", "MiB moved", ".1f"),
    Column("gflop", "GFLOP", ".3f"),
    Column("floor_ms", "floor, ms", ".2f"),
)


@dataclass(frozen=True)
class Rates:
    """What this machine reaches; a copy reads and writes every byte.

    Attributes:
        cached: of maps as large as a step's.
    """

    bytes_per_s: float
    cached_bytes_per_s: float
    flops_per_s: float

    def floor_s(self, call: Call) -> float:
        """Return the least time of a call: its bytes move at the faster rate while its operations are done."""
        return max(call.bytes / max(self.bytes_per_s, self.cached_bytes_per_s), call.flops / self.flops_per_s)


def measure(bench: Bench, methods: Sequence[Method], plan: Plan) -> list[Section]:
    """Count a step, time it, and measure the machine's rates in between."""
    lanes = {width: Lane(bench, methods[0], width) for width in plan.widths(*WIDTHS)}
    samples = alternate({width: lane.step for width, lane in lanes.items()}, plan.rounds, bench.device)
    calls = {width: count(lane.step) for width, lane in lanes.items()}
    middle_bytes = statistics.median(call.bytes for call in calls[max(calls)]) / 2
    machine = rates(bench.device, int(middle_bytes), plan.rounds)
    rows = [_floor(width, calls[width], machine, middle(samples[width])) for width in lanes]
    name = methods[0].name
    about = (
        f"One step of {name}: bytes of the tensors that every call of torch reads and writes, each once; operations of "
        "convolutions and products. Floor: for each call the longer of its bytes at the faster copy rate and its "
        "operations at the rate of a matrix product. Fewer, larger calls lower the floor itself."
    )
    most = (
        f"The calls of a step of R = {max(calls)} that have the largest floors. Element-wise work counts no operations."
    )
    return [
        Section("Rates of this machine", _ABOUT_RATES, RATES, _rates_rows(machine, int(middle_bytes), bench.device)),
        Section("Floor of a step", about, FLOORS, rows),
        Section("Where the floor is", most, CALLS, _by_name(calls[max(calls)], machine)),
    ]


_ABOUT_RATES = (
    "Copies of float32 and a product of square float32 matrices, with the threads of the run, the fastest of the "
    "rounds. A copy counts its bytes twice: read and written."
)


def rates(device: torch.device, map_bytes: int, rounds: int) -> Rates:
    """Measure copy bandwidth, of large maps and of maps of so many bytes, and matrix throughput."""
    side = MATRIX[device.type]
    left, right = (torch.ones(side, side, device=device) for _ in range(2))
    return Rates(
        _copied_per_s(device, LARGE_BYTES, 1, rounds),
        _copied_per_s(device, max(map_bytes, 4096), REPEATS, rounds),
        2 * side**3 / _least_s(device, lambda: left @ right, rounds),
    )


def _copied_per_s(device: torch.device, size: int, repeats: int, rounds: int) -> float:
    source, target = (torch.ones(size // 4, device=device) for _ in range(2))

    def work() -> None:
        for _ in range(repeats):
            target.copy_(source)

    return 2 * (size // 4) * 4 * repeats / _least_s(device, work, rounds)


def _least_s(device: torch.device, work: Callable[[], object], rounds: int) -> float:
    work()
    return min(sample(device, work).wall_s for _ in range(rounds))


def _rates_rows(machine: Rates, map_bytes: int, device: torch.device) -> list[dict[str, Any]]:
    side = MATRIX[device.type]
    return [
        {"what": "copy", "size": f"{LARGE_BYTES / 2**20:.0f} MiB", "per_s": machine.bytes_per_s, "unit": "bytes"},
        {
            "what": "copy",
            "size": f"{map_bytes / 2**10:.0f} KiB, the median map",
            "per_s": machine.cached_bytes_per_s,
            "unit": "bytes",
        },
        {"what": "matrix product", "size": f"{side} × {side}", "per_s": machine.flops_per_s, "unit": "FLOP"},
    ]


def _floor(width: int, calls: Sequence[Call], machine: Rates, step: Any) -> dict[str, Any]:
    moved, flops = sum(call.bytes for call in calls), sum(call.flops for call in calls)
    floor_s = sum(machine.floor_s(call) for call in calls)
    return {
        "replicas": width,
        "calls": len(calls),
        "mib": moved / 2**20,
        "gflop": flops / 1e9,
        "bytes_ms": 1e3 * moved / machine.bytes_per_s,
        "cached_ms": 1e3 * moved / machine.cached_bytes_per_s,
        "flops_ms": 1e3 * flops / machine.flops_per_s,
        "floor_ms": 1e3 * floor_s,
        "step_ms": 1e3 * step.wall_s,
        "over_floor": step.wall_s / floor_s,
        "cpu_over_floor": step.cpu_s / floor_s,
    }


def _by_name(calls: Sequence[Call], machine: Rates) -> list[dict[str, Any]]:
    named: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        named[call.name].append(call)
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "calls": len(group),
            "mib": sum(call.bytes for call in group) / 2**20,
            "gflop": sum(call.flops for call in group) / 1e9,
            "floor_ms": 1e3 * sum(machine.floor_s(call) for call in group),
        }
        for name, group in named.items()
    ]
    return sorted(rows, key=lambda row: -row["floor_ms"])[:SHOWN]
