"""Estimates with intervals, comparisons and profiles."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from analysis import stats

SCORES = st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=8).map(np.array)


def rng(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_aggregates_by_hand() -> None:
    tasks = [np.array([0.0, 2.0, 4.0, 90.0]), np.array([10.0, 20.0])]
    assert stats.mean(tasks) == pytest.approx((24 + 15) / 2)
    assert stats.median(tasks) == pytest.approx((24 + 15) / 2)
    assert stats.median(tasks[:1]) == 3
    assert stats.interquartile_mean(tasks) == pytest.approx((2 + 4 + 10 + 20) / 4)
    assert stats.interquartile_mean(tasks[:1]) == 3


@pytest.mark.parametrize("name", stats.AGGREGATES)
@given(tasks=st.lists(SCORES, min_size=1, max_size=2))
def test_an_interval_contains_its_estimate(name: str, tasks: list[np.ndarray]) -> None:
    found = stats.estimate(tasks, stats.AGGREGATES[name], rng())
    assert found.low <= found.value <= found.high
    assert min(map(np.min, tasks)) - 1e-9 <= found.low
    assert found.high <= max(map(np.max, tasks)) + 1e-9


def test_an_interval_is_about_normal_and_the_seeds_of_a_task_stay_in_it() -> None:
    tasks = [rng(1).normal(0, 1, 100), rng(2).normal(1000, 1, 400)]
    found = stats.estimate(tasks, stats.mean, rng())
    error = math.hypot(tasks[0].std() / 10, tasks[1].std() / 20) / 2
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_same_generator_same_interval() -> None:
    tasks = [rng().normal(size=6)]
    first, second, other = (stats.estimate(tasks, stats.mean, rng(seed)) for seed in (1, 1, 2))
    assert first == second
    assert first.low != other.low


@pytest.mark.parametrize("statistic", stats.AGGREGATES.values())
def test_too_few_seeds_say_so(statistic: stats.Statistic) -> None:
    found = stats.estimate([np.array([1.0, 2.0, np.nan]), np.arange(5.0)], statistic, rng())
    assert math.isfinite(found.value)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert (found.n, found.note) == (7, "2 seeds: no interval below 3")
    assert "(2 seeds: no interval below 3)" in str(found)


def test_no_scores_at_all_are_no_number() -> None:
    found = stats.estimate([np.array([np.nan])], stats.mean, rng())
    assert math.isnan(found.value)
    assert found.note == "0 seeds: no interval below 3"


@given(st.lists(st.integers(0, 3), min_size=3, max_size=7), st.lists(st.integers(0, 3), min_size=3, max_size=7))
def test_the_probability_of_improvement_is_mann_whitneys(one: list[int], other: list[int]) -> None:
    first, second = np.array(one, float), np.array(other, float)
    found = stats.probability_of_improvement([first], [second], rng())
    u = scipy.stats.mannwhitneyu(-first, -second, method="asymptotic").statistic if len({*one, *other}) > 1 else None
    expected = 0.5 if u is None else u / (len(one) * len(other))
    assert found.value == pytest.approx(expected)
    back = stats.probability_of_improvement([second], [first], rng())
    assert found.value + back.value == pytest.approx(1)


def test_the_probability_of_improvement_is_a_mean_over_tasks() -> None:
    low, high = np.arange(3.0), np.arange(10.0, 13.0)
    assert stats.probability_of_improvement([low, low], [high, high], rng()).value == 1
    assert stats.probability_of_improvement([low, high], [high, low], rng()).value == 0.5
    with pytest.raises(ValueError, match="same tasks for both methods, got 1 and 2"):
        stats.probability_of_improvement([low], [high, low], rng())


def test_a_profile_is_the_share_at_most_a_threshold() -> None:
    tasks = [np.array([0.0, 0.1, 0.2, 0.3]), np.array([0.1, 0.1, 0.5])]
    found = stats.performance_profile(tasks, np.array([-1.0, 0.1, 1.0]), rng())
    np.testing.assert_allclose(found.mean, [0, (2 / 4 + 2 / 3) / 2, 1])
    assert (found.low <= found.mean).all()
    assert (found.high >= found.mean).all()
    assert found.low[1] < found.high[1]
    thin = stats.performance_profile([tasks[0][:2]], np.array([0.0, 1.0]), rng())
    np.testing.assert_allclose(thin.mean, [0.5, 1])
    assert np.isnan(thin.low).all()
    assert np.isnan(stats.performance_profile([np.array([])], np.array([0.0]), rng()).mean).all()


def test_methods_are_paired_by_seed() -> None:
    spread = dict(enumerate(rng().normal(0, 5, size=10)))
    scores = {"a": spread, "b": {seed: value + 0.1 + 0.001 * seed for seed, value in spread.items()}, "c": {0: 1.0}}
    ab, ac, bc = stats.paired_differences(scores, rng())
    assert (ab.first, ab.second, ab.difference.n) == ("a", "b", 10)
    assert ab.difference.value == pytest.approx(-0.1045)
    assert ab.difference.high < 0
    assert ab.p == pytest.approx(2 / 2**10)
    assert ab.p_holm == ab.p
    assert math.isnan(ac.p)
    assert math.isnan(bc.p_holm)
    assert ac.difference.note == "1 seeds: no interval below 3"


def test_a_reference_is_compared_with_every_other() -> None:
    scores = {name: dict(enumerate(rng(seed).normal(size=4))) for seed, name in enumerate("abc")}
    found = stats.paired_differences(scores, rng(), reference="b")
    assert [(one.first, one.second) for one in found] == [("a", "b"), ("c", "b")]
    with pytest.raises(ValueError, match="no method 'd' to compare with; there are a, b, c"):
        stats.paired_differences(scores, rng(), reference="d")


def test_equal_seeds_are_no_evidence() -> None:
    assert stats.sign_flip(np.zeros(5), rng()) == 1
    assert stats.relabelled(np.full(5, 0.3), np.full(5, 0.3), rng()) == 1
    assert math.isnan(stats.sign_flip(np.zeros(2), rng()))
    assert math.isnan(stats.relabelled(np.zeros(2), np.zeros(5), rng()))


def test_independent_seeds_are_relabelled() -> None:
    assert stats.relabelled(np.arange(4.0), np.arange(10.0, 14.0), rng()) == pytest.approx(2 / 70)


@given(st.lists(st.floats(-9, 9).map(lambda x: round(x, 1)), min_size=4, max_size=4), st.integers(0, 3))
def test_permutation_tests_count_all_ways(values: list[float], shift: int) -> None:
    first, second = np.array(values), np.array([0.5, 1.5, -2.0]) + shift

    both = np.concatenate([first, second])

    def difference(chosen: tuple[int, ...]) -> float:
        return abs(both[list(chosen)].mean() - np.delete(both, chosen).mean())

    ways = [difference(chosen) for chosen in itertools.combinations(range(7), 4)]
    wanted = np.mean(np.array(ways) >= difference((0, 1, 2, 3)) - 1e-9)
    assert stats.relabelled(first, second, rng()) == pytest.approx(wanted)
    flips = [np.dot(signs, first) for signs in itertools.product([-1, 1], repeat=4)]
    expected = np.mean(np.abs(flips) >= abs(first.sum()) - 1e-9)
    assert stats.sign_flip(first, rng()) == pytest.approx(expected)


def test_drawn_permutations_come_near_all_of_them() -> None:
    first, second = rng(1).normal(0, 1, 7), rng(2).normal(1, 1, 6)
    every, drawn = (stats.relabelled(first, second, rng(), n) for n in (1716, 1715))
    assert every != drawn
    assert drawn == pytest.approx(every, abs=0.03)
    every, drawn = (stats.sign_flip(second, rng(), n) for n in (64, 63))
    assert every != drawn
    assert drawn == pytest.approx(every, abs=0.2)


def test_a_permutation_test_keeps_its_level() -> None:
    p = [stats.relabelled(*rng(seed).standard_t(2, size=(2, 5)), rng()) for seed in range(150)]
    assert np.mean(np.array(p) <= 0.05) <= 0.08
    assert np.mean(np.array(p) <= 0.5) == pytest.approx(0.5, abs=0.1)


def test_holms_example() -> None:
    corrected = stats.holm(np.array([0.01, np.nan, 0.04, 0.03, 0.005]))
    np.testing.assert_allclose(corrected, [0.03, np.nan, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6).map(np.array))
def test_holm_lies_between_none_and_bonferroni(p: np.ndarray) -> None:
    corrected = stats.holm(p)
    assert (corrected >= p).all()
    assert (corrected <= np.minimum(1, p * len(p)) + 1e-15).all()


def test_a_drawn_p_value_counts_the_observed_draw() -> None:
    assert stats.sign_flip(np.ones(30), rng(), 99) == 1 / 100
    assert stats.relabelled(np.zeros(20), np.ones(20), rng(), 99) == 1 / 100
