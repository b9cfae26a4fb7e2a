"""Which runs a request means: its methods, each with every combination of settings, over the seeds."""

import dataclasses
import difflib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bench import setup
from bench.metrics.curvature import CurvatureSettings
from bench.metrics.landscape import LandscapeSettings
from bench.metrics.native import NativeSettings
from bench.metrics.ranking import RankingProbe
from bench.presets import Preset
from bench.request import Request, Settings, grid
from bench.setup import Bench, check_network, rehearse
from bench.spec import RunSpec, replace_settings
from searchers.base import SupernetOptions
from searchers.entry import Method
from searchers.registry import METHODS, SELECTIONS, find
from searchers.tabular.registry import TABLE_METHODS


def methods(request: Request) -> list[Method]:
    """Return the methods asked for.

    Raises:
        ValueError: one is unknown, settings are given for one that is not asked for, or one has no published horizon.
    """
    names = tuple(METHODS) if request.methods == ("all",) else request.methods
    found = [method(name) for name in names]
    for name in request.set:
        if name != "*":
            method(name)
    unused = sorted(set(request.set) - set(names) - {"*"})
    if unused:
        raise ValueError(f"expected --set for one of {', '.join(names)}, got {', '.join(unused)}")
    fields = {name for one in found for name in _fields(one)}
    nowhere = sorted(path for path in request.set.get("*", {}) if path.split(".")[0] not in fields)
    if nowhere:
        raise ValueError(f"expected one of the settings {', '.join(sorted(fields))}, got {', '.join(nowhere)}")
    _check_published(request, found)
    return found


def _check_published(request: Request, found: Sequence[Method]) -> None:
    """Raise where a published horizon is asked for that nobody is known to have published.

    Another number in its place would stand in records and figures as if it were the published one.
    """
    trained = [one for one in found if one.policy(one.settings()).train_batches]
    without = [one.name for one in trained if one.published is None]
    if request.epochs == "published" and without:
        raise ValueError(
            f"expected methods with a published horizon beside --epochs published, got {', '.join(without)}: search "
            "these with --epochs NUMBER, in a command of their own"
        )


def method(name: str) -> Method:
    """Return the method of that name.

    Raises:
        ValueError: there is none.
    """
    found = find(name)
    if found is None:
        known, also = (*METHODS, *TABLE_METHODS), " or ".join(f"+{selection}" for selection in SELECTIONS)
        followed = [both for search in METHODS for selection in SELECTIONS if find(both := f"{search}+{selection}")]
        meant = difflib.get_close_matches(name.lower(), followed if "+" in name else known)
        hint = f"did you mean {' or '.join(meant)}?" if meant else f"there are {', '.join(known)}"
        expected = f"methods of docs/methods.md, a search with {also} behind it, or all"
        raise ValueError(f"expected {expected}, got {name!r}; {hint}")
    return found


def _fields(method: Method) -> set[str]:
    """Return the settings a method has, with those of its search."""
    own = {field.name for field in dataclasses.fields(method.settings)}
    return own if method.search is None else own | _fields(method.search)


class Variant(NamedTuple):
    """A method with one combination of the settings asked for, over its seeds.

    Attributes:
        changes: that combination, by method name.
        note: the settings in which it differs from the method's other variants, "" where it is the only one.
    """

    method: Method
    specs: tuple[RunSpec, ...]
    changes: Settings
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
        changes = {"*": first, method.name: second}
        runs = specs(bench, method, changes)
        found.setdefault(runs[0].signature, Variant(method, runs, changes, note))
    alone = len(found) == 1
    return [variant._replace(note="") if alone else variant for variant in found.values()]


def check_networks(bench: Bench, chosen: Sequence[Variant]) -> None:
    """Raise where a variant asks for a network that the space has not at the benchmark's size.

    Raises:
        ValueError: the first of them, with what to do.
    """
    fit: set[SupernetOptions] = set()
    for variant in chosen:
        spec = variant.specs[0]
        for options in variant.method.networks(spec.settings):
            if options in fit:
                continue
            try:
                check_network(bench, spec, options)
            except ValueError as error:
                raise ValueError(
                    f"{bench.space.name} {variant.label}: {error}; change it with --set {variant.method.name}.…, the "
                    "network with --channels or --cells, or leave the method out"
                ) from error
            fit.add(options)


def check_data(bench: Bench, chosen: Sequence[Variant]) -> None:
    """Raise where a variant asks for more images in a batch, a step, or for its own λ, than there are.

    Raises:
        ValueError: the first of them, with what to do.
    """
    for variant in chosen:
        try:
            setup.check_data(bench, variant.method, variant.specs[0])
        except ValueError as error:
            raise ValueError(
                f"{bench.space.name} {variant.label}: {error}; change it with --train-size, --batch-size or "
                "--probe-size, or leave the method out"
            ) from error


def check_settings(bench: Bench, chosen: Sequence[Variant]) -> None:
    """Raise where a setting that was asked for cannot be.

    Raises:
        ValueError: the first of them, with what to do.
    """
    for variant in chosen:
        if not any(variant.changes.get(name) for name in ("*", variant.method.name)):
            continue
        try:
            rehearse(bench, variant.method, variant.specs[0])
        except ValueError as error:
            raise ValueError(f"{variant.label}: {error}; change what --set says of it") from error


def specs(bench: Bench, method: Method, changes: Settings | None = None) -> tuple[RunSpec, ...]:
    """Return one specification a seed; `changes` are those asked for by default."""
    return stacked(bench, method, bench.request.set if changes is None else changes, bench.preset.seeds)


def stacked(bench: Bench, method: Method, changes: Settings, seeds: Sequence[int]) -> tuple[RunSpec, ...]:
    """Return the specifications of a stack, whose seeds need not be those asked for."""
    base = _seedless(bench, method, changes)
    return tuple(dataclasses.replace(base, seed=seed) for seed in seeds)


def _seedless(bench: Bench, method: Method, changes: Settings) -> RunSpec:
    """Return what the runs of a variant have in common, with seed 0."""
    preset = bench.preset
    settings = _everywhere(method, _defaults(method, preset), changes.get("*", {}))
    settings = replace_settings(settings, changes.get(method.name, {}))
    return RunSpec(
        benchmark=preset.name,
        space=bench.space.name,
        dataset=preset.dataset,
        data=bench.fingerprint,
        method=method.name,
        settings=settings,
        seed=0,
        epochs=_horizon(bench, method) if method.policy(settings).train_batches else 0,
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
        native=NativeSettings() if "native" in bench.request.metrics else None,
        precision=None if bench.request.precision == "fp32" else bench.request.precision,
    )


def _horizon(bench: Bench, method: Method) -> int:
    if bench.request.epochs != "published":
        return bench.preset.epochs
    assert method.published is not None  # `methods` has refused the others
    return method.published.epochs


def _ranking(bench: Bench) -> RankingProbe | None:
    if "ranking" not in bench.request.metrics:
        return None
    return dataclasses.replace(bench.preset.ranking, every=bench.request.ranking_every)


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
