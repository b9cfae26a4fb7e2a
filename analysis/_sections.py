"""Sections of the report: what was run, what went wrong, figures, tables, every run, environments.

Runs come in parts that may each stand in one panel (`selection.select_by_dataset`); where there are several, titles say
of which dataset each is.
"""

import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from html import escape

import numpy as np
import pandas as pd

from analysis import _caption, _datasets, _html, _page, figures
from analysis._ablation import studies
from analysis._contents import percent, significant, whole
from analysis.figures import Parts
from analysis.load import Run
from analysis.selection import space_order
from analysis.stability import per_run
from analysis.style import CROWD, SINGLE_COLUMN_IN, context
from analysis.tables import DEFAULT, sheets
from analysis.typeset import Cell, Sheet

NAMES = {
    "eigenvalues": "Dominant eigenvalue", "regret": "Regret", "alpha_distance": "Distance of the logits",
    "landscape": "Slices of the validation loss",
    "lambda_regret": "λ against regret", "profile": "Performance profile", "ablation": "Ablations",
    "cells": "Decoded cells",
}  # fmt: skip


def head(frame: pd.DataFrame) -> str:
    """Return the title, what is shown, and the controls."""
    runs, spaces = frame.drop_duplicates("run"), space_order(frame)
    counted = f"{len(runs)} runs, {runs['label'].nunique()} methods or variants, spaces {', '.join(spaces)}"
    options = "".join(f"<option>{escape(space)}</option>" for space in spaces)
    links = "".join(
        f'<a href="#{name}">{name}</a>' for name in ("warnings", "figures", "tables", "runs", "environment")
    )
    return (
        f"<h1>Stability of architecture search</h1>\n<p>{escape(counted)}.</p>\n<nav>{links}</nav>\n"
        '<form><label>rows with <input id="filter" type="search" placeholder="words, for example darts s1"></label>'
        f'<label>space <select id="space"><option value="">all</option>{options}</select></label>'
        '<span id="shown" class="quiet" role="status"></span></form>'
    )


def protocol(parts: Parts) -> str:
    said = (_caption.protocol, partial(_caption.lambda_definition, listed=CROWD))
    texts = [text(frame) for frame in parts.values() for text in said]
    return "<h2>Protocol</h2>" + "".join(f"<p>{escape(text)}</p>" for text in texts)


def warnings(parts: Parts, runs: Sequence[Run]) -> str:
    """Return what a reader must know before believing a number."""
    lines = [_of(suffix, "{}: ") + state for suffix, frame in parts.items() for state in _states(frame)]
    lines += [warning for run in runs for warning in run.warnings]
    revisions = {str(run.environment.get("revision")) for run in runs}
    if len(revisions) > 1:
        lines.append(f"The runs come from {len(revisions)} revisions of the code: see the environments.")
    items = "".join(f'<p class="warning">{escape(line)}</p>' for line in lines) or "<p>None.</p>"
    return f'<h2 id="warnings">Warnings</h2>{items}'


def _states(frame: pd.DataFrame) -> list[str]:
    runs = frame.drop_duplicates("run")
    flags = {
        "have not finished": set(runs.loc[~runs["finished"] & ~runs["diverged"], "run"]),
        "have diverged": set(runs.loc[runs["diverged"], "run"]),
        "selected a cell at some epoch that is not in the table (a miss)": set(frame.loc[frame["miss"], "run"]),
        "have a loss that stopped depending on the logits at some epoch (degenerate)": _true(frame, "degenerate"),
        "have a number in their curvature that was not finite": _true(frame, "not_finite"),
        "have no tabulated cell": set(runs["run"]) - set(frame.loc[frame["error_test"].notna(), "run"]),
    }
    of = runs.set_index("run")
    return [
        f"{len(found)} of {len(runs)} runs {what}: {_listed(of.loc[sorted(found)])}."
        for what, found in flags.items() if found
    ]  # fmt: skip


def _true(frame: pd.DataFrame, field: str) -> set[str]:
    column = f"curvature_{field}"
    return set(frame.loc[frame[column].eq(True), "run"]) if column in frame else set()


def _listed(runs: pd.DataFrame) -> str:
    """Return runs as seeds by label and space."""
    found = runs.groupby(["label", "space"], sort=False)["seed"].agg(list).reset_index()
    parts = [
        f"{row['label']} on {row['space']}, seed {', '.join(map(str, row['seed']))}" for _, row in found.iterrows()
    ]
    return "; ".join(parts)


def _of(suffix: str, words: str) -> str:
    """Return words that name a part's dataset; nothing where the part needs no name."""
    return words.format(suffix.removeprefix("-")) if suffix else ""


def drawn(parts: Parts) -> str:
    """Return every figure that the runs have something for: one panel a space above one caption."""
    names = [name for name in figures.FIGURES if name not in figures.ON_REQUEST]
    made = [_figure(name, suffix, frame) for name in names for suffix, frame in parts.items()]
    return '<h2 id="figures">Figures</h2>' + "\n".join(made)


