"""The figures with one column of panels a space, by name, and what stands below them."""

import numpy as np
import pandas as pd

from analysis import _caption, _landscape, _panels, _relations
from analysis._columns import Kind
from analysis.intervals import FEWEST_SEEDS
from analysis.selection import one_per_run
from analysis.series import selection_changed, with_distances
from analysis.stability import COLUMNS, per_run
from analysis.style import CROWD


def eigenvalue_caption(frame: pd.DataFrame) -> str:
    missing = _caption.without(
        frame, "lambda_dominant", lambda rows: _caption.first_given(rows, "no_curvature", "not measured")
    )
    return _caption.joined(
        _caption.lambda_definition(frame),
        _caption.protocol(frame),
        _caption.lines(frame, _caption.BAND),
        f"Without λ: {missing}." if missing else "",
    )


def legacy_caption(frame: pd.DataFrame) -> str:
    missing = _caption.without(frame, "lambda_legacy", lambda _: "not measured")
    return _caption.joined(
        "What earlier papers plotted: absolute value of the algebraically largest eigenvalue of one augmented batch's "
        "Hessian plus architecture weight decay. It is not the dominant eigenvalue of the other figures.",
        "(others): read from others' logs, at their own protocols." if _foreign(frame) else "",
        _caption.losses(frame),
        _caption.protocol(frame),
        _caption.lines(frame, _caption.BAND),
        f"Not drawn: {missing}." if missing else "",
    )


def _foreign(frame: pd.DataFrame) -> bool:
    return bool(frame["label"].str.endswith(" (others)").any())


def regret_caption(frame: pd.DataFrame) -> str:
    missing = _caption.without(
        frame, "error_test", lambda rows: _caption.first_given(rows, "no_genotype", "no cell in the table")
    )
    return _caption.joined(
        "Top: best mean test accuracy in the table minus that of the discretised cell; bottom: its test error.",
        "Crosses: the cell of at least one seed is not in the table." if frame["miss"].any() else "",
        "Markers right of the last epoch: what was selected at the end." if _any_selected(frame) else "",
        _caption.protocol(frame),
        _caption.lines(frame, _caption.BAND),
        f"Without a tabulated cell: {missing}." if missing else "",
    )


def _any_selected(frame: pd.DataFrame) -> bool:
    return any(selection_changed(rows, "error_test") for _, rows in frame.groupby(["space", "label"]))


def distance_caption(frame: pd.DataFrame) -> str:
    missing = _caption.without(frame, "distance", _why_no_distance)
    still = _caption.without(frame[frame["distance"].notna()], "distance_relative", lambda _: "did not move")
    return _caption.joined(
        "Mean training loss of an epoch against the Euclidean distance of the architecture logits at its end, α(t), to "
        "those at the end of the search, α(T); middle: relative to the distance before the first step; bottom: of the "
        "mixing weights, p. Markers: epoch 1.",
        _caption.protocol(frame),
        _caption.lines(frame, "thick lines: mean of distance and loss by epoch"),
        "" if frame["finished"].all() else "Only finished runs are drawn.",
        f"Not drawn: {missing}." if missing else "",
        f"Not in the middle row: {still}." if still else "",
    )


def _why_no_distance(rows: pd.DataFrame) -> str:
    if rows["logits"].isna().all():
        return "no architecture logits"
    return "logits not finite" if rows["finished"].any() else "not finished"


