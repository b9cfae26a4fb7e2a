"""Shapley-NAS: estimates against exact values of small games, and what an epoch does to the logits."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import labs
import numpy as np
import pytest
import torch

from bench.lab import Lab
from bench.spaces import get
from searchers import _shapley, darts, shapley_nas
from searchers._bilevel import Bilevel
from searchers._optim import ArchSettings
from searchers.base import Choices
from searchers.shapley_nas import Settings

pytestmark = pytest.mark.usefixtures("unchecked")
QUICK = Settings(permutations=2, warm_up=0.0, batch_size=None)
Worth = Callable[[frozenset[int]], float]


def exact(worth: Worth, players: int) -> list[float]:
    """The sum over subsets, with its weights |S|!(n−|S|−1)!/n!."""
    found = []
    for player in range(players):
        others = [p for p in range(players) if p != player]
        subsets = [frozenset(s) for size in range(players) for s in itertools.combinations(others, size)]
        weights = [math.factorial(len(s)) * math.factorial(players - len(s) - 1) for s in subsets]
        gains = [worth(s | {player}) - worth(s) for s in subsets]
        found.append(sum(w * g for w, g in zip(weights, gains, strict=True)) / math.factorial(players))
    return found


def game(worths: list[Worth]) -> _shapley.Game:
    def value(left: np.ndarray) -> np.ndarray:
        return np.array([worth(frozenset(np.flatnonzero(row))) for worth, row in zip(worths, left, strict=True)])

    return value


GAINS = (0.5, -0.2, 0.0, 1.25)


def additive(left: frozenset[int]) -> float:
    return sum(GAINS[player] for player in left)


def entangled(left: frozenset[int]) -> float:
    """A pair that needs each other, a pair that does the same, and a square."""
    return float({0, 1} <= left) + float(bool({1, 2} & left)) + 0.1 * len(left) ** 2


def test_the_mean_over_all_orders_is_the_shapley_value() -> None:
    """Two replicas play two games at once, in different orders."""
    orders = list(itertools.permutations(range(4)))
    pairs = [np.array([one, other]) for one, other in zip(orders, reversed(orders), strict=True)]
    shares = np.stack([_shapley.leave_in_order(game([additive, entangled]), pair, -np.inf) for pair in pairs])
    np.testing.assert_allclose(shares[:, 0], np.tile(GAINS, (24, 1)), atol=1e-12)  # whatever the order
    np.testing.assert_allclose(shares[:, 1].mean(0), exact(entangled, 4), atol=1e-12)
    np.testing.assert_allclose(shares[:, 1].sum(1), entangled(frozenset(range(4))), atol=1e-12)
    assert shares[:, 1].std(0).max() > 0.3
    values = _shapley.cautious(shares)
    np.testing.assert_allclose(values[0], GAINS, atol=1e-12)
    expected = [m - np.sqrt(((shares[:, 1, p] - m) ** 2).mean()) for p, m in enumerate(exact(entangled, 4))]
    np.testing.assert_allclose(values[1], expected, atol=1e-12)


def test_random_orders_come_close() -> None:
    stream = np.random.default_rng(0)
    orders = [np.stack([stream.permutation(4)]) for _ in range(2000)]
    shares = np.stack([_shapley.leave_in_order(game([entangled]), order, -np.inf) for order in orders])
    np.testing.assert_allclose(shares.mean(0)[0], exact(entangled, 4), atol=0.04)


def test_after_the_truncation_nobody_counts() -> None:
    """The one whose leaving crosses the line still does; replicas stop one by one, and then the game is over."""
    asked: list[list[list[int]]] = []
    worths = [lambda left: float(len(left)), lambda left: float(len(left) == 4) * 4]

    def value(left: np.ndarray) -> np.ndarray:
        asked.append([np.flatnonzero(row).tolist() for row in left])
        return game(worths)(left)

    found = _shapley.leave_in_order(value, np.array([[3, 1, 0, 2], [2, 0, 1, 3]]), 0.5)
    np.testing.assert_array_equal(found, [[1, 1, 0, 1], [0, 0, 4, 0]])
    assert asked == [
        [[0, 1, 2, 3], [0, 1, 2, 3]],
        [[0, 1, 2], [0, 1, 3]],
        [[0, 2], []],
        [[2], []],
    ]


def test_standardised_by_table_and_replica() -> None:
    values = np.array([[[1.0, 2.0], [3.0, 6.0]], [[4.0, 4.0], [4.0, 4.0]]])
    values[1, 0, 0] += 1e-14
    found = _shapley.standardised(values)
    np.testing.assert_allclose(found[0], (values[0] - 3) / np.sqrt(3.5))
    np.testing.assert_array_equal(found[1], 0)


def test_what_is_left_out_does_not_count_in_the_standard() -> None:
    values = np.array([[[50.0, 1.0, 2.0], [-70.0, 3.0, 6.0]]])
    found = _shapley.standardised(values, 0)
    np.testing.assert_allclose(found[0, :, 1:], (values[0, :, 1:] - 3) / np.sqrt(3.5))
    np.testing.assert_array_equal(found[0, :, 0], 0)


@pytest.mark.parametrize("none", [False, True])
def test_none_is_no_option_unless_asked(none: bool) -> None:
    """Its value is exactly zero, which mean − deviation puts above what matters in some orders only."""
    lab = labs.make("nb201")
    searcher = shapley_nas.build(replace(QUICK, none=none), lab)
    start = searcher.logits()["op"].clone()
    labs.drive(searcher, lab, 0, 2)
    moved, selected = searcher.logits()["op"] - start, searcher.selected()
    assert selected is not None
    assert (searcher.relax(searcher.logits()).weights["op"][..., 0] > 0).all() == none
    assert (moved[..., 0] != 0).all() == none
    assert (selected["op"][..., 0] < selected["op"][..., 1:].amin(-1)).all() == (not none)
    assert (moved[..., 1:] != 0).any()


def test_an_epoch_is_its_equations_written_out() -> None:
    """Two epochs after a warm-up of one, on the toy space; nothing but the logits moves at the end of an epoch."""
    lab = labs.make()
    searcher = shapley_nas.build(replace(QUICK, warm_up=1 / 3, truncation=0.3), lab)
    start = {name: value.clone() for name, value in searcher.logits().items()}
    mean = {name: torch.zeros_like(value) for name, value in start.items()}
    sizes = {name: value[0].numel() for name, value in start.items()}
    for epoch in range(3):
        searcher.begin_epoch(epoch)
        for batches in labs.steps(lab, searcher.policy, 1):
            losses = searcher.step(batches)
            assert losses.val is None
        expected = {name: value.clone() for name, value in searcher.logits().items()}
        labs.same(labs.leaves(expected), labs.leaves(start) if epoch < 2 else labs.leaves(expected))
        samples = [written_out(searcher, lab, sizes, 2 * epoch + number, 0.3) for number in range(2)]
        if epoch >= 1:
            for name, running in mean.items():
                pair = torch.stack([sample[name] for sample in samples])
                s = pair.mean(0) - ((pair - pair.mean(0)) ** 2).mean(0).sqrt()
                s = (s - s.mean((1, 2), keepdim=True)) / s.std((1, 2), correction=0, keepdim=True).clamp(min=1e-30)
                mean[name] = 0.8 * running + 0.2 * s
                expected[name] += 0.1 * mean[name]
        before = labs.leaves({k: v for k, v in searcher.state_dict().items() if k not in {"logits", "memory"}})
        searcher.end_epoch(epoch)
        labs.same(
            labs.leaves({k: v for k, v in searcher.state_dict().items() if k not in {"logits", "memory"}}), before
        )
        labs.close(labs.leaves(searcher.logits()), labs.leaves(expected), 1e-12)
    assert any((value - start[name]).abs().max() > 1e-3 for name, value in searcher.logits().items())


def written_out(
    searcher: Bilevel, lab: Lab, sizes: dict[str, int], number: int, truncation: float
) -> dict[str, torch.Tensor]:
    """One order of the options of all tables, replica by replica, with plain batches and predictions."""
    players = [(name, i) for name, size in sizes.items() for i in range(size)]
    mixed = {name: value.softmax(-1) for name, value in searcher.logits().items()}
    shares = {name: torch.zeros_like(value) for name, value in mixed.items()}
    (batch,) = lab.feed.evaluation("val", range(number, number + 1))
    for replica, stream in enumerate(lab.stream("shapley", number)):
        order = [players[i] for i in torch.randperm(len(players), generator=stream).tolist()]
        gone = {name: torch.zeros(value[0].numel(), dtype=torch.bool) for name, value in mixed.items()}

        def accuracy(gone: dict[str, torch.Tensor] = gone, replica: int = replica) -> float:
            keep = {name: (~mask).view(mixed[name][0].shape) for name, mask in gone.items()}
            both = {name: torch.stack([mixed[name][replica] * mask] * 2)[None] for name, mask in keep.items()}
            active = {name: np.broadcast_to(mask.numpy(), both[name].shape).copy() for name, mask in keep.items()}
            with torch.no_grad():
                logits = searcher.supernet(batch.images, Choices(both, active))
            return float((logits.argmax(-1) == batch.labels)[replica].double().mean())

        whole = before = accuracy()
        for name, i in order:
            gone[name][i] = True
            after = accuracy()
            shares[name][replica].view(-1)[i] = before - after
            before = after
            if after < truncation * whole:
                break
    return shares


def test_with_a_step_of_zero_the_weights_train_as_in_darts_with_fixed_logits() -> None:
    found = []
    for make in (
        partial(darts.build, darts.Settings(arch=ArchSettings(lr=0.0))),
        partial(shapley_nas.build, replace(QUICK, step=0.0, permutations=1)),
    ):
        lab = labs.make()
        searcher = make(lab)
        labs.drive(searcher, lab, 0, 2)
        found.append(labs.outcome(searcher, []))
    labs.same(*found)


def test_impossible_settings_are_refused() -> None:
    for changes, message in (
        ({"permutations": 0}, "expected at least 1 permutation, got 0"),
        ({"momentum": 1.0}, "expected a momentum in"),
        ({"warm_up": 1.5}, "expected a momentum in"),
    ):
        with pytest.raises(ValueError, match=message):
            Settings(**changes)


def test_players_are_cut_into_tables_in_the_order_of_the_groups() -> None:
    lab = labs.make("s1")
    flat = np.arange(2 * 24).reshape(2, 24)
    tables = shapley_nas.Contributions(QUICK, lab)._tables(flat)
    assert list(tables) == [group.name for group in get("s1").groups]
    np.testing.assert_array_equal(np.concatenate([table.reshape(2, -1) for table in tables.values()], 1), flat)