def _figure(name: str, suffix: str, frame: pd.DataFrame) -> str:
    title = escape(NAMES.get(name, name) + _of(suffix, ", {}"))
    try:
        shown = figures.pages(name, frame)
    except ValueError as error:
        return f'<h3>{title}</h3><p class="quiet">Not drawn: {escape(str(error))}.</p>'
    return f"<h3>{title}</h3>" + "\n".join(
        _page_of(name, _of(suffix, ", {}") + (f", {number}" if len(shown) > 1 else ""), part)
        for number, part in enumerate(shown, start=1)
    )


def _page_of(name: str, which: str, frame: pd.DataFrame) -> str:
    panels = [_panel(name, f"{space}{which}", frame[frame["space"] == space]) for space in space_order(frame)]
    return (
        f'<figure><div class="panels">{"".join(panels)}</div>'
        f"<figcaption>{escape(figures.FIGURES[name].caption(frame))}</figcaption></figure>"
    )


def _panel(name: str, which: str, part: pd.DataFrame) -> str:
    """Return one space's figure; nothing where it has nothing to show, which the whole figure's caption says."""
    drawing = figures.FIGURES[name]
    try:
        drawing.caption(part)
    except ValueError:
        return ""
    with context():
        figure = drawing.draw(part, "")
        svg = _page.svg(figure)
    wide = " wide" if figure.get_figwidth() > SINGLE_COLUMN_IN else ""
    (space,) = space_order(part)
    return f'<div class="panel{wide}" data-space="{escape(space)}">{_html.inline(svg, f"{name}, {which}")}</div>'


def tabulated(parts: Parts) -> str:
    """Return the usual tables, those of several datasets, and ablations."""
    made = [_section(*named, suffix) for suffix, frame in parts.items() for named in sheets(DEFAULT, frame).items()]
    together = _datasets.sheets(pd.concat(list(parts.values()), ignore_index=True))
    made += [_section(stem, sheet) for stem, sheet in together.items()]
    for suffix, frame in parts.items():
        if studies(frame):
            made += [_section(*named, suffix) for named in sheets(["ablation"], frame).items()]
    return '<h2 id="tables">Tables</h2>' + "\n".join(made)


def _section(stem: str, sheet: Sheet, suffix: str = "") -> str:
    space, title = stem.rsplit("-", 1)[1], sheet.title + _of(suffix, ", {}")
    return (
        f'<section data-space="{escape(space)}"><h3>{escape(title)}</h3>{_html.table(sheet, stem + suffix)}'
        f'<p class="quiet">{escape(sheet.caption)}</p></section>'
    )


def every_run(parts: Parts) -> str:
    """Return one row a run, with its dataset where there are several parts."""
    frame = pd.concat(list(parts.values()), ignore_index=True)
    datasets = frame.groupby("run")["dataset"].first()
    found = per_run(frame).assign(dataset=lambda runs: runs["run"].map(datasets))
    texts = ("run", "space", *(("dataset",) if len(parts) > 1 else ()), "label")
    found = found.sort_values([*texts[1:], "seed"])
    misses = frame.groupby("run")["miss"].sum()
    header = (*texts[:-1], "method", "seed", "state", "test error %", "test regret %", "best epoch", "final λ",
              "λ of largest magnitude", "misses")  # fmt: skip
    rows = tuple(_run_row(run, texts, int(misses[run["run"]])) for _, run in found.iterrows())
    table = _html.table(Sheet("Runs", header, rows, ""), "all-runs", list(found["space"]))
    return f'<h2 id="runs">Runs</h2>{table}'


def _run_row(run: pd.Series, texts: Sequence[str], misses: int) -> tuple[Cell, ...]:
    cells = [Cell(str(run[name])) for name in texts]
    state = Cell("finished" if run["finished"] else "diverged" if run["diverged"] else "not finished")
    quantities = (("final_error_test", percent), ("final_regret_test", percent), ("best_epoch", whole),
                  ("lambda_final", significant), ("lambda_peak", significant))  # fmt: skip
    numbers = [_number(float(run[name]), digits(float(run[name]))) for name, digits in quantities]
    return (*cells, _number(float(run["seed"]), str(run["seed"])), state, *numbers, _number(float(misses), str(misses)))


def _number(value: float, text: str) -> Cell:
    return Cell("–" if np.isnan(value) else text, (("", float(value)),))


def environments(runs: Sequence[Run]) -> str:
    """Return the distinct environments, most frequent first."""
    counts = Counter(json.dumps(_environment(run), sort_keys=True) for run in runs)
    parts = []
    for text, n in counts.most_common():
        rows = "".join(
            f'<tr><td>{escape(name)}</td><td class="text">{escape(str(value))}</td></tr>'
            for name, value in json.loads(text).items()
        )
        parts.append(f'<h3>{n} run{"s" if n > 1 else ""}</h3><div class="scroll"><table>{rows}</table></div>')
    return '<h2 id="environment">Environment</h2>' + "".join(parts)


def _environment(run: Run) -> dict[str, str]:
    """Return what is not particular to one run."""
    fields = {name: value for name, value in run.environment.items() if name not in {"seeds", "stack", "versions"}}
    versions = run.environment.get("versions") or {}
    return {name: str(value) for name, value in fields.items()} | {
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()) or "not recorded"
    }  # fmt: skip
