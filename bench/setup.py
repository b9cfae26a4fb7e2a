"""From a request to stacks that can be searched: preset, data, table, specifications."""

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

import torch

from bench import choice, data, kernels, precision, replay, spaces
from bench.cores import Work
from bench.data.feed import Feed, FeedSettings
from bench.data.types import Dataset
from bench.lab import Lab
from bench.metrics.cell import Truth
from bench.presets import PRESETS, Preset, on_dataset
from bench.replay import Recorder
from bench.request import Request
from bench.search import Stack
from bench.spaces.base import NetworkSize, Space
from bench.spec import RunSpec
from bench.tables.table import Reference
from searchers.base import DataPolicy, Horizon, SupernetOptions
from searchers.entry import Method

NUMBER_BYTES = 2**12
"""That a search takes for every number of its map in the first stage, λ included: processes of 32 and 64 seeds of 2¹³
numbers took 1.25 and 2.2 GB, one of two .35."""


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
    device = choice.choose_device(request.device)
    if request.launcher == "local":  # elsewhere the machines that search have their own devices
        precision.check(request.precision, device)
        replay.check(request.cuda_graphs, device)
        kernels.check(request.kernels, device)
    name, why = choice.choose_benchmark(request, space, device)
    preset = PRESETS[name](space.name)
    if request.dataset is not None:
        preset = on_dataset(preset, request.dataset, space.name)
    preset = _override(preset, request)
    dataset = data.subset(data.load(preset.dataset, data.data_root(), preset.split_rule), preset.train_size)
    if preset.curvature != "off":
        _check_probe(preset, dataset)
    truth = choice.truth(request, space, preset)
    return Bench(request, space, preset, dataset, _fingerprint(dataset), truth, device, why)


def _check_probe(preset: Preset, dataset: Dataset) -> None:
    """Raise where curvature could not be measured, before anything is searched."""
    settings = FeedSettings(preset.batch_size, preset.augmentation, preset.eval_batch_size, cutout_ramp=True)
    feed = Feed(dataset, preset.seeds[:1], settings, torch.device("cpu"), torch.float32)
    feed.probe(preset.probe_size)
    feed.legacy_probe(0, preset.epochs)


def check_data(bench: Bench, method: Method, spec: RunSpec) -> None:
    """Raise where there are too few images for a batch or a step of a run, or for what the method itself measures λ on.

    Raises:
        ValueError: there are.
    """
    feed, policy = _feed(bench, spec, (spec.seed,), torch.device("cpu"), None), method.policy(spec.settings)
    feed.steps_per_epoch(policy, 0, spec.epochs)  # later epochs have as many images or more
    _check_batch(feed, policy, spec.batch_size)
    if method.probes:
        feed.probe(spec.probe_size)


def _check_batch(feed: Feed, policy: DataPolicy, asked: int) -> None:
    """Raise where a batch would have fewer images than the records say."""
    size, (train, val) = policy.batch_size(0, asked), (feed.images("train"), feed.images("val"))
    if policy.split == "all":
        most, of_what = train + val, "both halves"
    else:
        most, of_what = (min(train, val), "a half") if policy.val_batches else (train, "the half for weights")
    if size > most:
        whose = "" if size == asked else ", its setting batch_size"
        raise ValueError(f"expected a batch of at most {most} images, all of {of_what}, got {size}{whose}")


def stack(bench: Bench, method: Method, runs: tuple[RunSpec, ...]) -> Stack:
    """Return runs of one method ready to be searched together."""
    spec, seeds = runs[0], tuple(run.seed for run in runs)
    recorder = replay.CudaGraphs(bench.device) if bench.request.cuda_graphs else None
    lab = Lab(
        space=bench.space,
        size=_size(bench, spec),
        seeds=seeds,
        feed=_feed(bench, spec, seeds, bench.device, recorder),
        horizon=Horizon(spec.epochs),
        device=bench.device,
        dtype=torch.float32,
        probe_size=spec.probe_size,
        curvature_replicas=bench.preset.curvature_replicas,
        recorder=recorder,
        kernels=kernels.of(bench.request.kernels),
    )
    return Stack(runs, method, lab, bench.truth)


def _feed(bench: Bench, spec: RunSpec, seeds: tuple[int, ...], device: torch.device, recorder: Recorder | None) -> Feed:
    narrow = precision.step_dtype(spec.precision)
    settings = FeedSettings(
        spec.batch_size, spec.augmentation, spec.eval_batch_size, cutout_ramp=True, step_dtype=narrow
    )
    return Feed(bench.dataset, seeds, settings, device, torch.float32, recorder)


def check_network(bench: Bench, spec: RunSpec, options: SupernetOptions) -> None:
    """Raise where the space has no such network at the size of a run; takes neither memory nor random numbers.

    Raises:
        ValueError: an option does not fit.
    """
    with torch.device("meta"):
        bench.space.supernet(_size(bench, spec), 1, options)


def rehearse(bench: Bench, method: Method, spec: RunSpec) -> None:
    """Make the searcher of a run and forget it: what its settings cannot be is said before anything is searched.

    Raises:
        ValueError: a setting does not fit.
    """
    request = dataclasses.replace(bench.request, kernels="torch")
    here = dataclasses.replace(bench, device=torch.device("cpu"), request=request)
    method.build(spec.settings, stack(here, method, (spec,)).lab)


def work(bench: Bench) -> Work:
    """Return what a process does that searches stacks as wide as were asked for."""
    preset, asked = bench.preset, bench.request.replicas
    seeds = min(len(preset.seeds), asked) if isinstance(asked, int) else len(preset.seeds)
    numbers = preset.batch_size * preset.channels * bench.dataset.search.images.shape[-1] ** 2
    return Work(numbers, NUMBER_BYTES * numbers * seeds)


def _size(bench: Bench, spec: RunSpec) -> NetworkSize:
    return NetworkSize(spec.channels, spec.cells, bench.dataset.search.images.shape[1], bench.dataset.classes)


def table_facts(truth: Truth | None) -> dict[str, Any] | None:
    """Return what a run records of its table."""
    if truth is None:
        return None
    best = truth.reference
    return {
        "elsewhere": {name: _means(one.reference) for name, one in truth.elsewhere.items()},
        "space": best.space,
        "dataset": best.dataset,
        "source": best.source,
        "digest": best.digest,
        "rows": best.rows,
        "budget": best.budget,
        "coverage": best.coverage,
        **_means(best),
    }


def _means(best: Reference) -> dict[str, dict[str, float]]:
    return {
        "optimum": {"val": best.optimum_val, "test": best.optimum_test},
        "random_cell": {"val": best.random_cell_val, "test": best.random_cell_test},
    }


def _override(preset: Preset, request: Request) -> Preset:
    sizes = ("seeds", "epochs", "train_size", "channels", "cells", "batch_size", "probe_size")
    names = (*sizes, "curvature", "curvature_replicas")
    given = {name: getattr(request, name) for name in names if getattr(request, name) is not None}
    if given.get("epochs") == "published":
        del given["epochs"]
    return dataclasses.replace(preset, **given)


def _fingerprint(dataset: Dataset) -> str:
    """Return a hash of what a search sees: images, labels and halves."""
    digest = hashlib.sha256()
    for indices in (dataset.train_indices, dataset.val_indices):
        for part in (indices, dataset.search.images[indices], dataset.search.labels[indices]):
            digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
