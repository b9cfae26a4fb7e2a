"""Train a found cell on its own and compare it with its table entry: `python -m bench.retrain --help`.

One folder a cell, one file of results and one checkpoint a seed: a training that was killed goes on, a finished one is
not repeated.
"""

import argparse
import dataclasses
import hashlib
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from bench import choice, command, data, process, spaces
from bench.checkpoint import read_state, write_json, write_state
from bench.data.augment import Augmentation, published
from bench.data.types import Dataset
from bench.retrain import networks
from bench.retrain.training import NB101, NB201, Protocol, Trainer, split
from bench.rng import global_stream
from bench.spaces import nb201
from bench.spaces.graph101 import LABELS, graph_hash
from bench.supernet.common import NetworkSize
from bench.tables.data import BUILT
from bench.tables.table import Table, TableEntry

GIVEN = ("epochs", "batch_size", "channels", "cells")


class Beside(NamedTuple):
    """What the table says of the cell.

    Attributes:
        source: which table, or why there is no entry.
        built: whether its cells were trained by `bench.tables build`.
    """

    entry: TableEntry | None
    source: str
    built: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Train one cell with every seed; a mistake is one sentence on stderr and exit code 2."""
    chosen = _parser().parse_args(arguments)
    try:
        retrain(chosen)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.stderr.write(f"error: {error}\n")
        return command.WRONG
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(prog="python -m bench.retrain", description="Train a found cell on its own.")
    parser.add_argument("--space", required=True, help="s1, s2, s3 (NAS-Bench-101's network) or nb201")
    parser.add_argument("--cell", required=True, help="as runs record it and `python -m bench.tables query` prints it")
    parser.add_argument("--dataset", default="cifar10", help="cifar10, cifar100, imagenet16, digits; default: cifar10")
    parser.add_argument("--seeds", type=command.seeds, default=(0, 1, 2), help="a range 0:3 or a list 0,2,5")
    for name in GIVEN:
        parser.add_argument(f"--{name.replace('_', '-')}", type=command.positive, help="default: the benchmark's")
    parser.add_argument("--train-size", type=command.positive, help="images to train on; default: the benchmark's")
    parser.add_argument("--table", help="table to compare with; default: the one found; none: none")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; default: a GPU if there is one")
    parser.add_argument("--threads", type=command.positive, help="CPU threads")
    parser.add_argument("--results", type=Path, default=Path("results"), help="a folder retrain/ is made in")
    return parser


def retrain(chosen: argparse.Namespace) -> None:
    """Train the cell with every seed that is not done yet; print accuracies and the table's.

    Raises:
        ValueError: there is no such space, cell or dataset, or nothing to test on.
    """
    process.begin(chosen.threads)
    device, protocol = choice.choose_device(chosen.device), _protocol(chosen)
    dataset = data.load(chosen.dataset, split_rule="nb201" if chosen.space == "nb201" else "first_second")
    size = NetworkSize(protocol.channels, protocol.cells, dataset.search.images.shape[1], dataset.classes)
    key = _key(chosen, size)
    beside = _beside(chosen, key)
    images = split(dataset, protocol, chosen.train_size)
    plan = _plan(chosen, protocol, dataset)
    folder = chosen.results / "retrain" / f"{chosen.space}-{hashlib.sha256(json.dumps(plan).encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "plan.json", plan)
    for seed in chosen.seeds:
        with global_stream(seed, "weights", 0):
            network = _network(chosen, size)
        _train(Trainer(network, images, protocol, seed, device), folder, seed)
    _report(folder, chosen.seeds, beside, _differences(chosen, protocol, dataset, beside))


def _protocol(chosen: argparse.Namespace) -> Protocol:
    """Return the benchmark's protocol with what was given; digits must not be mirrored and are small."""
    if chosen.space not in {"s1", "s2", "s3", "nb201"}:
        raise ValueError(f"expected --space s1, s2, s3 or nb201, got {chosen.space!r}")
    small = Augmentation(padding=1, flip=False, cutout_length=0)
    augmentation = small if chosen.dataset == "digits" else published(chosen.dataset)
    given = {name: getattr(chosen, name) for name in GIVEN if getattr(chosen, name) is not None}
    return dataclasses.replace(_benchmark(chosen), augmentation=augmentation, **given)


def _benchmark(chosen: argparse.Namespace) -> Protocol:
    return NB201 if chosen.space == "nb201" else NB101


