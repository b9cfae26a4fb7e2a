"""What a user asks for: the options of `python -m bench.run`, from the command line or a YAML file."""

import argparse
import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from bench.spaces import SPACES

Settings = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Request:
    """One command; None leaves a field to the benchmark's preset.

    Attributes:
        methods: names, ("all",) for every method that trains a supernet, ("tabular",) for every table-only one.
        benchmark: "auto", "paper" or "embedded".
        table: a file; "none" runs without accuracies.
        set: method name to dotted settings.
        replicas: most seeds in one stack.
        queries, budget_s: what a repetition of a table-only method may spend: cells, simulated seconds.
        fitness_budget: training epochs of the accuracy that table-only methods see.
        metrics: what is measured besides λ: "ranking".
        landscape: whether slices of the loss are measured after the last epoch.
        ranking_every: epochs from one ranking to the next; None: after the last epoch only.
        tensorboard: whether curves are written for TensorBoard too.
    """

    space: str
    methods: tuple[str, ...] = ("all",)
    seeds: tuple[int, ...] | None = None
    epochs: int | None = None
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
    replicas: int | None = None
    curvature: str | None = None
    curvature_every: int = 1
    metrics: tuple[str, ...] = ()
    ranking_every: int | None = None
    queries: int | None = None
    budget_s: float | None = None
    fitness_budget: int | None = None
    set: Settings = field(default_factory=dict)
    results: Path = Path("results")
    landscape: bool = False
    tensorboard: bool = False
    fresh: bool = False
    dry_run: bool = False


def parse(arguments: Sequence[str]) -> Request:
    """Return the request; options on the command line win over those of the file.

    Raises:
        ValueError: an option is unknown or its value does not fit.
    """
    given = {name: value for name, value in vars(_parser().parse_args(arguments)).items() if value is not None}
    path = given.pop("config", None)
    fields = {} if path is None else _read(Path(path))
    fields["set"] = _merge(_given(fields.get("set", {})), _assignments(given.pop("set", [])))
    fields.update(given)
    if "space" not in fields:
        raise ValueError(f"expected --space, one of {', '.join(SPACES)}, got none")
    return _checked(fields)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see python -m bench.run --help")


class _Yaml(yaml.SafeLoader):
    """Plain values as in YAML 1.2: 1e-3 is a number, off is a word, 1:4 is not base 60."""


_Yaml.yaml_implicit_resolvers = {}
for _tag, _form, _first in (
    ("null", r"~|null|None", "~nN"),
    ("bool", r"true|false|True|False", "tfTF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)", "-+.0123456789"),
):
    _Yaml.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_form})$"), list(_first))
_Yaml.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("$"), [""])


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m bench.run",
        description="Search with every method, record true accuracy and curvature.",
        allow_abbrev=False,
    )
    text: dict[str, str] = {
        "space": f"search space: {', '.join(SPACES)}",
        "methods": "all (that train a supernet), tabular (all that search a table), or names separated by commas; "
        "darts+perturbation searches and then selects",
        "seeds": "a range 0:4 or a list 0,2,5",
        "benchmark": "auto, paper (CIFAR-10, official table, published sizes) or embedded (digits, small, offline)",
        "dataset": "cifar10 or digits",
        "table": "benchmark table (.arrow, .parquet, .csv), or none to run without accuracies",
        "device": "cpu, cuda, cuda:1",
        "curvature": "power (iteration), lanczos (fewer products), exact (whole spectrum every epoch) or off",
        "metrics": "ranking: how well shared weights rank cells, against the table",
        "results": "folder the runs are written to",
        "config": "YAML file that spells the same options",
    }
    numbers: dict[str, str] = {
        "epochs": "total budget; schedules scale with it",
        "budget": "training epochs of the table's accuracies",
        "train_size": "images of both halves together",
        "channels": "channels of the first stage",
        "cells": "cells a stage",
        "batch_size": "images a batch",
        "probe_size": "images the Hessian is measured on",
        "threads": "CPU threads",
        "replicas": "most seeds searched as one stack",
        "curvature_every": "epochs from one measurement of curvature to the next",
        "ranking_every": "epochs from one measurement of --metrics ranking to the next; without: after the last epoch",
        "queries": "cells a repetition of a table-only method may ask for",
        "fitness_budget": "training epochs of the accuracy that table-only methods see",
    }
    for name, about in text.items():
        parser.add_argument(f"--{name.replace('_', '-')}", help=about, default=None)
    for name, about in numbers.items():
        parser.add_argument(f"--{name.replace('_', '-')}", help=about, default=None, type=int)
    parser.add_argument("--budget-s", help="simulated seconds a repetition may spend", default=None, type=float)
    parser.add_argument(
        "--set",
        action="append",
        metavar="METHOD.NAME=VALUE",
        help="change a setting of a method; a,b,c searches with each",
    )
    parser.add_argument(
        "--landscape",
        action="store_true",
        default=None,
        help="slices of the loss after the last epoch, along λ's vector",
    )
    parser.add_argument(
        "--tensorboard", action="store_true", default=None, help="curves for TensorBoard, under results/tensorboard"
    )
    parser.add_argument("--fresh", action="store_true", default=None, help="start again, dropping these runs' records")
    parser.add_argument("--dry-run", action="store_true", default=None, help="print what would run, without training")
    return parser


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"expected a YAML file at --config, found none at {path}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"expected YAML in {path}, got a file that is not text") from error
    fields = _yaml(text, str(path))
    if not isinstance(fields, dict):
        raise ValueError(f"expected 'option: value' lines in {path}, got {type(fields).__name__}")
    return {str(name).replace("-", "_"): value for name, value in fields.items()}


