"""From a request to stacks that can be searched: preset, data, table, specifications."""

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench import data, spaces
from bench.data.feed import Feed, FeedSettings
from bench.data.types import Dataset
from bench.lab import Lab
from bench.metrics.cell import Truth
from bench.metrics.curvature import CurvatureSettings
from bench.metrics.landscape import LandscapeSettings
from bench.metrics.ranking import RankingProbe
from bench.presets import PRESETS, Preset
from bench.request import Request, Settings, grid
from bench.search import Stack
from bench.spaces.base import NetworkSize, Space
from bench.spec import RunSpec, replace_settings
from bench.tables import catalog
from bench.tables.table import Table
from searchers.base import Horizon, Method
from searchers.registry import METHODS, SELECTIONS, find
from searchers.tabular.registry import TABLE_METHODS


@dataclass(frozen=True)
class Bench:
    """A space with its data, table and preset, on a device."""

    request: Request
    space: Space
    preset: Preset
    dataset: Dataset
    fingerprint: str
    truth: Truth | None
    device: torch.device
    why: str


def prepare(request: Request) -> Bench:
    """Load everything that the methods share.

    Raises:
        ValueError: something that was asked for does not exist; the message says what to do.
        FileNotFoundError: data are not there.
    """
    space = spaces.get(request.space)
    device = choose_device(request.device)
    name, why = choose_benchmark(request, space, device)
    preset = _override(PRESETS[name](space.name), request)
    dataset = data.subset(data.load(preset.dataset, data.data_root(), preset.split_rule), preset.train_size)
    _check_probe(preset, dataset)
    truth = _truth(request, space, preset)
    return Bench(request, space, preset, dataset, _fingerprint(dataset), truth, device, why)


def _check_probe(preset: Preset, dataset: Dataset) -> None:
    """Raise where curvature could not be measured, before anything is searched."""
    settings = FeedSettings(preset.batch_size, preset.augmentation, preset.eval_batch_size, cutout_ramp=True)
    feed = Feed(dataset, preset.seeds[:1], settings, torch.device("cpu"), torch.float32)
    if preset.curvature != "off":
        feed.probe(preset.probe_size)
        feed.legacy_probe(0, preset.epochs)


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


def choose_benchmark(request: Request, space: Space, device: torch.device) -> tuple[str, str]:
    """Return the benchmark's name and why it was taken."""
    if request.benchmark != "auto":
        return request.benchmark, "as asked"
    if space.name == "toy":
        return "embedded", "toy has no published benchmark"
    missing = []
    if device.type != "cuda":
        missing.append("there is no GPU")
    if not (data.data_root() / "cifar-10-batches-py").is_dir():
        missing.append("CIFAR-10 is not prepared")
    if not missing and find_table(space, "cifar10") is None:
        missing.append(f"no official table of {space.name} is prepared")
    if missing:
        return "embedded", f"{', '.join(missing)}; force the other with --benchmark paper"
    return "paper", "GPU, CIFAR-10 and table are there; force the other with --benchmark embedded"


def find_table(space: Space, dataset: str) -> Path | None:
    """Return the table of a space and dataset from the data folder, the user's cache or the package."""
    return catalog.find(space.name, dataset, data.data_root(), catalog.default_cache(), space.multiplicities)


def methods(request: Request) -> list[Method]:
    """Return the methods asked for.

    Raises:
        ValueError: one is unknown, or settings are given for one that is not asked for.
    """
    names = tuple(METHODS) if request.methods == ("all",) else request.methods
    found = [_method(name) for name in names]
    for name in request.set:
        if name != "*":
            _method(name)
    unused = sorted(set(request.set) - set(names) - {"*"})
    if unused:
        raise ValueError(f"expected --set for one of {', '.join(names)}, got {', '.join(unused)}")
    fields = {name for method in found for name in _fields(method)}
    nowhere = sorted(path for path in request.set.get("*", {}) if path.split(".")[0] not in fields)
    if nowhere:
        raise ValueError(f"expected one of the settings {', '.join(sorted(fields))}, got {', '.join(nowhere)}")
    return found


