"""What a regression check compares: a few numbers a seed, from runs or from a small committed file.

A baseline file holds one entry a space and label (`selection.select`): the protocol that runs must share to be
compared, the versions that made it, and of every seed the quantities below and log₁₀|λ| at up to ten epochs.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from analysis.load import UNSAID, Run
from analysis.selection import ABSENT, protocol_columns
from analysis.stability import WINDOW, measured

FORMAT = 1
LOWEST = 1e-12
"""|λ| below this counts as this, so that a dead network has a logarithm."""
POINTS = 10
Name = tuple[str, str]
"""Space and label."""


@dataclass(frozen=True)
class Seed:
    """What is compared of one finished run; a float that does not exist is None.

    Attributes:
        level: natural logarithm of the mean |λ| over the last `WINDOW` epochs that have a λ.
        growth: Theil-Sen slope of ln|λ| over the epochs, times the epochs of the run: the logarithm of a factor.
        regret: test regret of the selected cell.
        missed: 1 where the selected cell is not in the table.
        lost: 1 where none of the last `WINDOW` epochs has a finite λ.
        trajectory: log₁₀|λ| at up to `POINTS` epochs, evenly spaced; for people, not compared.
    """

    level: float | None
    growth: float | None
    regret: float | None
    missed: float
    lost: float
    trajectory: tuple[float, ...] = ()


@dataclass(frozen=True)
class Entry:
    """The finished runs of one label on one space."""

    space: str
    label: str
    protocol: Mapping[str, str]
    versions: Mapping[str, str]
    seeds: Mapping[int, Seed]


def summarise(frame: pd.DataFrame, runs: Sequence[Run]) -> dict[Name, Entry]:
    """Return the entries of selected rows (`selection.select`); runs that have not finished are left out."""
    environments = {run.folder.name: run.environment for run in runs}
    found = {}
    for (space, label), group in frame[frame["finished"]].groupby(["space", "label"]):
        seeds = {int(rows["seed"].iloc[0]): of_run(rows) for _, rows in group.groupby("run")}
        versions = environments[group["run"].iloc[0]].get("versions") or {}
        found[str(space), str(label)] = Entry(str(space), str(label), _protocol(group), versions, seeds)
    return found


def of_run(run: pd.DataFrame) -> Seed:
    """Return the quantities of one run."""
    search = run[run["stage"] == "search"].sort_values("epoch")
    chosen = run[run["stage"] == "final"]
    final = (chosen if len(chosen) else search).iloc[-1]
    epochs, values = measured(search, "lambda_dominant")
    logarithms = np.log(np.maximum(np.abs(values), LOWEST))
    level, growth = of_trajectory(epochs, logarithms, float(run["epochs"].iloc[0]))
    return Seed(
        level=level,
        growth=growth,
        regret=rounded(final["regret_test"]),
        missed=float(final["miss"]),
        lost=float(not np.isfinite(search["lambda_dominant"].to_numpy(np.float64)[-WINDOW:]).any()),
        trajectory=_thinned(logarithms / math.log(10)),
    )


def of_trajectory(
    epochs: Float[np.ndarray, " epochs"], logarithms: Float[np.ndarray, " epochs"], span: float
) -> tuple[float | None, float | None]:
    """Return level and growth (`Seed`) of ln|λ| at some epochs of a run of `span` epochs."""
    if not len(logarithms):
        return None, None
    level = math.log(np.exp(logarithms[-WINDOW:]).mean())
    one, other = np.triu_indices(len(epochs), 1)
    slopes = (logarithms[other] - logarithms[one]) / (epochs[other] - epochs[one])
    return rounded(level), rounded(float(np.median(slopes)) * span if len(slopes) else None)


def _thinned(values: Float[np.ndarray, " epochs"]) -> tuple[float, ...]:
    if not len(values):
        return ()
    places = np.unique(np.linspace(0, len(values) - 1, POINTS).round().astype(int))
    return tuple(round(float(values[place]), 3) for place in places)


def rounded(value: float | None) -> float | None:
    """Return six significant digits, as they are stored, so that equal runs compare as equal."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def _protocol(group: pd.DataFrame) -> dict[str, str]:
    """Return the protocol and the settings of a label's runs.

    A killed run's missing table digest is no difference; nor is a field that is null, which says that something is off,
    from a field that older runs do not have.
    """
    names = [*protocol_columns(group), *(name for name in group.columns if name.startswith("settings."))]
    known = {name: group[name].dropna() for name in names}
    return {name: str(v.iloc[0]) for name, v in sorted(known.items()) if len(v) and v.iloc[0] != "null"}


def differing(before: Entry, after: Entry) -> str:
    """Return the protocol fields in which two entries differ, as a phrase; empty where they may be compared.

    A baseline older than a field means by its absence what a specification does that does not say it.
    """
    names = sorted({*before.protocol, *after.protocol})
    unsaid = {name: UNSAID.get(name.removeprefix("spec."), ABSENT) for name in names}
    pairs = {name: tuple(entry.protocol.get(name, unsaid[name]) for entry in (before, after)) for name in names}
    return ", ".join(f"{name.partition('.')[2] or name} ({a} → {b})" for name, (a, b) in pairs.items() if a != b)


def dumped(entries: Mapping[Name, Entry]) -> str:
    """Return a baseline file's text, one line a seed."""
    parts = [_dumped(entries[name]) for name in sorted(entries)]
    return f'{{"format": {FORMAT}, "entries": [\n' + ",\n".join(parts) + "\n]}\n"


def _dumped(entry: Entry) -> str:
    head = {"space": entry.space, "label": entry.label, "protocol": entry.protocol, "versions": entry.versions}
    seeds = [f"  {json.dumps(str(number))}: {json.dumps(asdict(one))}" for number, one in sorted(entry.seeds.items())]
    return json.dumps(head, indent=1, ensure_ascii=False)[:-2] + ',\n "seeds": {\n' + ",\n".join(seeds) + "\n }\n}"


def load(path: Path) -> dict[Name, Entry]:
    """Read a baseline file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no baseline file of this format.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"expected a baseline in {path}, got no JSON ({error})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"expected a baseline of format {FORMAT} in {path}; write one with --update")
    try:
        entries = [_entry(fields) for fields in content["entries"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is a damaged baseline ({error!r}); write it again with --update") from error
    return {(entry.space, entry.label): entry for entry in entries}


def _entry(fields: Mapping[str, Any]) -> Entry:
    seeds = {int(n): Seed(**(one | {"trajectory": tuple(one["trajectory"])})) for n, one in fields["seeds"].items()}
    return Entry(fields["space"], fields["label"], fields["protocol"], fields["versions"], seeds)
