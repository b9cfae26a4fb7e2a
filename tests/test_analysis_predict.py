"""Rank correlations of λ with the final regret."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_analysis_study import write_study

from analysis import _correlation, predict

TIED = arrays(float, (7, 3), elements=st.integers(0, 4).map(float))


def rng(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


def study(methods: dict[str, np.ndarray]) -> pd.DataFrame:
    """One row a run: λ level, regret and entropy of each method, "seeds 3"; the other measures have no values."""
    parts = []
    for label, values in methods.items():
        part = pd.DataFrame(values, columns=["lambda_level", predict.OUTCOME, predict.GIVEN])
        parts.append(part.assign(space="s1", label=label, finished=True))
    frame = pd.concat(parts, ignore_index=True)
    return frame.assign(**{name: np.nan for name in predict.MEASURES if name not in frame})


def only(found: list[predict.Prediction], scope: str, statistic: str = "Spearman") -> predict.Prediction:
    (one,) = [p for p in found if (p.scope, p.statistic, p.measure) == (scope, statistic, "lambda_level")]
    return one


@given(TIED)
def test_rank_correlations_are_scipys(runs: np.ndarray) -> None:
    if np.ptp(runs[:, 0]) == 0 or np.ptp(runs[:, 1]) == 0:
        assert np.isnan(predict.spearman(runs))
        assert np.isnan(predict.kendall(runs))
        return
    assert predict.spearman(runs) == pytest.approx(scipy.stats.spearmanr(runs[:, 0], runs[:, 1]).statistic)
    assert predict.kendall(runs) == pytest.approx(scipy.stats.kendalltau(runs[:, 0], runs[:, 1]).statistic)


@pytest.mark.parametrize("statistic", ["Spearman", "Kendall", "partial Spearman", "partial Kendall"])
def test_draws_are_computed_at_once(statistic: str) -> None:
    draws = rng().normal(size=(5, 9, 3))
    correlation, _ = predict.STATISTICS[statistic]
    np.testing.assert_allclose(correlation(draws), [correlation(draw) for draw in draws])


def test_a_partial_correlation_is_that_of_the_residuals() -> None:
    runs = rng().normal(size=(40, 3))
    runs[:, :2] += 2 * runs[:, 2:]
    ranks = scipy.stats.rankdata(runs, axis=0)
    left = [ranks[:, i] - np.polyval(np.polyfit(ranks[:, 2], ranks[:, i], 1), ranks[:, 2]) for i in (0, 1)]
    assert predict.partial(runs, predict.spearman) == pytest.approx(np.corrcoef(left)[0, 1])
    assert abs(predict.partial(runs, predict.spearman)) < 0.4 < predict.spearman(runs)


def test_many_runs_have_the_same_kendall(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = rng().integers(0, 5, size=(3, 30, 2)).astype(float)
    few = predict.kendall(draws)
    monkeypatch.setattr(_correlation, "MANY_RUNS", 29)
    np.testing.assert_allclose(predict.kendall(draws), few)


def test_runs_that_have_not_finished_are_left_out() -> None:
    frame = study({"a": rng().normal(size=(8, 3))})
    frame.loc[:2, "finished"] = False
    assert only(predict.predictions(frame, rng()), "a").n == 5


def test_without_a_run_that_has_finished_nothing_is_said() -> None:
    frame = study({"a": rng().normal(size=(8, 3))}).assign(finished=False)
    with pytest.raises(ValueError, match="expected runs that have finished, got none"):
        predict.predictions(frame, rng())


def test_two_seeds_of_a_method_have_no_interval() -> None:
    few, enough = ({name: rng().normal(size=(n, 3)) for name in "abc"} for n in (2, 3))
    one, other = (only(predict.predictions(study(runs), rng()), "all runs") for runs in (few, enough))
    assert np.isfinite([one.value, other.value, other.low, other.high]).all()
    assert np.isnan([one.low, one.high]).all()


def test_three_seeds_have_no_partial_correlation() -> None:
    """It is 1 or −1 whatever they are; four have one."""
    three, four = ({name: rng().normal(size=(n, 3)) for name in "abcd"} for n in (3, 4))
    for scope in ("a", "within"):
        one, other = (only(predict.predictions(study(r), rng()), scope, "partial Spearman") for r in (three, four))
        assert np.isnan(one.value)
        assert np.isfinite(other.value)
        assert "nothing is stated below 4" in one.note


def test_a_method_of_four_seeds_has_no_interval_of_its_own() -> None:
    four, five = ({"a": rng().normal(size=(n, 3))} for n in (4, 5))
    one, other = (only(predict.predictions(study(runs), rng()), "a") for runs in (four, five))
    assert np.isfinite([one.value, other.value, other.low, other.high]).all()
    assert np.isnan([one.low, one.high]).all()
    assert one.note == "4 seeds: no interval below 5"


def test_within_counts_the_runs_that_it_averages() -> None:
    methods = {"a": rng().normal(size=(5, 3)), "flat": np.ones((5, 3))}
    assert only(predict.predictions(study(methods), rng()), "within").n == 5


def test_nothing_is_left_given_itself() -> None:
    runs = rng().normal(size=(9, 2))
    assert np.isnan(predict.partial(np.column_stack([runs, runs[:, 0]]), predict.spearman))


def test_within_and_between_may_disagree() -> None:
    """Larger λ goes with less regret in each method, and with more between methods."""
    steps = np.arange(6.0)
    methods = {
        name: np.column_stack([10.0 * place + steps, 10.0 * place - steps, rng(place).normal(size=6)])
        for place, name in enumerate("abcd")
    }
    found = predict.predictions(study(methods), rng())
    assert only(found, "a").value == pytest.approx(-1)
    assert only(found, "within").value == pytest.approx(-1)
    assert only(found, "between").value == pytest.approx(1)
    assert only(found, "all runs").value > 0.8
    assert (only(found, "within").n, only(found, "between").n, only(found, "all runs", "Kendall").n) == (24, 4, 24)
    for one in found:
        assert math.isnan(one.value) or one.low <= one.value <= one.high


def test_between_is_of_the_methods_means() -> None:
    """The first seeds of the methods say the opposite of their means."""
    regrets = ([9.0, 0.0, 0.0], [5.0, 5.0, 5.0], [0.0, 9.0, 9.0])
    methods = {name: np.column_stack([np.full(3, float(i)), regrets[i], np.zeros(3)]) for i, name in enumerate("abc")}
    assert only(predict.predictions(study(methods), rng()), "between").value == pytest.approx(1)


def test_within_weighs_methods_by_their_seeds() -> None:
    rise, fall = np.arange(9.0), np.arange(3.0)
    methods = {"a": np.column_stack([rise, rise, rise**0]), "b": np.column_stack([fall, -fall, fall**0])}
    found = predict.predictions(study(methods), rng())
    assert only(found, "within").value == pytest.approx((9 - 3) / 12)
    assert only(found, "between").note == "2: nothing is stated below 3"


def test_an_interval_covers_the_correlation_and_shrinks() -> None:
    normal = rng().multivariate_normal([0, 0, 0], [[1, 0.6, 0], [0.6, 1, 0], [0, 0, 1]], size=80)
    widths = []
    for seeds in (15, 80):
        one = only(predict.predictions(study({"a": normal[:seeds]}), rng()), "a")
        assert one.low < 6 / np.pi * math.asin(0.3) < one.high
        widths.append(one.high - one.low)
    assert widths[1] < widths[0] / 1.6


def test_too_few_runs_and_constants_say_why() -> None:
    found = predict.predictions(study({"a": np.ones((5, 3)), "b": np.full((2, 3), np.nan)}), rng())
    assert only(found, "a").note == "a quantity does not vary, or has the ranks of another"
    empty = study({"a": rng().normal(size=(2, 3))})
    assert only(predict.predictions(empty, rng()), "a").note == "2: nothing is stated below 3"


def test_same_generator_same_interval() -> None:
    frame = study({"a": rng().normal(size=(8, 3))})
    first, second, other = (only(predict.predictions(frame, rng(seed)), "a") for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_the_command_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(tmp_path)
    out = tmp_path / "out"
    assert predict.main(["--results", str(tmp_path), "--out", str(out), "--space", "s1"]) == 0
    printed = capsys.readouterr().out
    assert (out / "predict.md").read_text() == printed
    assert "| λ | statistic | within | between | all runs |" in printed
    assert "| Spearman, over the seeds of | lambda_level |" in printed
    assert "\n| gdas | " in printed
    assert pd.read_csv(out / "predict.csv")["scope"].nunique() == 5


def test_the_command_refuses_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict.main(["--results", str(tmp_path)]) == 2
    assert "analysis.predict: no runs with records under" in capsys.readouterr().err
