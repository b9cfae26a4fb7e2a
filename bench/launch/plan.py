"""Which units a command has, and what of it is done: asks the disk, trains nothing."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from bench import store
from bench.launch.unit import Unit
from bench.request import Request
from bench.setup import Bench
from bench.spec import RunSpec
from bench.variants import Variant


@dataclass(frozen=True)
class Plan:
    """The stacks of a space that are still to be searched, and the runs that are done.

    Attributes:
        variants: everything that was asked for, in order.
        done: runs that have ended before, none where everything starts again.
    """

    bench: Bench
    variants: tuple[Variant, ...]
    units: tuple[Unit, ...]
    done: tuple[RunSpec, ...]

    def finished_before(self) -> list[str]:
        """Return a line for each variant that has runs which are done."""
        groups = [(variant, [spec for spec in variant.specs if spec in set(self.done)]) for variant in self.variants]
        space = self.bench.space.name
        return [
            f"{space} {variant.label} seeds {','.join(str(spec.seed) for spec in specs)}: finished before"
            for variant, specs in groups
            if specs
        ]


def plan(bench: Bench, chosen: Sequence[Variant]) -> Plan:
    """Return the stacks still to be searched: interrupted ones as they were, the rest in stacks of `--replicas`."""
    request = bench.request
    specs = [spec for variant in chosen for spec in variant.specs]
    done = () if request.fresh else tuple(spec for spec in specs if store.finished(request.results, spec))
    units = [unit for variant in chosen for unit in _units(bench, variant, set(done))]
    return Plan(bench, tuple(chosen), tuple(units), done)


def decided(bench: Bench) -> Request:
    """Return the request with the choices that another machine might make otherwise."""
    table = "none" if bench.truth is None else bench.request.table
    return dataclasses.replace(bench.request, benchmark=bench.preset.name, seeds=bench.preset.seeds, table=table)


def _units(bench: Bench, variant: Variant, done: set[RunSpec]) -> list[Unit]:
    request = bench.request
    waiting = [spec for spec in variant.specs if spec not in done]
    stacks: list[tuple[tuple[RunSpec, ...], bool]] = []
    for spec in [] if request.fresh else list(waiting):
        stacked = store.stacked_with(request.results, spec)
        if stacked is not None and spec in waiting:
            waiting = [other for other in waiting if other not in stacked]
            stacks.append((stacked, True))
    size = request.replicas or len(variant.specs)
    stacks += [(tuple(waiting[start : start + size]), False) for start in range(0, len(waiting), size)]
    return [_unit(bench, variant, specs, resumes) for specs, resumes in stacks]


def _unit(bench: Bench, variant: Variant, specs: tuple[RunSpec, ...], resumes: bool) -> Unit:
    return Unit(
        request=decided(bench),
        method=variant.method.name,
        changes=variant.changes,
        seeds=tuple(spec.seed for spec in specs),
        stack=store.stack_name([spec.signature for spec in specs]),
        runs=tuple(spec.name for spec in specs),
        epochs=specs[0].epochs,
        note=variant.note,
        resumes=resumes,
        fresh=bench.request.fresh,
    )
