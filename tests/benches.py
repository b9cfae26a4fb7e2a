"""Small benchmarks for the tests of the command line and the loop: toy cells, 40 digits, made-up tables."""

import dataclasses
import functools
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import data, setup, spaces, variants
from bench.data.types import Dataset
from bench.request import parse
from bench.search import Stack, search
from bench.setup import Bench
from bench.spec import RunSpec
from bench.store import Store
from bench.tables import catalog
from bench.tables.arrow import write
from bench.tables.data import Measurement, Slot, TableData
from searchers.registry import METHODS

EPOCHS = 2
TINY = (
    "--space toy --benchmark embedded --train-size 40 --batch-size 8 --channels 2 --probe-size 10 --device cpu "
    f"--epochs {EPOCHS} --seeds 0:2 --jobs 1"
).split()

Record = dict[str, Any]

digits = functools.cache(functools.partial(data.load, "digits"))


def isolate(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """No data and no tables but those of the test; the digits are made once."""
    load = data.load

    def cached(name: str, root: Path | None = None, split_rule: str = "first_second") -> Dataset:
        return digits() if name == "digits" else load(name, root, split_rule)

    monkeypatch.setattr(data, "load", cached)
    monkeypatch.setenv("NAS_STABILITY_DATA", str(folder / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setattr(catalog, "EMBEDDED", folder / "embedded")


KINDS = ("darts", "random_ws", "darts_es", "enas", "gdas", "pdarts", "darts_pt", "zero_cost_pt")
"""One method of every kind: with logits, without, with a memory, a controller, samples, several networks, a selection
after the search, and no training."""

EVERY = [name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
"""Every method; those of kinds that are there already in the long suite only, beside the contract's own tests."""


PROPOSED = ("proposals=2", "validation=4", "batch_size=10")


def epochs_of(method: str) -> int:
    """Epochs of a run of this method here; 0 where it trains nothing."""
    entry = METHODS[method]
    return EPOCHS if entry.policy(entry.settings()).train_batches else 0


def quick(*methods: str) -> list[str]:
    """Options that leave out what only costs time, most of the ranked cells, and fit two channels and three batches."""
    fields = {method: {field.name for field in dataclasses.fields(METHODS[method].settings)} for method in methods}
    ranked = [method for method in methods if "ranking" in fields[method]]
    changes = [f"{method}.ranking.{change}" for method in ranked for change in ("candidates=4", "finalists=2")]
    small = ("population=4", "generations=2", "parents=2")
    changes += [
        f"{method}.evolution.{change}" for method in methods if "evolution" in fields[method] for change in small
    ]
    changes += [f"{method}.reinforce.steps=3" for method in methods if "reinforce" in fields[method]]
    changes += [f"{method}.partial_channels=2" for method in methods if "partial_channels" in fields[method]]
    changes += [f"{method}.inner=1" for method in methods if "inner" in fields[method]]
    changes += [f"{method}.{change}" for method in methods if "proposals" in fields[method] for change in PROPOSED]
    return [*(part for change in changes for part in ("--set", change))]


def command(results: Path, method: str, *more: str) -> list[str]:
    """The command line of a tiny search; later options win."""
    return [*TINY, "--results", str(results), "--methods", method, *quick(method), *more]


def bench(results: Path, method: str, *more: str) -> Bench:
    return setup.prepare(parse(command(results, method, *more)))


def stack(found: Bench, method: str) -> Stack:
    return setup.stack(found, METHODS[method], variants.specs(found, METHODS[method]))


def searched(results: Path, method: str, *more: str) -> tuple[Stack, list[list[Record]]]:
    """Search without the command line; the records of every seed."""
    found = stack(bench(results, method, *more), method)
    store = Store(results, found.specs)
    store.create({"seeds": [spec.seed for spec in found.specs]}, setup.table_facts(found.truth))
    search(found, store, lambda _records, _timing: None)
    return found, [records(results, spec) for spec in found.specs]


def folders(results: Path) -> dict[str, Path]:
    """Every run's folder by its name without the signature."""
    return {path.name.rsplit("-", 1)[0]: path for path in sorted((results / "runs").glob("*"))}


def records(results: Path, spec: RunSpec) -> list[Record]:
    return lines(results / "runs" / spec.name / "records.jsonl")


def lines(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def record_bytes(results: Path) -> dict[str, bytes]:
    return {name: (path / "records.jsonl").read_bytes() for name, path in folders(results).items()}


def table(path: Path, without: Collection[str] = (), seed: int = 1) -> Path:
    """A table of toy on the digits with made-up accuracies, validation and test in different orders."""
    counts = {key: count for key, count in spaces.get("toy").multiplicities().items() if key not in without}
    rows, draw = len(counts), np.random.default_rng(seed)
    val, test = (draw.uniform(0.2, 0.9, (rows, 2)) for _ in range(2))
    content = TableData(
        space="toy",
        keys=tuple(counts),
        cells=("",) * rows,
        multiplicities=np.array(list(counts.values()), dtype=np.int64),
        measurements={
            Slot("digits", "val", 5): Measurement(val, ("0", "1")),
            Slot("digits", "test", 5): Measurement(test, ("0", "1")),
        },
        total_encodings=spaces.get("toy").size(),
        source="made up",
    )
    write(path, content)
    return path


def alive(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").split(")")[-1].split()[0] != "Z"
    except FileNotFoundError:
        return False
