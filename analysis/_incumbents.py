"""Incumbent curves of table-only search: regret against simulated time, median and quartiles over repetitions."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis import _page, _panels
from analysis._endings import ended
from analysis.load import flat, text
from analysis.selection import SPACES
from analysis.style import MEAN_PT, styles

log = logging.getLogger(__name__)

POINTS = 200
"""Places at which a curve is drawn, evenly in the logarithm of the time."""
SPLITS = {"val": "validation regret", "test": "test regret"}
PROTOCOL = ("queries", "budget_s", "fitness", "table", "budget")
"""Fields of a specification in which the searches of a panel agree."""


@dataclass(frozen=True)
class Search:
    """One method's repetitions on one table.

    Attributes:
        label: the method, with `[field=value]` for settings in which searches of it in one panel differ.
    """

    name: str
    label: str
    spec: Mapping[str, Any]
    table: Mapping[str, Any]
    records: tuple[Mapping[str, Any], ...]

    @property
    def panel(self) -> tuple[str, str]:
        return self.spec["space"], self.spec["dataset"]

    @property
    def timed(self) -> bool:
        return all(record["curve"]["simulated_s"] is not None for record in self.records)


def searches(results: Path) -> list[Search]:
    """Return the finished searches under `results`/tabular/runs, by name."""
    found = []
    for folder in sorted((results / "tabular" / "runs").glob("*")):
        if not ended(folder, "finished.json"):
            log.warning("left out %s: it has not finished", folder)
            continue
        spec, table = (json.loads((folder / f"{name}.json").read_text("utf-8")) for name in ("spec", "table"))
        lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
        found.append(Search(folder.name, spec["method"], spec, table, tuple(json.loads(line) for line in lines)))
    return found


def select(
    found: Sequence[Search], spaces: Sequence[str], methods: Sequence[str], where: Mapping[str, Sequence[str]]
) -> list[Search]:
    """Return the chosen searches with their labels; a field of `where` that a search has not does not choose it out.

    Raises:
        ValueError: there are none, or those of a panel must not stand together.
    """
    kept = [search for search in found if _chosen(search, spaces, methods, where)]
    if not kept:
        raise ValueError("no finished table search meets the choice; python -m bench.run --methods tabular makes some")
    labelled = []
    for panel in panels(kept):
        labelled += _labelled([search for search in kept if search.panel == panel])
    return labelled


def _chosen(search: Search, spaces: Sequence[str], methods: Sequence[str], where: Mapping[str, Sequence[str]]) -> bool:
    fields = _fields(search)
    named = all(fields[name] in values for name, values in where.items() if name in fields)
    return (not spaces or search.spec["space"] in spaces) and (not methods or search.label in methods) and named


def _fields(search: Search) -> dict[str, str]:
    """Return the specification's fields as text, settings without their prefix."""
    return {name.removeprefix("settings."): text(value) for name, value in flat(search.spec).items() if name != "seeds"}


def _labelled(panel: list[Search]) -> list[Search]:
    """Return the searches of a panel with labels that tell them apart."""
    for name in PROTOCOL:
        values = sorted({text(search.spec[name]) for search in panel})
        if len(values) > 1:
            raise ValueError(
                f"table searches on {', '.join(panel[0].panel)} differ in {name}: {', '.join(values)}; choose with "
                f"--where {name}={values[0]}"
            )
    made: list[Search] = []
    for search in panel:
        same = [other for other in panel if other.spec["method"] == search.spec["method"]]
        fields = {name: value for name, value in _fields(search).items() if name != "signature"}
        differing = [n for n, v in fields.items() if any(_fields(other).get(n) != v for other in same)]
        note = ", ".join(f"{name}={fields[name]}" for name in differing)
        label = f"{search.label}[{note}]" if note else search.label
        if any(label == other.label for other in made):
            raise ValueError(
                f"two table searches are {label} and differ in their seeds: choose with --where signature=…"
            )
        made.append(Search(search.name, label, search.spec, search.table, search.records))
    return made


def panels(found: Sequence[Search]) -> list[tuple[str, str]]:
    """Return the spaces and datasets there are, known spaces first."""
    every = {search.panel for search in found}
    return sorted(every, key=lambda p: (SPACES.index(p[0]) if p[0] in SPACES else len(SPACES), p))


