"""Searching a unit in this process: under its lock, from its checkpoint, in smaller stacks where it does not fit."""

import dataclasses
import gc
import json
import logging
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from bench import memory, place, setup, store, variants
from bench.launch.unit import Moment, Outcome, Unit, Watch
from bench.lock import Held, locked
from bench.progress import describe
from bench.record import EpochRecord, Timing
from bench.request import Request, spelled
from bench.search import search
from bench.setup import Bench
from bench.spec import RunSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Worker:
    """Searches one unit after another; data and tables are loaded once a request.

    Attributes:
        device: wins over the requests'; None: theirs.
    """

    device: str | None = None
    _benches: dict[str, Bench] = field(default_factory=dict)

    def bench(self, request: Request) -> Bench:
        """Return what the units of a request share, with the device they are searched on."""
        request = dataclasses.replace(request, device=self.device or request.device)
        key = json.dumps(spelled(request), sort_keys=True)
        if key not in self._benches:
            self._benches[key] = setup.prepare(request)
        return self._benches[key]

    def share(self, bench: Bench, request: Request) -> None:
        """Take over what has been loaded for a request."""
        self._benches[json.dumps(spelled(request), sort_keys=True)] = bench

    def runs(self, unit: Unit) -> tuple[RunSpec, ...]:
        """Return the specifications of a unit's runs.

        Raises:
            Held: they are not those that were planned.
        """
        bench = self.bench(unit.request)
        specs = variants.stacked(bench, variants.method(unit.method), unit.changes, unit.seeds)
        if store.stack_name([spec.signature for spec in specs]) != unit.stack:
            raise Held("its data, its table or its code are not those of the machine that planned it")
        return specs

    def search(self, unit: Unit, watch: Watch) -> Outcome:
        """Search a unit to its end or its failure, whose reason is left in the runs' folders."""
        specs: tuple[RunSpec, ...] = ()
        try:
            specs = self.runs(unit)
            with locked(unit.request.results, [spec.name for spec in specs]):
                _Search(self.bench(unit.request), unit, watch).run(specs, unit.fresh)
        except Held as held:
            return Outcome(unit.label, "refused", str(held))
        except Exception as error:
            return self.failed(unit, specs, error)
        return Outcome(unit.label, "finished", diverged=tuple(store.diverged(unit.request.results, specs)))

    def given_up(self, unit: Unit, attempts: int, reason: str) -> Outcome:
        """Leave word that a unit's processes died, and return it."""
        error = RuntimeError(f"its process died {attempts} times, the last {reason}; the same command tries again")
        return dataclasses.replace(self.failed(unit, self.runs(unit), error), attempts=attempts)

    def failed(self, unit: Unit, specs: Sequence[RunSpec], error: Exception) -> Outcome:
        """Leave the reason of a failure in the runs' folders, and return it."""
        store.Store(unit.request.results, tuple(specs)).fail("".join(traceback.format_exception(error)))
        where = " (see error.txt in its folder)" if specs else ""
        return Outcome(unit.label, "failed", f"{type(error).__name__}: {error}{where}")


@dataclass(frozen=True)
class InProcess:
    """The launcher of one job: one unit after another, here."""

    worker: Worker

    def run(self, units: Sequence[Unit], watch: Watch) -> Iterator[Outcome]:
        """Yield what became of each unit."""
        for unit in units:
            yield self.worker.search(unit, watch)


@dataclass(frozen=True)
class _Search:
    """A unit under way, under its lock."""

    bench: Bench
    unit: Unit
    watch: Watch

    def run(self, specs: tuple[RunSpec, ...], fresh: bool) -> None:
        """Search a stack; where it does not fit into memory, halves of it, each as a stack of its own."""
        results = store.Store(self.bench.request.results, specs)
        if fresh:
            results.forget()
        elif all(ended := [store.ended(results.results, spec) for spec in specs]):
            return  # by another process, since it was planned
        elif any(ended) and not results.resumes():
            raise Held("another process has searched some of its runs since; ask again for the others")
        before = 0 if fresh else results.trained()
        error = self._attempt(specs, fresh)
        while error is not None and results.trained() > before:
            log.warning("%s: out of memory (%s), where it has fitted before: it goes on", self.unit.label, error)
            before = results.trained()
            error = self._attempt(specs, False)
        if error is None:
            return
        if len(specs) == 1:
            raise MemoryError(f"not even one seed fits into memory: {error}")
        half = (len(specs) + 1) // 2
        log.warning(
            "%s: a stack of %d does not fit into memory (%s); it is searched as stacks of %d",
            self.unit.label, len(specs), error, half,
        )  # fmt: skip
        results.checkpoint.drop()
        for part in (specs[:half], specs[half:]):
            self.run(part, False)

    def _attempt(self, specs: tuple[RunSpec, ...], fresh: bool) -> str | None:
        """Search as far as it goes; return what the device said if its memory ran out."""
        try:
            self._search(specs, fresh)
        except (RuntimeError, MemoryError) as error:
            if not memory.out_of_memory(error):
                raise
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
        else:
            return None
        gc.collect()
        if self.bench.device.type == "cuda":
            torch.cuda.empty_cache()
        return said

    def _search(self, specs: tuple[RunSpec, ...], fresh: bool) -> None:
        bench, unit = self.bench, self.unit
        results = store.Store(bench.request.results, specs)
        environment = place.environment(bench.device, [spec.seed for spec in specs])
        if fresh or not results.resumes():
            results.create(environment, setup.table_facts(bench.truth))
        elif changed := results.changed(environment):
            log.warning("%s goes on under another %s: its records mix both", unit.label, ", ".join(changed))
        search(setup.stack(bench, variants.method(unit.method), specs), results, self._observe)

    def _observe(self, records: list[EpochRecord], timing: Timing) -> None:
        unit = self.unit
        text, last = describe(records, timing, unit.epochs), timing.stage == "final"
        self.watch(Moment(unit.label, timing.epoch, unit.epochs, text, last))