def _method(name: str) -> Method:
    found = find(name)
    if found is None:
        known, also = ", ".join((*METHODS, *TABLE_METHODS)), " or ".join(f"+{selection}" for selection in SELECTIONS)
        raise ValueError(f"expected methods out of {known}, or a search with {also} behind it, or all, got {name!r}")
    return found


def _fields(method: Method) -> set[str]:
    """Return the settings a method has, with those of its search."""
    own = {field.name for field in dataclasses.fields(method.settings)}
    return own if method.search is None else own | _fields(method.search)


class Variant(NamedTuple):
    """A method with one combination of the settings asked for, over its seeds.

    Attributes:
        note: the settings in which it differs from the method's other variants, "" where it is the only one.
    """

    method: Method
    specs: tuple[RunSpec, ...]
    note: str = ""

    @property
    def label(self) -> str:
        return f"{self.method.name}[{self.note}]" if self.note else self.method.name


def variants(bench: Bench, method: Method) -> list[Variant]:
    """Return the method with every combination of the settings asked for."""
    shared, own = (dict(bench.request.set.get(name, {})) for name in ("*", method.name))
    varied = {path for path, value in {**shared, **own}.items() if isinstance(value, str) and "," in value}
    found: dict[str, Variant] = {}
    for first, second in itertools.product(grid(shared), grid(own)):
        note = ", ".join(f"{path}={value}" for path, value in (first | second).items() if path in varied)
        runs = specs(bench, method, {"*": first, method.name: second})
        found.setdefault(runs[0].signature, Variant(method, runs, note))
    alone = len(found) == 1
    return [variant._replace(note="") if alone else variant for variant in found.values()]


def specs(bench: Bench, method: Method, changes: Settings | None = None) -> tuple[RunSpec, ...]:
    """Return one specification a seed; `changes` are those asked for by default."""
    preset, changes = bench.preset, bench.request.set if changes is None else changes
    settings = _everywhere(method, _defaults(method, preset), changes.get("*", {}))
    settings = replace_settings(settings, changes.get(method.name, {}))
    base = RunSpec(
        benchmark=preset.name,
        space=bench.space.name,
        dataset=preset.dataset,
        data=bench.fingerprint,
        method=method.name,
        settings=settings,
        seed=0,
        epochs=preset.epochs if method.policy(settings).train_batches else 0,
        train_size=preset.train_size,
        batch_size=preset.batch_size,
        eval_batch_size=preset.eval_batch_size,
        channels=preset.channels,
        cells=preset.cells,
        split_rule=preset.split_rule,
        augmentation=preset.augmentation,
        probe_size=preset.probe_size,
        curvature=CurvatureSettings(mode=preset.curvature),  # type: ignore[arg-type]
        curvature_every=bench.request.curvature_every,
        ranking=_ranking(bench),
        landscape=LandscapeSettings() if bench.request.landscape else None,
        table=None if bench.truth is None else bench.truth.reference.digest,
        budget=None if bench.truth is None else bench.truth.reference.budget,
    )
    return tuple(dataclasses.replace(base, seed=seed) for seed in preset.seeds)


def _ranking(bench: Bench) -> RankingProbe | None:
    if "ranking" not in bench.request.metrics:
        return None
    return dataclasses.replace(bench.preset.ranking, every=bench.request.ranking_every)


