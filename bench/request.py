"""What a user asks for: the options of `python -m bench.run`, from the command line or a YAML file."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench import options, plain_yaml, precision
from bench.spaces import SPACES

Settings = Mapping[str, Mapping[str, Any]]

LAUNCHERS = ("local", "ray", "slurm")
ONLY = {
    "ray": ("address", "unit_gpus", "shared"),
    "slurm": ("partition", "gres", "time", "sbatch"),
}
"""Options that mean something to one launcher only."""


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
    _check_numbers(fields)
    for name in (
        *("space", "benchmark", "dataset", "table", "device", "curvature", "precision", "results"),
        *("address", "partition", "gres", "time"),
    ):
        if not isinstance(fields.get(name, ""), str):
            raise ValueError(f"expected text for {name}, got {fields[name]!r}")
    for name in ("landscape", "tensorboard", "fresh", "dry_run", "shared", "cuda_graphs"):
        if not isinstance(fields.get(name, False), bool):
            raise ValueError(f"expected true or false for {name}, got {fields[name]!r}")
    for name, allowed in (
        ("benchmark", ("auto", "paper", "embedded")),
        ("curvature", ("power", "lanczos", "exact", "off")),
        ("launcher", LAUNCHERS),
        ("precision", precision.NAMES),
    ):
        if fields.get(name, allowed[0]) not in allowed:
            raise ValueError(f"expected {name} out of {', '.join(allowed)}, got {fields[name]!r}")
    _check_launcher(fields)
    fields["methods"] = _names(fields.get("methods", "all"))
    fields["metrics"] = _metrics(fields.get("metrics", ()), "ranking_every" in fields)
    if "seeds" in fields:
        fields["seeds"] = _seeds(fields["seeds"])
    if "results" in fields:
        fields["results"] = Path(fields["results"])
    return Request(**fields)


def _check_numbers(fields: Mapping[str, Any]) -> None:
    for name in (
        *("epochs", "train_size", "channels", "cells", "batch_size", "probe_size", "threads", "replicas"),
        *("curvature_every", "curvature_replicas", "ranking_every", "budget", "queries", "fitness_budget", "jobs"),
    ):
        word = options.WORDS[name][0] if name in options.WORDS else None
        if word is None or fields.get(name) != word:
            _check_whole(name, fields.get(name, 1), "" if word is None else f" or {word}")
    if type(retries := fields.get("retries", 0)) is not int or retries < 0:
        raise ValueError(f"expected a whole number from 0 on for retries, got {retries!r}")
    if not isinstance(seconds := fields.get("budget_s", 1.0), int | float) or not 0 < seconds < math.inf:
        raise ValueError(f"expected a positive number of seconds for budget_s, got {seconds!r}")


def _check_whole(name: str, value: Any, other: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"expected a positive whole number{other} for {name}, got {value!r}")


def _check_launcher(fields: dict[str, Any]) -> None:
    launcher = fields.get("launcher", "local")
    for other, names in ONLY.items():
        given = [name for name in names if fields.get(name)]
        if given and launcher != other:
            raise ValueError(f"expected --launcher {other} beside {given[0]}, got {launcher}")
    for name, least in (("unit_cpus", "more than 0"), ("unit_gpus", "from 0 on")):
        value = fields.get(name, 1.0)
        if type(value) not in {int, float} or not 0 <= value < math.inf or (name == "unit_cpus" and value == 0):
            raise ValueError(f"expected a number {least} for {name}, got {value!r}")
        if name in fields:
            fields[name] = float(value)
    if fields.get("replicas") == "auto" and launcher != "local":
        raise ValueError(f"expected a number for --replicas beside --launcher {launcher}: its machines are not tried")
    if launcher == "slurm" and not float(fields.get("unit_cpus", 1.0)).is_integer():
        raise ValueError(f"expected whole CPUs for unit_cpus with --launcher slurm, got {fields['unit_cpus']!r}")
    more = fields.get("sbatch", {})
    if not (isinstance(more, dict) and all(isinstance(part, str) for item in more.items() for part in item)):
        raise ValueError(f"expected 'sbatch: {{name: value}}' with text, got {more!r}")


def _names(value: Any) -> tuple[str, ...]:
    names = tuple(str(name).strip() for name in (value if isinstance(value, list) else str(value).split(",")))
    names = tuple(dict.fromkeys(name for name in names if name))
    if not names:
        raise ValueError(f"expected methods like all or darts,random_ws, got {value!r}")
    return ("all",) if "all" in names else names


def _metrics(value: Any, ranking_every: bool) -> tuple[str, ...]:
    listed = value if isinstance(value, list | tuple) else str(value).split(",")
    names = tuple(dict.fromkeys(str(name).strip() for name in listed))
    if not set(names) <= {"ranking", "native"}:
        raise ValueError(f"expected metrics out of ranking, native, got {value!r}")
    if ranking_every and "ranking" not in names:
        raise ValueError("expected --metrics ranking beside --ranking-every, got none")
    return names


def _seeds(value: Any) -> tuple[int, ...]:
    try:
        if isinstance(value, str) and ":" in value:
            first, last = value.split(":")
            seeds = tuple(range(int(first or 0), int(last)))
        else:
            seeds = tuple(int(str(part)) for part in (value if isinstance(value, list) else str(value).split(",")))
    except ValueError:
        seeds = ()
    if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise ValueError(f"expected seeds like 0:4 or 0,2,5, got {value!r}")
    return seeds