def with_outcome(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row a run with the columns of `stability.per_run`, and `lambda_and_regret`, NaN unless both exist."""
    heads = one_per_run(frame).drop(columns=[name for name in COLUMNS if name in frame])
    found = heads.merge(per_run(frame)[["run", *COLUMNS]], on="run")
    both = np.isfinite(found["lambda_final"].astype(float)) & np.isfinite(found["final_regret_test"].astype(float))
    return found.assign(lambda_and_regret=found["lambda_final"].where(both))


def scatter_caption(found: pd.DataFrame) -> str:
    missing = _caption.without(found, "lambda_and_regret", _why_no_pair)
    means, few = _stated(found, "lambda_and_regret")
    return _caption.joined(
        f"Each {'small ' if means else ''}marker is a run: test regret of the cell selected at the end against λ of "
        "the last epoch that has one.",
        "Large markers with lines: mean over seeds and 95 % bootstrap interval of both." if means else "",
        _caption.lambda_definition(found, listed=CROWD),
        _caption.protocol(found),
        f"With fewer than {FEWEST_SEEDS} seeds neither a mean nor an interval is drawn." if few else "",
        f"Not drawn: {missing}." if missing else "",
    )


def _why_no_pair(rows: pd.DataFrame) -> str:
    if rows["lambda_final"].isna().all():
        return "no λ"
    return "no cell in the table" if rows["final_regret_test"].isna().all() else "no run has both"


def _stated(found: pd.DataFrame, column: str) -> tuple[bool, bool]:
    """Return whether some method has enough seeds with a value for an interval, and whether some has too few."""
    drawn = found.dropna(subset=column)
    counts = drawn.groupby(["space", "label"])["seed"].nunique()
    return bool((counts >= FEWEST_SEEDS).any()), bool((counts < FEWEST_SEEDS).any())


def profile_caption(found: pd.DataFrame) -> str:
    missing = _caption.without(found, "final_regret_test", lambda _: "no cell in the table")
    bands, few = _stated(found, "final_regret_test")
    return _caption.joined(
        "Performance profile: share of a method's seeds whose selected cell has at most the test regret on the "
        "horizontal axis; higher is better.",
        "Bands: 95 % bootstrap interval over seeds, at each regret on its own." if bands else "",
        _caption.protocol(found),
        f"With fewer than {FEWEST_SEEDS} seeds no interval is drawn." if few else "",
        f"Not drawn: {missing}." if missing else "",
    )


def landscape_caption(found: pd.DataFrame) -> str:
    missing = _caption.without(
        found, "landscape", lambda rows: _caption.first_given(rows, "no_landscape", "not measured")
    )
    means, few = _stated(found, "landscape")
    return _caption.joined(
        "Validation loss on the probe after the last epoch, at fixed weights and logits α + t·v, minus that at t = 0; "
        "top: v is the eigenvector of λ, bottom: the mean over random unit directions; none of them in the null space "
        "of the softmax.",
        f"Thin lines: seeds; {_caption.BAND} over seeds." if means else "Lines: seeds.",
        _caption.losses(found),
        _caption.protocol(found),
        f"With fewer than {FEWEST_SEEDS} seeds neither a mean nor an interval is drawn." if few else "",
        f"Not drawn: {missing}." if missing else "",
    )


KINDS = {
    "eigenvalues": Kind(("λ (signed)",), "lambda_dominant", _panels.eigenvalues, eigenvalue_caption),
    "lambda_legacy": Kind(("λ as earlier papers",), "lambda_legacy", _panels.legacy, legacy_caption),
    "regret": Kind(
        ("test regret", "test error"), "error_test", _panels.regret, regret_caption, tuple(_panels.REFERENCES)
    ),
    "alpha_distance": Kind(
        3 * ("training loss (nats)",), "distance", _panels.alpha_distance, distance_caption, prepare=with_distances
    ),
    "landscape": Kind(
        _landscape.TITLES, "landscape", _landscape.slices,
        landscape_caption, prepare=_landscape.with_slices, marked=lambda _: False,
    ),
    "lambda_regret": Kind(
        ("final test regret",), "lambda_and_regret", _relations.lambda_regret, scatter_caption, prepare=with_outcome,
        marked=lambda _: True,
    ),
    "profile": Kind(
        ("share of seeds",), "final_regret_test", _relations.profile, profile_caption, ("random cell",), with_outcome,
        marked=lambda _: False,
    ),
}  # fmt: skip