def _yaml(text: str, place: str) -> Any:
    try:
        return yaml.load(text, _Yaml)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"expected YAML in {place}, got: {' '.join(str(error).split())}") from error


def _assignments(items: Sequence[str]) -> dict[str, dict[str, Any]]:
    changes: dict[str, dict[str, Any]] = {}
    for item in items:
        path, equals, value = item.partition("=")
        method, dot, name = path.partition(".")
        if not (equals and dot and name):
            raise ValueError(f"expected --set method.name=value, got {item!r}")
        changes.setdefault(method, {})[name] = _yaml(value, f"--set {item}")
    return changes


def grid(changes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every combination of changes in which `a,b,c` stands for one of several values.

    The last change varies fastest; a list in brackets is one value.
    """
    options = [_several(name, value) for name, value in changes.items()]
    return [dict(zip(changes, combination, strict=True)) for combination in itertools.product(*options)]


def _several(name: str, value: Any) -> list[Any]:
    if not (isinstance(value, str) and "," in value):
        return [value]
    return [_yaml(part.strip(), f"--set {name}={value}") for part in value.split(",") if part.strip()]


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
    numbers = ("epochs", "train_size", "channels", "cells", "batch_size", "probe_size", "threads", "replicas")
    for name in (*numbers, "curvature_every", "ranking_every", "budget", "queries", "fitness_budget"):
        value = fields.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"expected a positive whole number for {name}, got {value!r}")
    if not isinstance(seconds := fields.get("budget_s", 1.0), int | float) or not 0 < seconds < math.inf:
        raise ValueError(f"expected a positive number of seconds for budget_s, got {seconds!r}")
    for name in ("space", "benchmark", "dataset", "table", "device", "curvature", "results"):
        if not isinstance(fields.get(name, ""), str):
            raise ValueError(f"expected text for {name}, got {fields[name]!r}")
    for name in ("landscape", "tensorboard", "fresh", "dry_run"):
        if not isinstance(fields.get(name, False), bool):
            raise ValueError(f"expected true or false for {name}, got {fields[name]!r}")
    for name, allowed in (
        ("benchmark", ("auto", "paper", "embedded")),
        ("curvature", ("power", "lanczos", "exact", "off")),
    ):
        if fields.get(name, allowed[0]) not in allowed:
            raise ValueError(f"expected {name} out of {', '.join(allowed)}, got {fields[name]!r}")
    fields["methods"] = _names(fields.get("methods", "all"))
    fields["metrics"] = _metrics(fields.get("metrics", ()), "ranking_every" in fields)
    if "seeds" in fields:
        fields["seeds"] = _seeds(fields["seeds"])
    if "results" in fields:
        fields["results"] = Path(fields["results"])
    return Request(**fields)


def _names(value: Any) -> tuple[str, ...]:
    names = tuple(str(name).strip() for name in (value if isinstance(value, list) else str(value).split(",")))
    names = tuple(dict.fromkeys(name for name in names if name))
    if not names:
        raise ValueError(f"expected methods like all or darts,random_ws, got {value!r}")
    return ("all",) if "all" in names else names


def _metrics(value: Any, ranking_every: bool) -> tuple[str, ...]:
    listed = value if isinstance(value, list | tuple) else str(value).split(",")
    names = tuple(dict.fromkeys(str(name).strip() for name in listed))
    if not set(names) <= {"ranking"}:
        raise ValueError(f"expected metrics out of ranking, got {value!r}")
    if ranking_every and not names:
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
