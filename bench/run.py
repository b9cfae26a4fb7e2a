"""Search with every method on a space: `python -m bench.run --space s1 --methods all`.

Prints which benchmark is used and why, searches each method's seeds as one stack, and closes with a table. Finished
runs are skipped, interrupted ones go on. Exit code 0: all finished; 1: a method failed; 2: the request is wrong.
"""

import contextlib
import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console

from bench import setup, store, tabular_run, tabular_setup, tracker
from bench.estimate import estimate
from bench.progress import new_console, observer
from bench.request import Request, parse
from bench.search import search
from bench.setup import Bench, Variant
from bench.spec import RunSpec
from bench.summary import closing_table

log = logging.getLogger(__name__)

OK, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class Unit:
    """One stack of runs to be searched.

    Attributes:
        resumes: whether it goes on from its checkpoint.
    """

    variant: Variant
    specs: tuple[RunSpec, ...]
    resumes: bool = False

    @property
    def label(self) -> str:
        seeds = ",".join(str(spec.seed) for spec in self.specs)
        return f"{self.specs[0].space} {self.variant.label} seeds {seeds}"


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    console = new_console()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("optuna.storages").setLevel(logging.WARNING)  # it would announce every repetition
    try:
        request = parse(arguments)
        if request.tensorboard:
            tracker.check()
        torch.set_num_threads(request.threads or torch.get_num_threads())
        searches, lookups = tabular_setup.split(request)
        parts = ((_supernets, searches), (_tables, lookups))
        prepared = [work(console, part) for work, part in parts if part is not None]
    except (ValueError, FileNotFoundError) as error:
        log.error("error: %s", error)
        return WRONG
    return max(work() for work in prepared)


def _supernets(console: Console, request: Request) -> Callable[[], int]:
    """Prepare everything that can be refused; return the work."""
    chosen = setup.methods(request)
    bench = setup.prepare(request)
    runs = [variant for method in chosen for variant in setup.variants(bench, method)]

    def work() -> int:
        _announce(console, bench)
        if request.dry_run:
            _dry_run(console, bench, runs)
            return OK
        return _search_all(console, bench, runs)

    return work


def _tables(console: Console, request: Request) -> Callable[[], int]:
    """Prepare the table and the searches; return the work."""
    bench = tabular_setup.prepare(request)
    tabular_setup.plan(bench)

    def work() -> int:
        failed = tabular_run.run(console, bench)
        if failed:
            log.error("%d of the table searches failed: %s", len(failed), "; ".join(failed))
        return FAILED if failed else OK

    return work


def _search_all(console: Console, bench: Bench, runs: list[Variant]) -> int:
    results, failed = bench.request.results, []
    for variant in runs:
        if done := tuple(spec for spec in variant.specs if not bench.request.fresh and store.finished(results, spec)):
            console.print(f"{Unit(variant, done).label}: finished before", highlight=False, soft_wrap=True)
            if bench.request.tensorboard:
                tracker.complete(results, [spec.name for spec in done])
        for unit in plan(bench, variant):
            try:
                _search(console, bench, unit)
            except KeyboardInterrupt:
                log.error("interrupted: finished epochs are kept, the same command without --fresh goes on from them")
                return INTERRUPTED
            except Exception as error:
                failed.append(unit.label)
                store.Store(results, unit.specs).fail(traceback.format_exc())
                log.error("failed: %s: %s: %s (see error.txt in its folder)", unit.label, type(error).__name__, error)
    console.print(closing_table(results, [(variant.label, variant.specs) for variant in runs], bench.truth))
    if failed:
        log.error("%d of the stacks failed: %s", len(failed), "; ".join(failed))
    return FAILED if failed else OK


def plan(bench: Bench, variant: Variant) -> list[Unit]:
    """Return the stacks still to be searched: interrupted ones as they were, the rest in stacks of `--replicas`."""
    request, specs = bench.request, variant.specs
    units: list[Unit] = []
    waiting = [spec for spec in specs if request.fresh or not store.finished(request.results, spec)]
    for spec in [] if request.fresh else list(waiting):
        stacked = store.stacked_with(request.results, spec)
        if stacked is not None and spec in waiting:
            waiting = [other for other in waiting if other not in stacked]
            units.append(Unit(variant, stacked, resumes=True))
    size = request.replicas or len(specs)
    chunks = [tuple(waiting[start : start + size]) for start in range(0, len(waiting), size)]
    return units + [Unit(variant, chunk) for chunk in chunks]


def _search(console: Console, bench: Bench, unit: Unit) -> None:
    results = store.Store(bench.request.results, unit.specs)
    environment = store.environment(bench.device, [spec.seed for spec in unit.specs])
    if not unit.resumes:
        results.create(environment, setup.table_facts(bench.truth))
    elif changed := results.changed(environment):
        log.warning("%s goes on under another %s: its records mix both", unit.label, ", ".join(changed))
    with contextlib.ExitStack() as context:
        observe = context.enter_context(observer(console, unit.label, unit.specs[0].epochs))
        if bench.request.tensorboard:
            observe = context.enter_context(tracker.tracked(observe, results.results, [s.name for s in unit.specs]))
        search(setup.stack(bench, unit.variant.method, unit.specs), results, observe)


def _announce(console: Console, bench: Bench) -> None:
    preset = bench.preset
    lines = [
        f"benchmark {preset.name}: {bench.why}",
        f"{bench.space.name} on {preset.dataset}: {preset.train_size} images in two halves, batch {preset.batch_size}, "
        f"{preset.channels} channels, {preset.cells} cells a stage, {preset.epochs} epochs, device {bench.device}",
    ]
    if preset.settings:
        changes = "; ".join(
            f"{name}: " + ", ".join(f"{path}={value}" for path, value in inner.items())
            for name, inner in preset.settings.items()
        )
        lines.append(f"settings that differ from the methods' defaults: {changes}")
    if bench.truth is None:
        lines.append("no benchmark table: cells are recorded without true accuracies and regrets")
    else:
        facts = bench.truth.reference
        covered = "unknown" if facts.coverage is None else f"{facts.coverage:.1%}"
        lines.append(f"table: {facts.rows} cells ({covered} of all encodings), {facts.budget} epochs, {facts.source}")
    if "ranking" in bench.request.metrics:
        lines.append(f"ranking: {preset.ranking.cells} cells of the space, overlap of the best {preset.ranking.top}")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _dry_run(console: Console, bench: Bench, runs: list[Variant]) -> None:
    for variant in runs:
        specs = variant.specs
        size = bench.request.replicas or len(specs)
        found = estimate(setup.stack(bench, variant.method, specs[:size]))
        note = f"{variant.note}, " if variant.note else ""
        for spec in specs:
            done = "  finished" if store.finished(bench.request.results, spec) else ""
            console.print(
                f"{spec.name}  {note}{found.weights:,} weights, {found.logits} logits in {found.rows} rows, "
                f"{found.steps_per_epoch} steps an epoch, about {found.wall_s / min(size, len(specs)):.0f} s, "
                f"{found.peak_bytes / 2**20:.0f} MiB a stack of {min(size, len(specs))}{done}",
                highlight=False, soft_wrap=True,
            )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
