"""The unit of work, one stack of runs, and what launchers do with it.

A unit is plain values: any process on any machine that has the data can search it. Nothing here enters a run's hash.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from bench.request import Request, Settings, read, spelled


@dataclass(frozen=True)
class Unit:
    """One stack of runs that is still to be searched.

    Attributes:
        request: what was asked for, with the benchmark decided; the data and the table are looked for again.
        method: its name.
        changes: one combination of the settings asked for, by method name.
        seeds: of the stack, in its order; an interrupted stack keeps those it was started with.
        stack: hash of the runs' signatures; a process that finds another one has other data and refuses.
        runs: names of the runs' folders, a seed each.
        note: the settings in which it differs from the method's other variants.
        resumes: whether there was a checkpoint when it was planned; the process that searches it looks again.
        fresh: whether records that are there are dropped first.
    """

    request: Request
    method: str
    changes: Settings
    seeds: tuple[int, ...]
    stack: str
    runs: tuple[str, ...]
    epochs: int
    note: str = ""
    resumes: bool = False
    fresh: bool = False

    @property
    def variant_label(self) -> str:
        """Return the method with the settings in which this variant differs from its others."""
        return f"{self.method}[{self.note}]" if self.note else self.method

    @property
    def label(self) -> str:
        """Return the name it is shown under, which no other unit of a command has."""
        return f"{self.request.space} {self.variant_label} seeds {','.join(map(str, self.seeds))}"

    def again(self) -> "Unit":
        """Return what a second attempt searches: never fresh, so that it goes on from the checkpoint of the first."""
        return dataclasses.replace(self, fresh=False)

    def absolute(self) -> "Unit":
        """Return what means the same in another working folder."""
        table = self.request.table
        path = table if table in {None, "none"} else str(Path(table).resolve())
        request = dataclasses.replace(self.request, results=self.request.results.resolve(), table=path)
        return dataclasses.replace(self, request=request)

    def plain(self) -> dict[str, Any]:
        """Return values that JSON can hold, which `unit` turns back."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        changes = {name: dict(inner) for name, inner in self.changes.items()}
        return {
            **fields,
            "request": spelled(self.request),
            "seeds": list(self.seeds),
            "runs": list(self.runs),
            "changes": changes,
        }


def unit(fields: dict[str, Any]) -> Unit:
    """Return the unit whose `plain` form this is."""
    sequences = {name: tuple(fields[name]) for name in ("seeds", "runs")}
    return Unit(**{**fields, **sequences, "request": read(fields["request"])})


@dataclass(frozen=True)
class Moment:
    """How far a unit is after an instant that was recorded and saved; plain values.

    Attributes:
        label: of the unit.
        text: losses, λ, accuracy, speed.
        last: whether it is the final record.
    """

    label: str
    epoch: int
    epochs: int
    text: str
    last: bool = False


class Unreachable(ValueError):
    """A cluster that was asked for cannot be used."""


Watch = Callable[[Moment], None]


@dataclass(frozen=True)
class Outcome:
    """What became of a unit; plain values.

    Attributes:
        label: of the unit.
        state: "refused" means that another process searches one of its runs, or that this one has other data.
        reason: one sentence, "" where it has finished.
        attempts: processes that have tried it in this command.
        diverged: names of the runs that have ended so; the others have finished.
    """

    label: str
    state: Literal["finished", "failed", "refused"]
    reason: str = ""
    attempts: int = 1
    diverged: tuple[str, ...] = ()


@runtime_checkable
class Launcher(Protocol):
    """Searches units somewhere."""

    def run(self, units: Sequence[Unit], watch: Watch) -> Iterator[Outcome]:
        """Yield what became of each unit, in the order in which they end.

        `watch` is told every recorded instant, from the calling thread. A process that dies is tried again a bounded
        number of times with `Unit.again`. KeyboardInterrupt passes: what is searched is ended, checkpoints stay.

        Raises:
            Unreachable: nothing can be searched there.
        """
        ...
