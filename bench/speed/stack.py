"""What stacking seeds pays: one step of both levels for several widths of the stack."""

from collections.abc import Sequence

from bench.setup import Bench
from bench.speed.lane import Lane
from bench.speed.rounds import alternate, middle, ratio
from bench.speed.section import Column, Plan, Section
from searchers.entry import Method

WIDTHS = (1, 2, 4, 8, 16)

COLUMNS = (
    Column("replicas", "R"),
    Column("step_ms", "step, ms", ".1f"),
    Column("step_ms_per_seed", "a seed, ms", ".1f"),
    Column("ratio", "R single / stacked", ".2f"),
    Column("cpu_ratio", "the same in CPU s", ".2f"),
    Column("images_per_s", "images/s", ".0f"),
    Column("peak_mib", "peak, MiB", ".0f"),
)


def measure(bench: Bench, methods: Sequence[Method], plan: Plan) -> list[Section]:
    """Time one step of stacks of several widths in turn."""
    lanes = {width: Lane(bench, methods[0], width) for width in plan.widths(*WIDTHS)}
    samples = alternate({width: lane.step for width, lane in lanes.items()}, plan.rounds, bench.device)
    rows = []
    for width, lane in lanes.items():
        step_s, gain = middle(samples[width]).wall_s, ratio(samples[1], samples[width])
        peak = lane.peak_bytes(lane.step)
        rows.append(
            {
                "replicas": width,
                "step_ms": 1e3 * step_s,
                "step_ms_per_seed": 1e3 * step_s / width,
                "ratio": width * gain.wall_s,
                "cpu_ratio": width * gain.cpu_s,
                "images_per_s": lane.images / step_s,
                "peak_mib": None if peak is None else peak / 2**20,
            }
        )
    about = (
        f"One step of both levels of {methods[0].name} for R stacked seeds, on the same batches again and again. "
        "Ratio: seconds of R single steps over seconds of one stacked step."
    )
    return [Section("Stacked seeds", about, COLUMNS, rows)]
