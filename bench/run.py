"""Search with every method on a space: `python -m bench.run --space s1 --methods all`.

Prints which benchmark is used and why, searches each method's seeds as one stack, and closes with a table. Finished
runs are skipped, interrupted ones go on. Exit code 0: all finished; 1: a method failed; 2: the request is wrong, or
another process searches one of these runs; 130 and 143: Ctrl-C and SIGTERM.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
from rich.console import Console

from bench import cores, process, setup, tabular_run, tabular_setup, tracker, variants
from bench.announce import announce, dry_run, say
from bench.cores import Share
from bench.launch.plan import Plan, decided, plan
from bench.launch.registry import check, choose
from bench.launch.unit import Outcome, Unit, Unreachable, Watch
from bench.launch.work import Worker
from bench.lock import check_writable
from bench.progress import new_console, view
from bench.request import Request, one_space, parse
from bench.setup import Bench
from bench.summary import closing_table

log = logging.getLogger(__name__)

OK, FAILED, WRONG, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    console = new_console()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("optuna.storages").setLevel(logging.WARNING)  # it would announce every repetition
    try:
        request = parse(arguments)
        if request.tensorboard:
            tracker.check()
        check(request)
        process.begin(request.threads)
        parts = [tabular_setup.split(one) for one in one_space(request)]
        searches = [search for search, _ in parts if search is not None]
        prepared = [_supernets(console, searches)] if searches else []
        prepared += [_tables(console, lookup) for _, lookup in parts if lookup is not None]
    except (ValueError, FileNotFoundError) as error:
        log.error("error: %s", error)
        return WRONG
    try:
        # Ray's driver has a handler of its own; Slurm's jobs go on without theirs.
        with process.terminable() if request.launcher == "local" else nullcontext():
            return max(work() for work in prepared)
    except Unreachable as error:
        log.error("error: %s", error)
        return WRONG
    except KeyboardInterrupt as stop:
        log.error("interrupted: finished epochs are kept, the same command without --fresh goes on from them")
        return TERMINATED if isinstance(stop, process.Terminated) else INTERRUPTED


def _supernets(console: Console, requests: Sequence[Request]) -> Callable[[], int]:
    """Prepare everything that can be refused; return the work."""
    worker, plans = Worker(), []
    chosen = [variants.methods(request) for request in requests]
    share, benches = _shared([setup.prepare(request) for request in requests])
    process.use(share.threads)
    for bench, methods in zip(benches, chosen, strict=True):
        asked = [variant for method in methods for variant in variants.variants(bench, method)]
        variants.check_networks(bench, asked)
        variants.check_settings(bench, asked)
        variants.check_data(bench, asked)
        plans.append(plan(bench, asked))
        worker.share(bench, decided(bench))

    def work() -> int:
        for one in plans:
            announce(console, one.bench)
        busy = share.of(sum(len(one.units) for one in plans))
        here = share if requests[0].jobs else busy
        if here.jobs > 1 and not requests[0].jobs:
            each = f"{here.threads} thread{'s' if here.threads > 1 else ''} each"
            say(console, f"{here.jobs} stacks at once, {each}; --jobs and --threads change that")
        if requests[0].dry_run:
            _dry_run(console, plans, busy.jobs)
            return OK
        try:
            check_writable(requests[0].results)
        except ValueError as error:
            log.error("error: %s", error)
            return WRONG
        return _search_all(console, plans, worker, here)

    return work


def _shared(benches: Sequence[Bench]) -> tuple[Share, list[Bench]]:
    """Return how this machine is shared out, and the benches with that many jobs; elsewhere the launcher decides."""
    first = benches[0]
    if first.request.launcher != "local":
        return Share(1, torch.get_num_threads()), list(benches)
    largest = max(setup.work(bench) for bench in benches)
    share = cores.share(largest, first.device, first.request.jobs, first.request.threads)
    return share, [replace(bench, request=replace(bench.request, jobs=share.jobs)) for bench in benches]


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


def _search_all(console: Console, plans: Sequence[Plan], worker: Worker, share: Share) -> int:
    for one in plans:
        for line in (*one.finished_before(), *one.widths):
            say(console, line)
    units = [unit for one in plans for unit in one.units]
    outcomes = []
    with view(console, len(units)) as shown, _tracked(shown, plans, units) as watch:
        for outcome in choose(plans[0].bench.request, worker, share).run(units, watch):
            outcomes.append(outcome)
            _complain(outcome)
    for one in plans:
        runs = [(variant.label, variant.specs) for variant in one.variants]
        console.print(closing_table(one.bench.request.results, runs, one.bench.truth))
        for line in one.diverged():
            say(console, line)
    failed = [outcome.label for outcome in outcomes if outcome.state == "failed"]
    if failed:
        log.error("%d of the stacks failed: %s", len(failed), "; ".join(failed))
        return FAILED
    return WRONG if any(outcome.state == "refused" for outcome in outcomes) else OK


@contextmanager
def _tracked(watch: Watch, plans: Sequence[Plan], units: Sequence[Unit]) -> Iterator[Watch]:
    """Yield what is told every instant; with `--tensorboard` it also draws, at first the runs that are done."""
    request = plans[0].bench.request
    if not request.tensorboard:
        yield watch
        return
    tracker.complete(request.results, [spec.name for one in plans for spec in one.done])
    with tracker.tracked(watch, request.results, {unit.label: unit.runs for unit in units}) as both:
        yield both


def _complain(outcome: Outcome) -> None:
    if outcome.state == "failed":
        log.error("failed: %s: %s", outcome.label, outcome.reason)
    elif outcome.state == "refused":
        log.error("refused: %s: %s", outcome.label, outcome.reason)


def _dry_run(console: Console, plans: Sequence[Plan], jobs: int) -> None:
    for line in [line for one in plans for line in one.widths]:
        say(console, line)
    total_s = sum(dry_run(console, one) for one in plans)
    units, done = sum(len(one.units) for one in plans), sum(len(one.done) for one in plans)
    say(
        console, f"{units} units to search, about {total_s / jobs:.0f} s with {jobs} at once; {done} runs have finished"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
