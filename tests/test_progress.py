"""One view of all units: bars on a terminal, plain lines elsewhere."""

import io
from itertools import pairwise

import pytest
from rich.console import Console

from bench import progress
from bench.launch.unit import Moment
from bench.progress import view


def moments(label: str, epochs: int) -> list[Moment]:
    searched = [Moment(label, epoch, epochs, f"epoch {epoch}/{epochs}") for epoch in range(epochs + 1)]
    return [*searched, Moment(label, epochs, epochs, f"epoch {epochs}/{epochs} final", last=True)]


def shown(terminal: bool, told: list[Moment], units: int) -> str:
    text = io.StringIO()
    with view(Console(file=text, force_terminal=terminal, width=100, markup=False), units) as watch:
        for moment in told:
            watch(moment)
    return text.getvalue()


def mixed() -> list[Moment]:
    """Two units that run at once."""
    pairs = zip(moments("toy darts[lr=1] seeds 0", 3), moments("toy gdas seeds 0", 3), strict=True)
    return [moment for pair in pairs for moment in pair]


def test_a_terminal_shows_a_bar_for_each_unit_and_how_many_have_ended() -> None:
    printed = shown(True, mixed()[:-1], 2)
    last = printed[printed.rindex("units") :]
    assert "1/2" in last
    assert "toy gdas seeds 0" in last
    assert "toy darts" not in last
    assert "toy darts[lr=1] seeds 0" in shown(True, mixed()[:-2], 2)


def test_one_unit_has_no_bar_of_all() -> None:
    assert "units" not in shown(True, moments("toy gdas seeds 0", 3), 1)


def test_lines_are_of_the_unit_they_name_and_left_is_of_its_own_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 5))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    lines = shown(False, mixed(), 2).splitlines()
    for label in ("toy darts[lr=1] seeds 0", "toy gdas seeds 0"):
        own = [line.removeprefix(label).split("  ")[1:] for line in lines if line.startswith(label)]
        assert [parts[0] for parts in own] == [f"epoch {n}/3" for n in range(4)] + ["epoch 3/3 final"]
        assert [parts[1:] for parts in own] == [[], ["20 s left"], ["10 s left"], ["0 s left"], ["0 s left"]]
    assert all(one.split()[1] != other.split()[1] for one, other in pairwise(lines))
