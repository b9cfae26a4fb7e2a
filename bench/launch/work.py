"""Searching a unit in this process."""

import dataclasses
import json
import logging
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bench import setup, store, variants
from bench.launch.unit import Moment, Outcome, Unit, Watch
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

    def share(self, bench: Bench) -> None:
        """Take over what has been loaded."""
        self._benches[json.dumps(spelled(bench.request), sort_keys=True)] = bench

    def search(self, unit: Unit, watch: Watch) -> Outcome:
        """Search a unit to its end or its failure, whose reason is left in the runs' folders."""
        specs: tuple[RunSpec, ...] = ()
        try:
            bench = self.bench(unit.request)
            specs = variants.stacked(bench, variants.method(unit.method), unit.changes, unit.seeds)
            _search(bench, unit, specs, watch)
        except Exception as error:
            store.Store(unit.request.results, specs).fail(traceback.format_exc())
            return Outcome(unit.label, "failed", f"{type(error).__name__}: {error}")
        return Outcome(unit.label, "finished")


@dataclass(frozen=True)
class InProcess:
    """The launcher of one job: one unit after another, here."""

    worker: Worker

    def run(self, units: Sequence[Unit], watch: Watch) -> Iterator[Outcome]:
        """Yield what became of each unit."""
        for unit in units:
            yield self.worker.search(unit, watch)


def _search(bench: Bench, unit: Unit, specs: tuple[RunSpec, ...], watch: Watch) -> None:
    results = store.Store(bench.request.results, specs)
    environment = store.environment(bench.device, unit.seeds)
    if not unit.resumes:
        results.create(environment, setup.table_facts(bench.truth))
    elif changed := results.changed(environment):
        log.warning("%s goes on under another %s: its records mix both", unit.label, ", ".join(changed))

    def observe(records: list[EpochRecord], timing: Timing) -> None:
        text, last = describe(records, timing, unit.epochs), timing.stage == "final"
        watch(Moment(unit.label, timing.epoch, unit.epochs, text, last))

    search(setup.stack(bench, variants.method(unit.method), specs), results, observe)
