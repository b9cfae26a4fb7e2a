"""The figure of ablations: what a setting does to λ and to regret, one column of panels a setting and space."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import _caption, _page, _panels
from analysis.intervals import FEWEST_SEEDS, bootstrap_interval
from analysis.selection import space_order
from analysis.series import generator, linear_threshold
from analysis.stability import per_run
from analysis.style import MEAN_PT, Style, styles

CONTROLS = ("ms_null", "sdarts_rs_matched", "sdarts_rs", "darts")
"""Methods drawn as horizontal lines beside an ablation: what it is to be compared with (docs/ms_darts.md)."""
UPRIGHT = 4
"""Up to so many values of a setting stand side by side below a narrow panel."""
ROWS = (("lambda_final", "λ at the end (signed)"), ("final_regret_test", "final test regret"))


@dataclass(frozen=True)
class Study:
    """A setting of a method that takes several numbers in one space; `field` is a column of the tidy table."""

    space: str
    method: str
    field: str

    @property
    def setting(self) -> str:
        return self.field.removeprefix("settings.")


def studies(frame: pd.DataFrame) -> list[Study]:
    """Return every numeric setting of which some method has several values in some space."""
    found = []
    for space in space_order(frame):
        for method, rows in frame[frame["space"] == space].groupby("method"):
            fields = sorted(name for name in rows.columns if name.startswith("settings."))
            numbers = [name for name in fields if _varies(rows[name])]
            found += [Study(space, str(method), name) for name in numbers if len(varying(rows, name))]
    return found


def _varies(values: pd.Series) -> bool:
    present = values.dropna()
    return present.nunique() > 1 and bool(pd.to_numeric(present, errors="coerce").notna().all())


def varying(own: pd.DataFrame, field: str) -> pd.DataFrame:
    """Return the runs of a method in which a setting takes several values while all others are alike.

    Runs made to ablate another setting are left out. Where one combination of the others is left, labels name the
    setting alone.
    """
    heads = own.drop_duplicates("run").set_index("run")
    others = [name for name in heads.columns if name.startswith("settings.") and name != field]
    keys = heads[others].fillna("").astype(str).agg("|".join, axis="columns") if others else pd.Series("", heads.index)
    kept = heads.index[heads.groupby(keys)[field].transform("nunique") > 1]
    found = own[own["run"].isin(kept)]
    if keys[kept].nunique() != 1:
        return found
    return found.assign(label=found["method"] + f"[{field.removeprefix('settings.')}=" + found[field] + "]")


def caption(frame: pd.DataFrame) -> str:
    """Return what stands below the figure.

    Raises:
        ValueError: no setting takes several values.
    """
    found = _studies(frame)
    here = frame[frame["space"].isin([study.space for study in found])]
    shown = here[here["label"].isin([label for study in found for label in _labels(study, here)])]
    own = shown[shown["method"].isin([study.method for study in found])]
    counts = own.groupby(["space", "label"])["seed"].nunique()
    interval = " with its 95 % bootstrap interval" if counts.max() >= FEWEST_SEEDS else ""
    names = ", ".join(dict.fromkeys(f"{study.setting} of {study.method}" for study in found))
    controls = set(shown["label"]) & set(CONTROLS)
    return _caption.joined(
        f"What the setting {names} does: mean over seeds{interval}; small markers: seeds.",
        "Horizontal lines: mean of methods without that setting." if controls else "",
        _caption.lambda_definition(shown),
        _caption.protocol(shown),
        f"With fewer than {FEWEST_SEEDS} seeds no interval is drawn." if counts.min() < FEWEST_SEEDS else "",
    )


def _studies(frame: pd.DataFrame) -> list[Study]:
    found = studies(frame)
    if not found:
        raise ValueError(
            "no method has runs with several values of a numeric setting; "
            "python -m bench.run --set method.setting=a,b,c makes them"
        )
    return found


def _labels(study: Study, frame: pd.DataFrame) -> list[str]:
    """Return the labels a study shows: the method's own, then controls."""
    part = frame[frame["space"] == study.space]
    controls = [name for name in CONTROLS if name != study.method]
    wanted = part["method"].eq(study.method) | part["label"].isin(controls)
    return list(dict.fromkeys(part.loc[wanted, "label"]))


def draw(frame: pd.DataFrame, text: str) -> Figure:
    """Return the figure above a text."""
    found = _studies(frame)
    present = set(frame["label"])
    look = styles([study.method for study in found] + [name for name in CONTROLS if name in present])
    handles = [_panels.handle(name, style) for name, style in look.items()]
    made = _page.page(len(ROWS), len(found), [str(handle.get_label()) for handle in handles], text)
    for study, axes in zip(found, made.axes.T, strict=True):
        axes[0].set_title(f"{study.space}: {study.method}")
        for ax, (column, name) in zip(axes, ROWS, strict=True):
            _panels.name(ax, study.setting, name)
            _panel(ax, study, frame, column, look)
    return _page.finish(made, handles)


def _panel(ax: Axes, study: Study, frame: pd.DataFrame, column: str, look: _panels.Styles) -> None:
    """Draw a quantity of every run against the setting, by combination of the method's other settings."""
    part = frame[frame["space"] == study.space]
    own = varying(part[part["method"] == study.method], study.field)
    values = own.drop_duplicates("run").set_index("run")[study.field].astype(float)
    outcome = per_run(part).set_index("run")
    others = [other.field for other in studies(own) if other.field != study.field]
    keys = own.drop_duplicates("run").set_index("run")[others].astype(str).agg(", ".join, axis="columns")
    for _, runs in keys.groupby(keys) if others else [("", values)]:
        x = values.loc[runs.index].to_numpy(np.float64)
        _draw_line(ax, x, outcome.loc[runs.index, column].to_numpy(np.float64), look[study.method])
    for label in set(_labels(study, frame)) & set(look) - {study.method}:
        mean = outcome.loc[outcome["label"] == label, column].mean()
        ax.axhline(mean, color=look[label].colour, linestyle=look[label].line, linewidth=0.9, zorder=1)
    if values.min() > 0 and values.max() / values.min() >= 10:
        ax.set_xscale("log")
        ax.set_xticks(values.unique(), [f"{value:g}" for value in values.unique()], minor=False)
        ax.minorticks_off()
    if values.nunique() > UPRIGHT:
        ax.tick_params(axis="x", rotation=60)
    _panels.scale(ax, linear_threshold(outcome[column].to_numpy(np.float64)))


def _draw_line(ax: Axes, x: Float[np.ndarray, " runs"], y: Float[np.ndarray, " runs"], style: Style) -> None:
    places = np.unique(x[np.isfinite(y)])
    parts = [bootstrap_interval(y[x == place], generator()) for place in places]
    mean, low, high = (np.array([getattr(part, name) for part in parts]) for name in ("mean", "low", "high"))
    ax.plot(x, y, style.marker, color=style.colour, markersize=2.2, alpha=0.5, markeredgewidth=0)
    ax.plot(places, mean, color=style.colour, linestyle=style.line, linewidth=MEAN_PT, marker=style.marker, ms=3.5)
    ax.fill_between(places, low, high, color=style.colour, alpha=_panels.BAND_ALPHA, linewidth=0)
