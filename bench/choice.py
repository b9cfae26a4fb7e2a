"""Which device, benchmark and table a request means, and why."""

from pathlib import Path

import torch

from bench import data
from bench.metrics.cell import Truth
from bench.presets import Preset
from bench.request import Request
from bench.spaces.base import Space
from bench.tables import catalog
from bench.tables.arrow import budgets, mapped
from bench.tables.table import Table


def choose_device(name: str | None) -> torch.device:
    """Return the device of that name, by default a GPU if there is one."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"expected --device cpu, cuda or cuda:N, got {name!r}") from error
    if device.type not in {"cpu", "cuda"}:
        raise ValueError(f"expected --device cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"expected a GPU for --device {name}, found {torch.cuda.device_count()}; use --device cpu")
    return device


def gpus(name: str | None) -> list[str]:
    """Return the GPUs that several processes share out: all of them, unless a device was named with its number."""
    if name not in {None, "cuda"} or not torch.cuda.is_available():
        return []
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]


def choose_benchmark(request: Request, space: Space, device: torch.device) -> tuple[str, str]:
    """Return the benchmark's name and why it was taken."""
    if request.benchmark != "auto":
        return request.benchmark, "as asked"
    if space.name == "toy":
        return "embedded", "toy has no published benchmark"
    dataset = "cifar10" if request.dataset is None or request.dataset not in data.OFFICIAL else request.dataset
    batches, missing = data.OFFICIAL[dataset].batches, []
    if device.type != "cuda":
        missing.append("there is no GPU")
    if not (data.data_root() / batches.folder).is_dir():
        missing.append(f"{batches.title} is not prepared")
    if not missing and find_table(space, dataset) is None:
        missing.append(f"no official table of {space.name} is prepared")
    if missing:
        return "embedded", f"{', '.join(missing)}; force the other with --benchmark paper"
    return "paper", f"GPU, {batches.title} and table are there; force the other with --benchmark embedded"


def find_table(space: Space, dataset: str) -> Path | None:
    """Return the table of a space and dataset from the data folder, the user's cache or the package."""
    return catalog.find(space.name, dataset, data.data_root(), catalog.default_cache(), space.multiplicities)


def truth(request: Request, space: Space, preset: Preset) -> Truth | None:
    """Return the table that is asked for, or the one that is found; None where there is none and none is needed.

    Raises:
        ValueError: the table is not there, or is of another space.
    """
    if request.table == "none":
        return None
    path = table_file(request, space, preset.dataset)
    if path is None and preset.name == "paper":
        raise ValueError(
            f"expected a benchmark table of {space.name} on {preset.dataset} under {data.data_root()}, found none; "
            "name one with --table FILE, or run without accuracies with --table none"
        )
    return None if path is None else truth_in(path, space, preset.dataset, request.budget)


def truth_in(path: Path, space: Space, dataset: str, budget: int | None) -> Truth:
    """Return what a file's table says; a budget of None is the largest.

    Raises:
        ValueError: the file has no such table, or is of another space.
    """
    table = Table.open(path, dataset, budget)
    if table.space != space.name:
        raise ValueError(f"expected a table of the space {space.name}, got {path}, which is of {table.space}")
    others = _others(path, table)
    return Truth(table, table.reference(), {name: Truth(one, one.reference()) for name, one in others.items()})


def _others(path: Path, table: Table) -> dict[str, Table]:
    """Return the tables of the other official datasets of a file, at the same budget.

    Cells found on CIFAR-10 are reported on all three datasets of NAS-Bench-201.
    """
    stored = budgets(mapped(path)[1])
    names = [name for name in data.OFFICIAL if name != table.dataset and table.budget in stored.get(name, ())]
    return {name: Table.open(path, name, table.budget) for name in names}


def table_file(request: Request, space: Space, dataset: str) -> Path | None:
    """Return the file of the table that is asked for, or that is found; None where there is none."""
    if request.table == "none":
        return None
    return find_table(space, dataset) if request.table is None else given_table(request.table, space)


def given_table(name: str, space: Space) -> Path:
    """Return the table of `--table`, imported if it is not one of ours."""
    path = Path(name)
    if not path.exists():
        raise ValueError(f"expected a table at --table, found no file {path}")
    if path.suffix == ".arrow" and not catalog.holds(path, space.name):
        return path
    return catalog.imported(path, space.name, catalog.default_cache(), space.multiplicities)
