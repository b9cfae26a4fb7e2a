"""What a results folder of many runs costs: `python -m bench.launch.scale --runs 10000 --epochs 100 --folder DIR`.

Writes runs of one seed each, every one a unit of its own, in the exact format and with made-up numbers: of ten, eight
finished, one interrupted with a checkpoint, one not begun. Then lists them and asks what is left, and prints what each
took. `python -m analysis.export --results DIR` measures loading. `docs/scaling.md` has the figures.
"""

import json
import logging
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.table import Table as Rows

from bench import place, rng, setup, store, variants
from bench.command import WRONG, Parser, positive
from bench.launch.plan import Plan, plan
from bench.progress import new_console
from bench.request import Request, parse
from bench.search import search
from bench.setup import Bench
from bench.spec import RunSpec
from bench.store import Store
from bench.summary import closing_table

log = logging.getLogger(__name__)

SEEDS = 100
"""Seeds a setting; further runs are further settings."""
CAREFUL = 50
"""Runs that are written line by line, each flushed to the disk, as a search does; the others at once."""
ASKED = 5
"""Times that what is left is asked for; the median is given."""
CELL = {
    "table": {"val_mean": 0.93, "test_mean": 0.92, "val": [0.93, 0.94, 0.92], "test": [0.92, 0.93, 0.91], "n_runs": 3,
              "budget": 108, "params": 2_694_282, "train_time_s": 1801.5},
    "miss": False, "regret_val": 0.012, "regret_test": 0.014,
}  # fmt: skip
"""What a record says of a cell that a table has; the sample is searched without one."""


@dataclass(frozen=True)
class Cost:
    """What something took; `cpu_s` is user and system time of this process."""

    what: str
    cpu_s: float
    wall_s: float


@dataclass(frozen=True)
class Lines:
    """One or more lines of a file."""

    text: str

    def line(self) -> str:
        return self.text


@dataclass(frozen=True)
class Sample:
    """A real run: its records of epoch 0, with the whole spectrum, of epoch 1 and of the end, and a checkpoint."""

    records: tuple[dict[str, Any], ...]
    timing: dict[str, Any]
    environment: dict[str, Any]
    state: dict[str, Any]

    def lines(self, number: int, epochs: int) -> Iterator[tuple[str, str]]:
        """Yield the lines of records and of timing of a run, every number changed a little, otherwise in every run."""
        first, usual, final = ({**record, **CELL} for record in self.records)
        stream = rng.numpy_stream(number, "synthetic", 0)
        for instant in range(epochs + 2):
            record = final if instant > epochs else first if instant % 10 == 0 else usual
            scale = 1 + float(stream.uniform(-0.1, 0.1))
            changed = {**_scaled(record, scale), "epoch": min(instant, epochs), "stage": record["stage"]}
            timing = {**_scaled(self.timing, scale), "epoch": min(instant, epochs), "stage": record["stage"]}
            yield json.dumps(changed) + "\n", json.dumps(timing) + "\n"


def _scaled(value: Any, scale: float) -> Any:
    if isinstance(value, float):
        return value * scale
    if isinstance(value, dict):
        return {name: _scaled(inner, scale) for name, inner in value.items()}
    return [_scaled(inner, scale) for inner in value] if isinstance(value, list) else value


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    options = _parser().parse_args(arguments)
    if (options.folder / "runs").exists():
        log.error("error: expected a folder without runs at --folder, got %s", options.folder)
        return WRONG
    torch.set_num_threads(1)
    bench = setup.prepare(asked(options.runs, options.epochs, options.folder))
    made = sample(options.folder / "sample")
    costs = [*_written(bench, made), _listed(options.folder), *_left(bench), _closed(bench)]
    new_console().print(_rows(costs, f"{options.runs:,} runs of {options.epochs} epochs, {_size(options.folder)}"))
    return 0


