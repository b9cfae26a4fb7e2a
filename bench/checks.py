"""Whether the values of options fit: what `bench.request` asks of a command line or a YAML file."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import kernels, options, precision
from bench.command import seeds_of

LAUNCHERS = ("local", "ray", "slurm")
ONLY = {
    "ray": ("address", "unit_gpus", "shared"),
    "slurm": ("partition", "gres", "time", "sbatch"),
}
"""Options that mean something to one launcher only."""


def checked(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a request as it holds them.

    Raises:
        ValueError: a value does not fit.
    """
    _check_numbers(fields)
    if isinstance(spaces := fields.get("space"), list) and all(isinstance(name, str) for name in spaces):
        fields["space"] = ",".join(spaces)
    for name in (
        *("space", "benchmark", "dataset", "table", "device", "curvature", "precision", "kernels", "results"),
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
        ("kernels", kernels.NAMES),
    ):
        if fields.get(name, allowed[0]) not in allowed:
            raise ValueError(f"expected {name} out of {', '.join(allowed)}, got {fields[name]!r}")
    _check_launcher(fields)
    fields["methods"] = _names(fields.get("methods", "all"))
    fields["metrics"] = _metrics(fields.get("metrics", ()), "ranking_every" in fields)
    if "seeds" in fields:
        fields["seeds"] = seeds_of(fields["seeds"])
    if "results" in fields:
        fields["results"] = Path(fields["results"])
    return fields


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
