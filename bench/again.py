"""Ended runs looked up in another table: their records with what it says about their cells, and names to go with it.

A run's name is the hash of its specification, the table's digest among it, so a run looked up anew has the name and,
but for clock times, every byte of the search that would have been made with that table. The runs are written beside
their places and then moved there, as `bench.merge` does it.
"""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from bench import choice, spaces
from bench.checkpoint import write_json
from bench.folders import merge, read_json
from bench.metrics.cell import Truth, looked_up
from bench.setup import table_facts
from bench.spec import run_name, signature
from bench.store import ENDS

COPIED = ("environment.json", "timing.jsonl", "attempts.jsonl", *ENDS)


class Tables:
    """The tables that runs are looked up in, each opened once."""

    def __init__(self, file: str | None, budget: int | None) -> None:
        if file is not None and not Path(file).exists():
            raise ValueError(f"expected a table at --table, found no file {file}")
        self.file, self.budget = file, budget
        self._opened: dict[tuple[str, str], Truth] = {}

    def of(self, spec: dict[str, Any]) -> Truth:
        """Return the table of a run's space and dataset.

        Raises:
            ValueError: there is none.
        """
        name, dataset = spec["space"], spec["dataset"]
        if (name, dataset) not in self._opened:
            space = spaces.get(name)
            path = choice.find_table(space, dataset) if self.file is None else choice.given_table(self.file, space)
            if path is None:
                raise ValueError(f"expected a table of {name} on {dataset}, found none; name one with --table FILE")
            self._opened[name, dataset] = choice.truth_in(path, space, dataset, self.budget)
        return self._opened[name, dataset]


class Found(NamedTuple):
    """What became of the runs of a folder.

    Attributes:
        left_out: the name of a run, and why it was not looked up.
    """

    done: int
    left_out: list[str]


def look_up(source: Path, target: Path, tables: Tables) -> Found:
    """Write to the target the runs of the source that can be looked up.

    Raises:
        ValueError: the source is no results folder, or is the target.
    """
    runs = sorted(path.parent for path in (source / "runs").glob("*/spec.json"))
    if not runs:
        raise ValueError(f"expected a results folder with runs/ in it, found none in {source}")
    if source.resolve() == target.resolve():
        raise ValueError(f"expected another folder than {source} at --into, got the same")
    area = target / "requeried"
    shutil.rmtree(area, ignore_errors=True)
    reasons = {run.name: _look_up(run, area, tables) for run in runs}
    left_out = [f"{name}: {reason}" for name, reason in reasons.items() if reason is not None]
    if len(left_out) < len(runs):
        left_out += map(str, merge([area], target).conflicts)
        shutil.rmtree(area)
    return Found(len(runs) - len(left_out), left_out)


def _look_up(run: Path, area: Path, tables: Tables) -> str | None:
    """Write a run with its cells looked up anew; return why it cannot be."""
    spec = read_json(run / "spec.json")
    if spec["ranking"] is not None:
        return "it measured the correlation of shared weights with its own table; search it again"
    if not any((run / name).exists() for name in ENDS):
        return "it has not ended; go on with it before its cells are looked up"
    try:
        truth = tables.of(spec)
    except ValueError as error:
        return str(error)
    del spec["signature"]
    spec |= {"table": truth.reference.digest, "budget": truth.reference.budget}
    named = {**spec, "signature": signature(spec)}
    folder = area / "runs" / run_name(spec["space"], spec["method"], spec["seed"], named["signature"])
    lines = (run / "records.jsonl").read_text(encoding="utf-8").splitlines()
    records = "".join(_line(json.loads(line), truth) for line in lines)
    if folder.exists():  # searched with two tables, which are one now
        same = (folder / "records.jsonl").read_text(encoding="utf-8") == records
        return None if same else f"another run of the folder, with other records, becomes {folder.name} too"
    folder.mkdir(parents=True)
    for name in COPIED:
        if (run / name).exists():
            shutil.copy2(run / name, folder / name)
    (folder / "records.jsonl").write_text(records, encoding="utf-8")
    write_json(folder / "table.json", table_facts(truth))
    write_json(folder / "spec.json", named)
    return None


def _line(record: dict[str, Any], truth: Truth) -> str:
    found = {} if record["key"] is None else looked_up(record["key"], truth)
    return json.dumps({**record, **found}, allow_nan=False) + "\n"