def asked(runs: int, epochs: int, results: Path) -> Request:
    """Return a command that has so many runs."""
    rates = ",".join(f"{(1 + number) * 1e-5:.5f}" for number in range(-(-runs // SEEDS)))
    options = f"--space s1 --benchmark embedded --methods darts --table none --device cpu --seeds 0:{min(runs, SEEDS)}"
    more = ["--replicas", "1", "--epochs", str(epochs), "--results", str(results), "--set", f"darts.arch.lr={rates}"]
    return parse([*options.split(), *more])


def sample(folder: Path) -> Sample:
    """Search a tiny run of two epochs in a folder of its own."""
    options = "--space s1 --benchmark embedded --methods darts --seeds 0 --epochs 2 --table none --device cpu"
    request = parse([*options.split(), "--train-size", "100", "--batch-size", "25", "--results", str(folder)])
    bench = setup.prepare(request)
    (method,) = variants.methods(request)
    specs = variants.specs(bench, method)
    kept = _Remembering(folder, specs)
    environment = place.environment(bench.device, [0])
    kept.create(environment, None)
    search(setup.stack(bench, method, specs), kept, lambda _records, _timing: None)
    records, timing = (
        [json.loads(line) for line in (kept.folder(specs[0]) / name).read_text(encoding="utf-8").splitlines()]
        for name in store.FILES
    )
    return Sample((records[0], records[1], records[-1]), timing[1], environment, kept.states[-1])


@dataclass(frozen=True)
class _Remembering(Store):
    """A store that also hands out its last checkpoint's state."""

    states: list[dict[str, Any]] = field(default_factory=list)

    def finish(self, diverged: Sequence[Mapping[str, Any] | None] = ()) -> None:
        self.states.append(next(self.checkpoint.states())[1]["state"])
        super().finish(diverged)


def _written(bench: Bench, made: Sample) -> list[Cost]:
    specs = [spec for variant in every_variant(bench) for spec in variant.specs]
    numbered = list(enumerate(specs))
    lines: list[int] = []
    careful = _timed("", lambda: lines.extend(_write(bench, made, *one, at_once=False) for one in numbered[:CAREFUL]))
    records = sum(lines)
    rest = _timed(
        "write the other runs, a run at a time", lambda: [_write(bench, made, *one) for one in numbered[CAREFUL:]]
    )
    what = f"write a record of the first {CAREFUL} runs, a line at a time, each flushed to the disk"
    return [Cost(what, careful.cpu_s / records, careful.wall_s / records), rest]


def _write(bench: Bench, made: Sample, number: int, spec: RunSpec, *, at_once: bool = True) -> int:
    """Write a run and return its lines: the last but one of ten is interrupted half way, the last has not begun."""
    state, run_store = number % 10, Store(bench.request.results, (spec,))
    if state == 9:
        return 0
    run_store.create({**made.environment, "seeds": [spec.seed]}, None)
    lines = list(made.lines(number, spec.epochs))
    lines = lines[: 1 + spec.epochs // 2] if state == 8 else lines
    for chunk in [lines] if at_once else [[line] for line in lines]:
        records, timing = ("".join(part) for part in zip(*chunk, strict=True))
        run_store.append([Lines(records)], Lines(timing))
    if state == 8:
        run_store.save({**made.state, "epoch": spec.epochs // 2})
    else:
        run_store.finish()
    return len(lines)


def _listed(results: Path) -> Cost:
    return _timed("list the runs' folders", lambda: sorted((results / "runs").iterdir()))


def _left(bench: Bench) -> list[Cost]:
    """Ask what is left, as a command does that is given again, with nothing remembered."""
    plans: list[Plan] = []
    costs = [_timed("what is left", lambda: plans.append(plan(bench, every_variant(bench)))) for _ in range(ASKED)]
    found = plans[-1]
    resumed = sum(unit.resumes for unit in found.units)
    label = (
        f"what is left: {len(found.done):,} runs done, {resumed:,} units go on, {len(found.units) - resumed:,} begin"
    )
    cpu_s, wall_s = (statistics.median(getattr(cost, name) for cost in costs) for name in ("cpu_s", "wall_s"))
    return [Cost(f"{label} (median of {ASKED})", cpu_s, wall_s)]


def _closed(bench: Bench) -> Cost:
    runs = [(variant.label, variant.specs) for variant in every_variant(bench)]
    return _timed("the command's closing table", lambda: closing_table(bench.request.results, runs, None))


def every_variant(bench: Bench) -> list[variants.Variant]:
    """Return everything that is asked for, with nothing remembered of an earlier call."""
    return [variant for method in variants.methods(bench.request) for variant in variants.variants(bench, method)]


def _timed(what: str, work: Callable[[], Any]) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Cost(what, time.process_time() - cpu, time.perf_counter() - wall)


def _size(results: Path) -> str:
    files = [path.stat().st_size for path in results.rglob("*") if path.is_file()]
    return f"{len(files):,} files, {sum(files) / 2**30:.2f} GiB"


def _rows(costs: Sequence[Cost], title: str) -> Rows:
    rows = Rows(title=title, title_justify="left")
    for name in ("", "CPU s", "wall s"):
        rows.add_column(name, justify="right" if name else "left")
    for cost in costs:
        rows.add_row(cost.what, f"{cost.cpu_s:.4g}", f"{cost.wall_s:.4g}")
    return rows


def _parser() -> Parser:
    parser = Parser(prog="python -m bench.launch.scale", description="What a results folder of many runs costs.")
    parser.add_argument("--runs", type=positive, default=10_000, help="runs, each of one seed and a unit of its own")
    parser.add_argument("--epochs", type=positive, default=100, help="epochs a run")
    parser.add_argument("--folder", type=Path, required=True, help="absent or empty; takes about 5 kB a record")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