def _plan(chosen: argparse.Namespace, protocol: Protocol, dataset: Dataset) -> dict[str, object]:
    """Return what decides the numbers beside the seed."""
    named = {"space": chosen.space, "cell": chosen.cell, "dataset": dataset.name, "train_size": chosen.train_size}
    return named | dataclasses.asdict(protocol)


def _network(chosen: argparse.Namespace, size: NetworkSize) -> nn.Module:
    return (networks.nb201 if chosen.space == "nb201" else networks.nb101)(chosen.cell, size)


def _key(chosen: argparse.Namespace, size: NetworkSize) -> str:
    """Return the cell's key into the table, after checking that the cell can be built."""
    with global_stream(0, "weights", 0):
        _network(chosen, size)
    if chosen.space == "nb201":
        return spaces.get("nb201").key(nb201.parse(chosen.cell))
    matrix, operations = networks.parsed_101(chosen.cell)
    return graph_hash(matrix, [LABELS["input"], *(LABELS[name] for name in operations[1:-1]), LABELS["output"]])


def _beside(chosen: argparse.Namespace, key: str) -> Beside:
    """Return what the table that is asked for, or found, says of the cell."""
    if chosen.table == "none":
        return Beside(None, "no table was asked for")
    space = spaces.get(chosen.space)
    path = choice.find_table(space, chosen.dataset) if chosen.table is None else choice.given_table(chosen.table, space)
    if path is None:
        return Beside(None, f"no table of {chosen.space} on {chosen.dataset} is prepared")
    table = Table.open(path, chosen.dataset)
    entry = table.query(key)
    source = f"{path}, {table.budget} epochs" if entry else f"{path} does not have this cell"
    return Beside(entry, source, table.reference().source.endswith(BUILT))


def _differences(chosen: argparse.Namespace, protocol: Protocol, dataset: Dataset, beside: Beside) -> str | None:
    """Return in what the table's trainings were others than these, None where they were not."""
    if beside.entry is None:
        return None
    if beside.built:
        return f"those of bench.tables build, {beside.entry.budget} epochs (docs/embedded.md)"
    benchmark = dataclasses.replace(_benchmark(chosen), epochs=beside.entry.budget)
    pairs = {name.replace("_", " "): (getattr(benchmark, name), getattr(protocol, name)) for name in GIVEN}
    if chosen.train_size is not None:
        pairs["images to train on"] = len(split(dataset, protocol).train.train_indices), chosen.train_size
    found = [f"{name} {theirs}, here {ours}" for name, (theirs, ours) in pairs.items() if theirs != ours]
    return "; ".join(found) or None


def _train(trainer: Trainer, folder: Path, seed: int) -> None:
    """Train to the end, from the checkpoint if there is one."""
    checkpoint, results = folder / f"seed-{seed}.pt", folder / f"seed-{seed}.json"
    lines: list[dict[str, object]] = []
    if checkpoint.exists():
        saved = read_state(checkpoint)
        trainer.load_state_dict(saved["trainer"])
        lines = saved["lines"]
    while trainer.epoch < trainer.protocol.epochs:
        done = trainer.train()
        lines.append(done._asdict())
        write_state(checkpoint, {"trainer": trainer.state_dict(), "lines": lines})
        write_json(results, lines)
        found = "  ".join(f"{name} {value:.4f}" for name, value in done.accuracy.items())
        sys.stdout.write(f"seed {seed}  epoch {done.epoch}/{trainer.protocol.epochs}  {done.train_loss:.4f}  {found}\n")
        sys.stdout.flush()


def _report(folder: Path, seeds: Sequence[int], beside: Beside, differences: str | None) -> None:
    ends = [json.loads((folder / f"seed-{seed}.json").read_text(encoding="utf-8"))[-1]["accuracy"] for seed in seeds]
    entry, note = beside.entry, "" if differences is None else ", trained otherwise"
    stored = {} if entry is None else {"val": entry.val_mean, "test": entry.test_mean}
    for name in ends[0]:
        values = [end[name] for end in ends]
        spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        table = f"   table {stored[name]:.4f}{note}" if name in stored else ""
        sys.stdout.write(f"{name:<5} {statistics.fmean(values):.4f}{spread} over {len(values)} seeds{table}\n")
    sys.stdout.write(f"{beside.source}\n")
    if differences is not None:
        sys.stdout.write(f"the table's trainings were other ones: {differences}\n")


if __name__ == "__main__":
    sys.exit(main())
