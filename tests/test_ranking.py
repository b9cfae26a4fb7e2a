"""Sampling cells and ranking them, with an evaluation whose answers are known."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import labs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from bench import spaces
from bench.lab import Lab
from searchers._ranking import KHot, RankingSettings, as_choices, rank, sample_cells
from searchers.base import (
    Batch,
    Choices,
    DataPolicy,
    Evaluation,
    Group,
    Horizon,
    StepBatches,
    Supernet,
    SupernetOptions,
)

DRAWS = 6000
EVEN = 1e-3  # the smallest p-value taken as even; the seed is fixed


def combinations(group: Group) -> list[tuple[int, ...]]:
    return list(itertools.combinations(range(len(group.options)), group.keep))


def kept(row: np.ndarray) -> tuple[int, ...]:
    return tuple(np.flatnonzero(row).tolist())


@pytest.mark.parametrize("space", ["s1", "s2", "s3", "nb201", "toy"])
def test_every_combination_of_every_row_is_equally_likely(space: str) -> None:
    groups = spaces.get(space).groups
    hot = sample_cells(groups, (labs.rng(5),), DRAWS // 4)
    for group in groups:
        for decision in range(group.decisions):
            counts = Counter(kept(row) for row in hot[group.name][:, 0, decision])
            assert set(counts) == set(combinations(group)), group.name
            assert chisquare(list(counts.values())).pvalue > EVEN, (group.name, decision)


def test_rows_are_independent_of_each_other() -> None:
    hot = sample_cells(spaces.get("s2").groups, (labs.rng(6),), DRAWS)
    last = [kept(row) for row in hot["in_4"][:, 0, 0]]
    pairs = zip(hot["op"][:, 0, 0].argmax(-1), hot["op"][:, 0, 3].argmax(-1), last, strict=True)
    counts = Counter(pairs)
    assert len(counts) == 3 * 3 * 6
    assert chisquare(list(counts.values())).pvalue > EVEN


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_rows_have_exactly_as_many_ones_as_are_kept(data: st.DataObject) -> None:
    groups = []
    for number in range(data.draw(st.integers(1, 3))):
        options = data.draw(st.integers(1, 5))
        keep = data.draw(st.integers(1, options))
        groups.append(Group(f"g{number}", data.draw(st.integers(1, 3)), tuple("abcde"[:options]), keep=keep))
    cells, seeds = data.draw(st.integers(1, 3)), data.draw(st.lists(st.integers(0, 99), min_size=1, max_size=3))
    hot = sample_cells(groups, [labs.rng(seed) for seed in seeds], cells)
    for group in groups:
        values = hot[group.name]
        assert values.shape == (cells, len(seeds), *group.shape)
        assert set(np.unique(values)) <= {0.0, 1.0}
        assert (values.sum(-1) == group.keep).all()
    alone = [sample_cells(groups, (labs.rng(seed),), cells) for seed in seeds]
    for name, values in hot.items():
        np.testing.assert_array_equal(values, np.concatenate([one[name] for one in alone], 1))


def test_choices_compute_what_is_kept_with_weight_one() -> None:
    hot = sample_cells(spaces.get("s1").groups, (labs.rng(1), labs.rng(2)), 3)
    for dtype in (torch.float32, torch.float64):
        choices = as_choices(hot, torch.zeros(1, dtype=dtype))
        assert choices.active is not None
        for name, values in hot.items():
            assert choices.weights[name].dtype == dtype
            np.testing.assert_array_equal(choices.weights[name].numpy(), values)
            np.testing.assert_array_equal(choices.active[name], values == 1)


@dataclass
class KnownLab:
    """A laboratory whose evaluations come from a function of (cell, range of batches), and are remembered."""

    lab: Lab
    accuracy: Callable[[Choices, range | None], list[float]]
    asked: list[range | None] = field(default_factory=list)
    device: torch.device = labs.CPU
    dtype: torch.dtype = torch.float64
    curvature_replicas: int | None = None
    groups: tuple[Group, ...] = ()
    replicas: int = 0
    horizon: Horizon = field(default_factory=lambda: Horizon(labs.EPOCHS))

    def __post_init__(self) -> None:
        self.groups, self.replicas = self.lab.groups, self.lab.replicas

    def build(self, options: SupernetOptions) -> Supernet:
        return self.lab.build(options)

    def stream(self, name: str, step: int) -> tuple[torch.Generator, ...]:
        return self.lab.stream(name, step)

    def served(self, policy: DataPolicy, epoch: int) -> Iterator[StepBatches]:
        raise NotImplementedError

    def probe(self) -> Batch:
        raise NotImplementedError

    def evaluate(self, network: Supernet, choices: Choices, split: str, batches: range | None) -> Evaluation:
        assert split == "val"
        assert choices.active is not None
        self.asked.append(batches)
        values = torch.tensor(self.accuracy(choices, batches), dtype=torch.float64)
        return Evaluation(values, -values)


def numbered(replicas: int) -> Callable[[int], KHot]:
    """Candidate i of replica r is cell number (5·i + 7·r) mod 18 of the toy space, written as k-hot tables."""
    cells = list(itertools.product(range(3), range(3), range(2)))

    def sample(i: int) -> KHot:
        hot = {
            "op": np.zeros((1, replicas, 2, 3)),
            "in_2": np.zeros((1, replicas, 1, 2)),
            "out": np.ones((1, replicas, 1, 3)),
        }
        hot["out"][..., 0] = 0
        for r in range(replicas):
            first, second, parent = cells[(5 * i + 7 * r) % 18]
            hot["op"][0, r, 0, first] = hot["op"][0, r, 1, second] = hot["in_2"][0, r, 0, parent] = 1
        return hot

    return sample


def number(choices: Choices) -> list[int]:
    """The numbers of the cells of every replica."""
    op, parent = choices.weights["op"][0].argmax(-1), choices.weights["in_2"][0, :, 0].argmax(-1)
    return (6 * op[:, 0] + 2 * op[:, 1] + parent).tolist()


def selected_numbers(scores: dict[str, torch.Tensor]) -> list[int]:
    return number(Choices({name: values[None] for name, values in scores.items()}))


def ranked(
    accuracy: Callable[[Choices, range | None], list[float]], chosen: RankingSettings, replicas: int = 2
) -> tuple[list[int], np.ndarray, KnownLab]:
    known = KnownLab(labs.make("toy", tuple(range(replicas))), accuracy)
    scores, accuracies = rank(known.build(SupernetOptions()), known, numbered(replicas), chosen)
    for group in known.groups:
        assert scores[group.name].shape == (replicas, *group.shape)
        assert scores[group.name].dtype == torch.float64
    return selected_numbers(scores), accuracies, known


def test_the_best_cell_is_found_for_every_replica() -> None:
    def accuracy(choices: Choices, _batches: range | None) -> list[float]:
        return [1 - abs(n - best) / 18 for n, best in zip(number(choices), (11, 4, 0), strict=True)]

    best, accuracies, _ = ranked(accuracy, RankingSettings(18, 1, 3), 3)
    assert best == [11, 4, 0]
    assert accuracies.shape == (3, 18)
    for replica, wanted in enumerate((11, 4, 0)):
        order = [(5 * i + 7 * replica) % 18 for i in range(18)]
        np.testing.assert_allclose(accuracies[replica], [1 - abs(n - wanted) / 18 for n in order])


def test_finalists_are_ranked_again_on_the_whole_half_and_nobody_else_is() -> None:
    """On few batches 17 > 16 > 15 > …; on the whole half 15 beats 17 and 16, and 3, the best, never gets there."""

    def accuracy(choices: Choices, batches: range | None) -> list[float]:
        whole = {3: 0.99, 15: 0.8, 17: 0.5, 16: 0.6}
        return [whole.get(n, 0.1) if batches is None else n / 20 for n in number(choices)]

    best, _, known = ranked(accuracy, RankingSettings(18, 2, 3))
    assert best == [15, 15]
    assert known.asked[18:] == [None] * 3
    assert ranked(accuracy, RankingSettings(18, 2, 1))[0] == [17, 17]
    assert ranked(accuracy, RankingSettings(18, 2, 15))[0] == [3, 3]
    assert ranked(accuracy, RankingSettings(18, 2, 99))[0] == [3, 3]


def test_every_candidate_sees_batches_of_its_own() -> None:
    _, _, known = ranked(lambda choices, _b: [0.5] * 2, RankingSettings(5, 10, 2))
    assert known.asked == [*(range(10 * i, 10 * i + 10) for i in range(5)), None, None]


def test_ties_go_to_the_first() -> None:
    best, _, _ = ranked(lambda choices, _b: [0.5] * 2, RankingSettings(18, 1, 5))
    assert best == [0, 7]  # candidate 0 of either replica

    def few(choices: Choices, batches: range | None) -> list[float]:
        return [0.5 if batches is None or n in {10, 15, 13} else 0.2 for n in number(choices)]

    # Candidates come as 0 5 10 15 …; for replica 1 as 7 12 17 4 9 14 1 6 11 16 3 8 13 0 5 10 15.
    assert ranked(few, RankingSettings(18, 1, 3))[0] == [10, 13]
    assert ranked(few, RankingSettings(18, 1, 2))[0] == [10, 13]


def test_defaults_are_those_of_nas_bench_1shot1() -> None:
    assert RankingSettings() == RankingSettings(candidates=1000, batches=10, finalists=5, every_epoch=True)
