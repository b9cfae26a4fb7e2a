"""The numbers that figures draw."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_analysis_study import record, spec, write_run, write_study

from analysis import series
from analysis.intervals import bootstrap_interval
from analysis.load import runs, tidy
from analysis.selection import select

FINITE = st.floats(-1e6, 1e6)


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.fixture
def study(tmp_path: Path) -> pd.DataFrame:
    write_study(tmp_path)
    return select(tidy(runs(tmp_path)), ["s1"])


def rows(frame: pd.DataFrame, label: str) -> pd.DataFrame:
    return frame[frame["label"] == label]


@given(arrays(float, (5, 3), elements=FINITE))
def test_an_interval_contains_its_mean(values: np.ndarray) -> None:
    interval = bootstrap_interval(values, rng(), resamples=50)
    np.testing.assert_allclose(interval.mean, values.mean(axis=0), rtol=1e-9, atol=1e-9)
    assert (interval.low <= interval.mean).all()
    assert (interval.mean <= interval.high).all()


def test_an_interval_agrees_with_the_normal_one_and_shrinks_with_seeds() -> None:
    values = rng().normal(5.0, 2.0, size=(400, 1))
    widths = []
    for seeds in (25, 100, 400):
        interval = bootstrap_interval(values[:seeds], rng())
        width = interval.high - interval.low
        assert width == pytest.approx(2 * 1.96 * values[:seeds].std() / np.sqrt(seeds), rel=0.1)
        widths.append(width[0])
    assert widths[0] > widths[1] > widths[2]


def test_a_wider_level_is_a_wider_interval() -> None:
    values = rng().normal(size=(12, 1))
    narrow, wide = (bootstrap_interval(values, rng(), level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_same_generator_same_interval() -> None:
    values = rng().normal(size=(6, 2))
    first, second, other = (bootstrap_interval(values, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.low, second.low)
    assert (first.low != other.low).any()


def test_missing_values_are_counted_out_and_few_seeds_state_no_interval() -> None:
    values = np.array([[1.0, 1.0, np.nan, 3.0], [2.0, np.inf, np.nan, 4.0], [6.0, 4.0, np.nan, np.nan]])
    interval = bootstrap_interval(values, rng())
    np.testing.assert_array_equal(interval.n, [3, 2, 0, 2])
    np.testing.assert_allclose(interval.mean, [3.0, 2.5, np.nan, 3.5])
    np.testing.assert_array_equal(np.isnan(interval.low), [False, True, True, True])
    np.testing.assert_array_equal(np.isnan(interval.high), [False, True, True, True])


def test_a_trajectory_has_seeds_first_and_gaps(study: pd.DataFrame) -> None:
    path = series.trajectory(rows(study, "darts"), "error_test")
    np.testing.assert_array_equal(path.seeds, [0, 1, 2, 5])
    np.testing.assert_array_equal(path.epochs, [0, 1, 2, 3])
    np.testing.assert_allclose(path.values[2], [0.3, 0.27, 0.24, 0.21])
    np.testing.assert_array_equal(np.isnan(path.values[3]), [False, False, True, True])
    np.testing.assert_array_equal(path.interval().n, [4, 4, 3, 3])


def test_epochs_without_any_value_are_left_out(study: pd.DataFrame) -> None:
    frame = study.assign(lambda_dominant=study["lambda_dominant"].where(study["epoch"] % 2 == 0))
    np.testing.assert_array_equal(series.trajectory(rows(frame, "gdas"), "lambda_dominant").measured().epochs, [0, 2])


def test_permuting_seeds_leaves_the_mean(study: pd.DataFrame) -> None:
    frame = rows(study, "darts")
    renamed = frame.assign(seed=frame["seed"].map({0: 5, 1: 0, 2: 1, 5: 2}))
    first, second = (series.trajectory(part, "regret_test").interval() for part in (frame, renamed))
    np.testing.assert_allclose(first.mean, second.mean, rtol=1e-14)


def test_renaming_methods_permutes_results(study: pd.DataFrame) -> None:
    names = {"darts": "gdas", "gdas": "darts", "random_ws": "random_ws"}
    renamed = study.assign(label=study["label"].map(names))
    for label, other in names.items():
        first = series.trajectory(rows(study, label), "regret_test").interval()
        second = series.trajectory(rows(renamed, other), "regret_test").interval()
        np.testing.assert_array_equal(first.low, second.low)
        np.testing.assert_array_equal(first.mean, second.mean)


def test_distances_are_to_the_last_search_epoch(study: pd.DataFrame) -> None:
    frame = series.with_distances(study)
    run = frame[frame["run"] == "s1-gdas-s2-sig2"]
    np.testing.assert_allclose(run["distance"], np.sqrt(5) * np.array([3, 2, 1, 0]))
    np.testing.assert_allclose(run["distance_relative"], [1, 2 / 3, 1 / 3, 0])
    darts = frame[frame["run"] == "s1-darts-s0-sig0"]
    np.testing.assert_array_equal(darts["distance"].isna(), darts["stage"] == "final")


def test_runs_without_an_end_or_logits_have_no_distance(study: pd.DataFrame) -> None:
    frame = series.with_distances(study)
    assert frame.loc[frame["run"] == "s1-darts-s5-sig5", "distance"].isna().all()
    assert frame.loc[frame["method"] == "random_ws", "distance"].isna().all()


def test_logits_that_never_move_have_no_relative_distance(tmp_path: Path) -> None:
    write_run(tmp_path, spec("s1", "darts", 0), [record(e, logits={"op": [[1.0, 2.0]]}) for e in range(3)])
    frame = series.with_distances(tidy(runs(tmp_path)))
    assert frame["distance"].to_list() == [0, 0, 0]
    assert frame["distance_relative"].isna().all()


def test_logits_that_are_not_finite_have_no_distance() -> None:
    distance = series.logit_distance(np.array([[0.0, 3.0], [np.nan, 1.0], [-np.inf, 0.0], [4.0, 0.0]]))
    np.testing.assert_array_equal(distance, [5.0, np.nan, np.nan, 0.0])


def test_a_selection_shows_where_it_differs_from_the_last_epoch(study: pd.DataFrame) -> None:
    assert series.selection_changed(rows(study, "random_ws"), "error_test")
    assert not series.selection_changed(rows(study, "darts"), "error_test")
    assert not series.selection_changed(rows(study, "gdas"), "error_test")
    np.testing.assert_allclose(series.final_values(rows(study, "random_ws"), "error_test"), [0.25, 0.24, 0.23])


def test_a_mean_path_takes_the_mean_of_both_coordinates() -> None:
    x = np.array([[np.nan, 4.0, 0.0], [np.nan, 2.0, 0.0], [np.nan, 6.0, np.nan]])
    y = np.array([[1.0, 1.0, 5.0], [1.0, 2.0, 5.0], [1.0, 6.0, 5.0]])
    mean = series.mean_path(x, y)
    assert mean is not None
    np.testing.assert_allclose(mean, [[4.0], [3.0]])
    assert series.mean_path(x[:2], y[:2]) is None


@pytest.mark.parametrize(
    ("values", "threshold"),
    [
        ([1.0, 2.0, 20.0, np.nan], None),
        ([-1.0, 2.0, 3.0], None),
        ([0.2, 0.3, -40.0], 1.0),
        ([1e-9, 0.05, 500.0], 0.1),
        ([0.0, np.nan], None),
    ],
)
def test_an_axis_is_logarithmic_when_magnitudes_span(values: list[float], threshold: float | None) -> None:
    assert series.linear_threshold(np.array(values)) == threshold