def stack(bench: Bench, method: Method, runs: tuple[RunSpec, ...]) -> Stack:
    """Return runs of one method ready to be searched together."""
    spec, seeds = runs[0], tuple(run.seed for run in runs)
    lab = Lab(
        space=bench.space,
        size=NetworkSize(spec.channels, spec.cells, bench.dataset.search.images.shape[1], bench.dataset.classes),
        seeds=seeds,
        feed=Feed(
            bench.dataset,
            seeds,
            FeedSettings(spec.batch_size, spec.augmentation, spec.eval_batch_size, cutout_ramp=True),
            bench.device,
            torch.float32,
        ),
        horizon=Horizon(spec.epochs),
        device=bench.device,
        dtype=torch.float32,
        probe_size=spec.probe_size,
    )
    return Stack(runs, method, lab, bench.truth)


def table_facts(truth: Truth | None) -> dict[str, Any] | None:
    """Return what a run records of its table."""
    if truth is None:
        return None
    best = truth.reference
    return {
        "space": best.space,
        "dataset": best.dataset,
        "source": best.source,
        "digest": best.digest,
        "rows": best.rows,
        "budget": best.budget,
        "coverage": best.coverage,
        "optimum": {"val": best.optimum_val, "test": best.optimum_test},
        "random_cell": {"val": best.random_cell_val, "test": best.random_cell_test},
    }


def _defaults(method: Method, preset: Preset) -> Any:
    """Return a method's settings in a benchmark; a search that a selection follows has those it has alone."""
    settings = method.settings()
    if method.search is not None:
        settings = dataclasses.replace(settings, search=_defaults(method.search, preset))
    settings = _shared(settings, preset.settings.get("*", {}))
    return replace_settings(settings, preset.settings.get(method.name, {}))


def _everywhere(method: Method, settings: Any, changes: Mapping[str, Any]) -> Any:
    """Apply the changes whose field these settings have, or those of the method that searches first."""
    if method.search is not None:
        settings = dataclasses.replace(settings, search=_everywhere(method.search, settings.search, changes))
    return _shared(settings, changes)


def _shared(settings: Any, changes: Mapping[str, Any]) -> Any:
    """Apply the changes whose field these settings have."""
    fields = {field.name for field in dataclasses.fields(settings)}
    return replace_settings(settings, {path: v for path, v in changes.items() if path.split(".")[0] in fields})


def _override(preset: Preset, request: Request) -> Preset:
    names = (
        *("dataset", "seeds", "epochs", "train_size", "channels", "cells", "batch_size", "probe_size"),
        "curvature",
    )
    given = {name: getattr(request, name) for name in names if getattr(request, name) is not None}
    if request.dataset is not None:
        halves = "nb201" if request.space == "nb201" else "first_second"
        given["split_rule"] = "recipe" if request.dataset == "digits" else halves
    return dataclasses.replace(preset, **given)


def _truth(request: Request, space: Space, preset: Preset) -> Truth | None:
    if request.table == "none":
        return None
    path = find_table(space, preset.dataset) if request.table is None else given_table(request.table, space)
    if path is None and preset.name == "paper":
        raise ValueError(
            f"expected a benchmark table of {space.name} on {preset.dataset} under {data.data_root()}, found none; "
            "name one with --table FILE, or run without accuracies with --table none"
        )
    if path is None:
        return None
    table = Table.open(path, preset.dataset, request.budget)
    if table.space != space.name:
        raise ValueError(f"expected a table of the space {space.name}, got {path}, which is of {table.space}")
    return Truth(table, table.reference())


def given_table(name: str, space: Space) -> Path:
    """Return the table of `--table`, imported if it is not one of ours."""
    path = Path(name)
    if not path.exists():
        raise ValueError(f"expected a table at --table, found no file {path}")
    if path.suffix == ".arrow" and not catalog.holds(path, space.name):
        return path
    return catalog.imported(path, space.name, catalog.default_cache(), space.multiplicities)


def _fingerprint(dataset: Dataset) -> str:
    """Return a hash of what a search sees: images, labels and halves."""
    digest = hashlib.sha256()
    for indices in (dataset.train_indices, dataset.val_indices):
        for part in (indices, dataset.search.images[indices], dataset.search.labels[indices]):
            digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
