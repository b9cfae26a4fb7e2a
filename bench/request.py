"""What a user asks for: the options of `python -m bench.run`, from the command line or a YAML file."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench import options, plain_yaml
from bench.checks import checked
from bench.spaces import SPACES

Settings = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Request:
    """One command; None leaves a field to the benchmark's preset.

    Attributes:
        space: its name; several, separated by commas, until `one_space` has parted them.
        methods: names, ("all",) for every method that trains a supernet, ("tabular",) for every table-only one.
        benchmark: "auto", "paper" or "embedded".
        epochs: "published": each method's own, as its registry entry says.
        table: a file; "none" runs without accuracies.
        set: method name to dotted settings.
        replicas: most seeds in one stack; "auto": as many as a trial shows to fit.
        queries, budget_s: what a repetition of a table-only method may spend: cells, simulated seconds.
        fitness_budget: training epochs of the accuracy that table-only methods see.
        metrics: what is measured besides λ: "ranking", "native".
        precision: of the steps: "fp32", "tf32", "bf16".
        cuda_graphs: whether steps are recorded and played (`bench.replay`).
        kernels: of passes that are differentiated once: "torch", "triton", "triton-all" (`bench.fused`).
        landscape: whether slices of the loss are measured after the last epoch.
        ranking_every: epochs from one ranking to the next; None: after the last epoch only.
        tensorboard: whether curves are written for TensorBoard too.
        launcher: where the stacks are searched: "local", "ray", "slurm".
        jobs, threads: processes that search stacks at once, CPU threads of each; None: see `bench.cores`.
        retries: how often a stack is tried again whose process died.
        address: of a Ray cluster; None: RAY_ADDRESS, or one that is started for the command.
        unit_cpus, unit_gpus: what Ray or Slurm gives a stack; fractions with Ray.
        shared: whether every machine of the Ray cluster sees `results` under this path.
        partition, gres, time: of Slurm's jobs; `time` in one of Slurm's forms.
        sbatch: further options of sbatch.
    """

    space: str
    methods: tuple[str, ...] = ("all",)
    seeds: tuple[int, ...] | None = None
    epochs: int | Literal["published"] | None = None
    benchmark: str = "auto"
    dataset: str | None = None
    table: str | None = None
    budget: int | None = None
    train_size: int | None = None
    channels: int | None = None
    cells: int | None = None
    batch_size: int | None = None
    probe_size: int | None = None
    device: str | None = None
    threads: int | None = None
    replicas: int | Literal["auto"] | None = None
    curvature: str | None = None
    curvature_every: int = 1
    curvature_replicas: int | None = None
    metrics: tuple[str, ...] = ()
    ranking_every: int | None = None
    queries: int | None = None
    budget_s: float | None = None
    fitness_budget: int | None = None
    set: Settings = field(default_factory=dict)
    precision: str = "fp32"
    kernels: str = "torch"
    results: Path = Path("results")
    landscape: bool = False
    tensorboard: bool = False
    fresh: bool = False
    dry_run: bool = False
    cuda_graphs: bool = False
    launcher: str = "local"
    jobs: int | None = None
    retries: int = 2
    address: str | None = None
    unit_cpus: float = 1.0
    unit_gpus: float = 0.0
    shared: bool = False
    partition: str | None = None
    gres: str | None = None
    time: str | None = None
    sbatch: Mapping[str, str] = field(default_factory=dict)


def parse(arguments: Sequence[str]) -> Request:
    """Return the request; options on the command line win over those of the file.

    Raises:
        ValueError: an option is unknown or its value does not fit.
    """
    given = {name: value for name, value in vars(options.parser().parse_args(arguments)).items() if value is not None}
    path = given.pop("config", None)
    fields = {} if path is None else plain_yaml.options(Path(path))
    fields["set"] = _merge(_given(fields.get("set", {})), _assignments(given.pop("set", [])))
    if "sbatch" in given:
        given["sbatch"] = dict(_pair(item) for item in given["sbatch"])
    fields.update(given)
    if "space" not in fields:
        raise ValueError(f"expected --space, one of {', '.join(SPACES)}, got none")
    return _checked(fields)


def one_space(request: Request) -> list[Request]:
    """Return the request of each space that is asked for.

    Raises:
        ValueError: there is none.
    """
    names = [name for part in request.space.split(",") if (name := part.strip())]
    if not names:
        raise ValueError(f"expected --space like s1 or s1,s2, got {request.space!r}")
    return [dataclasses.replace(request, space=name) for name in dict.fromkeys(names)]


def spelled(request: Request) -> dict[str, Any]:
    """Return the request as values that JSON can hold, without those that were not given."""
    fields = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    fields |= {"results": str(request.results), "set": {name: dict(inner) for name, inner in request.set.items()}}
    fields |= {name: list(value) for name, value in fields.items() if isinstance(value, tuple)}
    return {name: value for name, value in fields.items() if value is not None}


def read(fields: Mapping[str, Any]) -> Request:
    """Return the request that is spelled so.

    Raises:
        ValueError: a value does not fit.
    """
    return _checked(dict(fields))


def _assignments(items: Sequence[str]) -> dict[str, dict[str, Any]]:
    changes: dict[str, dict[str, Any]] = {}
    for item in items:
        path, equals, value = item.partition("=")
        method, dot, name = path.partition(".")
        if not (equals and dot and name):
            raise ValueError(f"expected --set method.name=value, got {item!r}")
        changes.setdefault(method, {})[name] = plain_yaml.value(value, f"--set {item}")
    return changes


def _pair(item: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not (name and equals and value):
        raise ValueError(f"expected --sbatch NAME=VALUE, got {item!r}")
    return name, value


def grid(changes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every combination of changes in which `a,b,c` stands for one of several values.

    The last change varies fastest; a list in brackets is one value.
    """
    several = [_several(name, value) for name, value in changes.items()]
    return [dict(zip(changes, combination, strict=True)) for combination in itertools.product(*several)]


def _several(name: str, value: Any) -> list[Any]:
    if not (isinstance(value, str) and "," in value):
        return [value]
    return [plain_yaml.value(part.strip(), f"--set {name}={value}") for part in value.split(",") if part.strip()]


def _given(value: Any) -> Settings:
    """Return the settings of a file."""
    if _named(value) and all(_named(changes) for changes in value.values()):
        return value
    raise ValueError(f"expected 'set: {{method: {{name: value}}}}', got {value!r}")


def _named(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)


def _merge(first: Settings, second: Settings) -> dict[str, dict[str, Any]]:
    return {method: {**first.get(method, {}), **second.get(method, {})} for method in {**first, **second}}


def _checked(fields: dict[str, Any]) -> Request:
    known = {field.name for field in dataclasses.fields(Request)}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise ValueError(f"expected options out of {', '.join(sorted(known))}, got {', '.join(unknown)}")
    return Request(**checked(fields))