def regrets(search: Search, split: str, times: Float[np.ndarray, " times"]) -> Float[np.ndarray, "seeds times"]:
    """Return the regret of each repetition's incumbent at some times; NaN before the first, and where it is a miss.

    Times are simulated seconds, or numbers of queries where the table has no times.
    """
    best = search.table["optimum"][split]
    rows = []
    for record in search.records:
        curve = record["curve"]
        moments = np.array(curve["simulated_s"] if search.timed else curve["query"], dtype=np.float64)
        values = np.array([np.nan if v is None else best - v for v in curve[f"{split}_mean"]], dtype=np.float64)
        place = np.searchsorted(moments, times, side="right")
        rows.append(np.append(np.nan, values)[place])
    return np.array(rows)


def quartiles(values: Float[np.ndarray, "seeds times"]) -> Float[np.ndarray, "three times"]:
    """Return lower quartile, median and upper quartile over the repetitions; NaN where one of them has no value."""
    return np.quantile(values, [0.25, 0.5, 0.75], axis=0)


def times(found: Sequence[Search]) -> Float[np.ndarray, " times"]:
    """Return the places at which the curves of a panel are drawn: from the first incumbent to the last query."""
    firsts, lasts = [], []
    for search in found:
        name, end = ("simulated_s", "simulated_s") if search.timed else ("query", "queries")
        firsts += [record["curve"][name][0] for record in search.records if record["curve"][name]]
        lasts += [record[end] for record in search.records]
    if not firsts:
        raise ValueError("no repetition of the chosen table searches has an incumbent")
    return np.geomspace(max(min(firsts), 1e-9), max(lasts), POINTS)


def caption(found: Sequence[Search]) -> str:
    """Return what stands below the figure."""
    counts = sorted({len(search.records) for search in found})
    budgets = "/".join(sorted({text(search.spec["budget"]) for search in found}))
    spent = "; ".join(dict.fromkeys(f"{', '.join(s.panel)}: {_budget(s)}, {s.table['rows']} cells" for s in found))
    n = "/".join(map(str, counts))
    return (
        "Best mean accuracy in the table minus that of the incumbent, the best fitness so far at the largest budget "
        f"seen, against simulated training time. Lines: medians; bands: quartiles over n = {n} repetitions, from where "
        "all of them have a tabulated incumbent. Fitness: one stored validation run a query at the method's own "
        f"budgets; accuracies: table budget {budgets}. Spent ({spent})."
    )


def _budget(search: Search) -> str:
    queries, seconds = search.spec["queries"], search.spec["budget_s"]
    parts = [f"{queries} queries" if queries else "", f"{seconds:,.0f} simulated s" if seconds else ""]
    return " and ".join(part for part in parts if part)


def draw(found: Sequence[Search], below: str) -> Figure:
    """Return the figure of selected searches above a text."""
    look = styles(search.label for search in found)
    handles = [_panels.handle(label, style) for label, style in look.items()]
    places = panels(found)
    made = _page.page(len(SPLITS), len(places), list(look), below)
    for place, axes in zip(places, made.axes.T, strict=True):
        axes[0].set_title(", ".join(place))
        _draw_panel(list(axes), [search for search in found if search.panel == place], look)
    return _page.finish(made, handles)


def _draw_panel(axes: list[Axes], found: list[Search], look: _panels.Styles) -> None:
    grid = times(found)
    for ax, (split, title) in zip(axes, SPLITS.items(), strict=True):
        for search in sorted(found, key=lambda one: list(look).index(one.label)):
            low, middle, high = quartiles(regrets(search, split, grid))
            style = look[search.label]
            ax.plot(grid, middle, color=style.colour, linestyle=style.line, linewidth=MEAN_PT, zorder=3)
            fade = _panels.BAND_ALPHA * _panels.fading(look)
            ax.fill_between(grid, low, high, color=style.colour, alpha=fade, linewidth=0)
        _panels.name(ax, "simulated s" if all(search.timed for search in found) else "queries", title)
        _panels.scale(ax, _panels.REGRET_THRESHOLD)
        _scale_times(ax, grid)
        ax.set_ylim(0, None)


def _scale_times(ax: Axes, grid: Float[np.ndarray, " points"]) -> None:
    """Make the horizontal axis logarithmic, with plain numbers that do not touch, at least two."""
    ax.set_xscale("log")
    subs = (1.0, 2.0, 5.0) if grid[-1] < 100 * grid[0] else (1.0,)
    ax.xaxis.set_major_locator(LogLocator(subs=subs))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
