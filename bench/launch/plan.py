"""Which units a command has, and what of it is done: asks the disk, trains nothing but for `--replicas auto`."""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from bench import store, variants
from bench.launch.fit import balanced, fit
from bench.launch.unit import Unit
from bench.request import Request
from bench.setup import Bench
from bench.spec import RunSpec
from bench.variants import Variant

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """The stacks of a space that are still to be searched, and the runs that are done.

    Attributes:
        variants: everything that was asked for, in order.
        done: runs that have ended before, none where everything starts again.
        widths: with `--replicas auto`, a line for each variant on how wide its stacks are and why.
    """

    bench: Bench
    variants: tuple[Variant, ...]
    units: tuple[Unit, ...]
    done: tuple[RunSpec, ...]
    widths: tuple[str, ...] = ()

    def specs(self, unit: Unit) -> tuple[RunSpec, ...]:
        """Return the specifications of a unit's runs."""
        return variants.stacked(self.bench, variants.method(unit.method), unit.changes, unit.seeds)

    def finished_before(self) -> list[str]:
        """Return a line for each variant that has runs which are done."""
        done = {spec.signature for spec in self.done}
        groups = [(variant, [spec for spec in variant.specs if spec.signature in done]) for variant in self.variants]
        space = self.bench.space.name
        return [
            f"{space} {variant.label} seeds {','.join(str(spec.seed) for spec in specs)}: finished before"
            for variant, specs in groups
            if specs
        ]

    def diverged(self) -> list[str]:
        """Return a line for each run that has diverged, which no mean counts."""
        specs = [spec for variant in self.variants for spec in variant.specs]
        found = store.diverged(self.bench.request.results, specs)
        return [f"{name} diverged in epoch {said['epoch']}: {said['reason']}" for name, said in found.items()]


def plan(bench: Bench, chosen: Sequence[Variant]) -> Plan:
    """Return the stacks still to be searched: interrupted ones as they were, the rest in stacks of `--replicas`."""
    request = bench.request
    specs = [spec for variant in chosen for spec in variant.specs]
    done = () if request.fresh else tuple(spec for spec in specs if store.ended(request.results, spec))
    ended, settled = {spec.signature for spec in done}, decided(bench)
    for spec in specs if not request.fresh else ():
        if spec.signature not in ended and (damage := store.damage(request.results, spec)) is not None:
            log.warning("%s: it is searched again", damage)
    waiting = [(variant, [spec for spec in variant.specs if spec.signature not in ended]) for variant in chosen]
    units, widths = [], []
    for variant, specs in waiting:
        going, rest = _going(settled, specs)
        size, line = _width(bench, variant, rest)
        stacks = [(stack, True) for stack in going]
        stacks += [(tuple(rest[start : start + size]), False) for start in range(0, len(rest), size)]
        units += [_unit(settled, variant, stack, resumes) for stack, resumes in stacks]
        widths += [] if line is None else [line]
    return Plan(bench, tuple(chosen), tuple(units), done, tuple(widths))


def decided(bench: Bench) -> Request:
    """Return the request with the choices that another machine might make otherwise."""
    table = "none" if bench.truth is None else bench.request.table
    return dataclasses.replace(bench.request, benchmark=bench.preset.name, seeds=bench.preset.seeds, table=table)


def _width(bench: Bench, variant: Variant, rest: Sequence[RunSpec]) -> tuple[int, str | None]:
    """Return how many runs are searched as one, and with `--replicas auto` a line on it."""
    asked = bench.request.replicas
    if asked != "auto" or not rest:
        return (len(variant.specs) if asked in {None, "auto"} else int(asked)), None
    found = fit(bench, variant.method, rest)
    return balanced(len(rest), found.width), found.line(f"{bench.space.name} {variant.label}")


def _going(request: Request, waiting: Sequence[RunSpec]) -> tuple[list[tuple[RunSpec, ...]], list[RunSpec]]:
    """Return the interrupted stacks, and the runs that are in none."""
    # By their signatures, which specifications remember: comparing all fields would take most of the time.
    left = {spec.signature: spec for spec in waiting}
    stacks: list[tuple[RunSpec, ...]] = []
    asked: set[str | None] = {None}
    for spec in [] if request.fresh else waiting:
        name = store.stack_of(request.results, spec) if spec.signature in left else None
        if name in asked:
            continue  # what holds for one run of a stack holds for all
        asked.add(name)
        if (stacked := store.stacked_with(request.results, spec)) is not None:
            stacks.append(stacked)
            for one in stacked:
                left.pop(one.signature, None)
    return stacks, list(left.values())


def _unit(request: Request, variant: Variant, specs: tuple[RunSpec, ...], resumes: bool) -> Unit:
    return Unit(
        request=request,
        method=variant.method.name,
        changes=variant.changes,
        seeds=tuple(spec.seed for spec in specs),
        stack=store.stack_name([spec.signature for spec in specs]),
        runs=tuple(spec.name for spec in specs),
        epochs=specs[0].epochs,
        note=variant.note,
        resumes=resumes,
        fresh=request.fresh,
    )
